"""The page in a real browser: wide, phone and dark, nothing wider than the screen, no word broken, by keyboard."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grkd.data.held_out_groups import HELD_OUT
from grkd.reports import read_run, write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs a Chromium on the PATH")
    with found.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page_file(make_run: Callable[..., Path]) -> Path:
    """A run with samples and a group of long responses."""
    folder = make_run(task="language_model", samples=[{"prompt": "2 + 2?", "answers": {"grkd": "4" * 300}}])
    swapped = [-2.0, -1.0]  # marked in words for screen readers, on a phone beyond the edge of the table
    for name, student in (
        ("before", swapped),
        ("grkd-seed0", [-1.0, -2.0]),
        ("kd-seed0", swapped),
        ("z-seed0", swapped),
    ):
        lines = [
            {
                "id": "heldout/0",
                "prompt": "What is 2 + 2?",
                "responses": ["4" * 200, "a long answer " * 20],
                "scores": [1.0, 0.0],
                "by_ranker": [("verifier", [1.0, 0.0])],
                "student": student,
            }
        ]
        (folder / "evaluate" / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(lines, schema=HELD_OUT), folder / "evaluate" / name / "groups.parquet")
    write_page([read_run(folder)], folder / "report.html")
    return folder / "report.html"


# Of every header cell: is a word of it wider than the cell, or broken into lines?
BROKEN_WORDS = """() => [...document.querySelectorAll("thead th")].filter(cell => {
  const range = document.createRange(), text = cell.firstChild;
  if (!text || text.nodeType !== 3) return false;
  return [...text.data.matchAll(/[a-z_-]{3,}/gi)].some(word => {
    range.setStart(text, word.index); range.setEnd(text, word.index + word[0].replace(/-.*/, "").length);
    return range.getClientRects().length > 1;
  });
}).map(cell => cell.textContent)"""


# In every figure: texts that cross each other, marks (what has a model's colour) that cross a text, and what sticks out
# of the figure's card; a pixel is let go. Hidden folds have no boxes.
MISPLACED = """() => [...document.querySelectorAll("figure svg")].flatMap(svg => {
  const boxed = one => [one.textContent.trim() || one.tagName, one.getBoundingClientRect()];
  const texts = [...svg.querySelectorAll("text")].map(boxed);
  const coloured = ["method", "before", "teacher"].map(name => `[style*="--${name}"]`).join();
  const marks = [...svg.querySelectorAll(coloured)].filter(one => !one.closest("defs")).map(boxed);
  const frame = svg.closest("figure").getBoundingClientRect();
  const cross = ([, a], [, b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  const out = ([, a]) => a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 ||
    a.bottom > frame.bottom + 1;
  if (!texts.length || !marks.length) return ["a figure without texts or marks"];
  return [
    ...texts.flatMap((one, at) => texts.slice(at + 1).filter(other => cross(one, other)).map(o => [one[0], o[0]])),
    ...marks.flatMap(one => texts.filter(text => cross(one, text)).map(text => [one[0], text[0]])),
    ...[...texts, ...marks].filter(out).map(([name]) => [name, "outside"]),
  ].map(pair => pair.join(" / "));
})"""
# On paper nothing can be opened: folds show what is in them, a heading stays with what follows, dots keep their colour.
ON_PAPER = """() => [
  ...[...document.querySelectorAll("details > :not(summary)")].filter(one => !one.matches(".hint, .finder") &&
    !one.getBoundingClientRect().height).map(one => "closed: " + one.className),
  ...[...document.querySelectorAll("h2, h3, h4, .lead, summary")].filter(one =>
    getComputedStyle(one).breakAfter !== "avoid").map(one => "stranded: " + one.textContent),
  ...[...document.querySelectorAll(".dot")].filter(one => getComputedStyle(one).printColorAdjust !== "exact"),
]"""


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (390, "dark")])
def test_looks(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(BROKEN_WORDS) == []
    box = page.locator(".response").nth(1).bounding_box()  # under the header's cell: a response, on a phone too
    assert 0 <= box["x"] < box["x"] + box["width"] <= width
    assert box["width"] > 200
    dark = "rgb(15, 18, 22)"
    assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == dark) == (scheme == "dark")
    assert page.evaluate(MISPLACED) == []
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 without its margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert page.evaluate(ON_PAPER) == []
    assert said == []
    page.close()


def test_many_methods_with_long_names_do_not_overprint(browser: Any, make_run: Callable[..., Path]) -> None:
    labels = [f"grkd-with-a-long-label-{number}" for number in range(9)]
    rows = [
        {"method": label, "seed": seed, "metric": metric, "value": 0.5 + 0.0001 * place + 0.00002 * seed}
        for place, label in enumerate(labels)
        for seed in range(3)
        for metric in ("accuracy", "nll_nats", "brier")
    ]
    folder = make_run(rows=[*rows, {"method": "before", "metric": "accuracy", "value": 0.0}])
    (folder / "evaluate" / "kd-seed0").mkdir(parents=True)
    counts = {"names": ["a class of a very long name", "dog"], "pairs": [[0, 0, 4], [1, 0, 1], [1, 1, 1]]}
    (folder / "evaluate" / "kd-seed0" / "confusion.json").write_text(json.dumps(counts))
    write_page([read_run(folder)], folder / "report.html")
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto((folder / "report.html").as_uri())
    assert page.evaluate(MISPLACED) == []
    assert page.evaluate(BROKEN_WORDS) == []
    hints = "[...document.querySelectorAll('.hint')].map(hint => !hint.hidden)"
    assert page.evaluate(hints)[0]  # nine methods and three metrics on a phone: the table says that it scrolls
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 without its margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert page.evaluate(ON_PAPER) == []
    page.close()


def test_groups_are_found_by_words_and_by_what_became_of_them(browser: Any, page_file: Path) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    assert page.is_visible(".finder")  # the policy let our script run
    page.fill(".finder input", "LONG answer")
    assert page.is_visible("details.group")
    page.fill(".finder input", "nowhere")
    assert not page.is_visible("details.group")
    assert page.text_content(".finder output") == "0 of 1 shown"
    page.fill(".finder input", "")
    page.select_option(".finder select", "better")
    assert page.is_visible("details.group")
    page.select_option(".finder select", "worse")
    assert not page.is_visible("details.group")
    page.close()


def test_a_page_that_is_loaded_again_keeps_filter_and_place(browser: Any, page_file: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 300}, reduced_motion="reduce")  # scrolls at once
    page.goto(page_file.as_uri())
    folds = "[...document.querySelectorAll('details')].map(one => one.open)"
    page.select_option(".finder select", "worse")
    page.evaluate("document.querySelector('details').open = !document.querySelector('details').open")
    page.fill(".finder input", "LONG")
    page.evaluate("scrollTo({top: 240, behavior: 'instant'})")
    opened = page.evaluate(folds)
    page.goto("about:blank")
    page.goto(page_file.as_uri())  # without what a browser keeps by itself when it reloads
    assert page.input_value(".finder input") == "LONG"
    assert page.input_value(".finder select") == "worse"
    assert not page.is_visible("details.group")  # the filter is at work
    assert page.evaluate("document.activeElement === document.querySelector('.finder input')")
    assert page.evaluate("scrollY") == 240
    assert page.evaluate(folds) == opened
    page.close()


def test_by_keyboard(browser: Any, page_file: Path) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    opened = page.evaluate("document.querySelector('details.group').open")
    page.focus("details.group summary")
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('details.group').open") is not opened
    page.close()
