import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

from grkd import cli
from grkd.reports import Run, read_run, write_page
from grkd.reports._curves import smoothed
from grkd.reports._drawing import Drawing
from grkd.reports.evaluations import read_evaluations
from grkd.reports.figures import draw, palette
from grkd.reports.page import _section
from grkd.reports.paper_table import paper_table
from grkd.reports.table_formats import shown
from grkd.reports.tables import DASH

MakeRun = Callable[..., Path]
VOID = {"meta", "br", "hr", "img", "input", "link", "path", "use", "rect", "circle", "line"}
ATTACK = "<script>alert('x')</script><img src=http://evil.example/x>"


class Page(HTMLParser):
    """Checks that tags balance; keeps ids, references, tags and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: Counter[str] = Counter()
        self.roles: list[dict[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                self.references.append(value or "")
            self.references += re.findall(r"url\((.*?)\)", value or "")
        if tag == "svg":
            self.roles.append(dict(attrs))


def own_script_alone(text: str) -> None:
    """The one script is ours, and the page's policy allows no other."""
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script == (files("grkd.reports") / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.findall('http-equiv="Content-Security-Policy" content="(.*?)"', text)
    assert policy == [
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    ]
    assert text.count("<script") == 1
    assert not re.search(r"\son\w+=", re.sub(r"<pre.*?</pre>|<script>.*?</script>", "", text, flags=re.DOTALL))


def page_of(runs: list[Run], path: Path) -> tuple[str, Page]:
    write_page(runs, path)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_page_of_several_runs(make_run: MakeRun, tmp_path: Path) -> None:
    samples = [{"prompt": "2 + 2?", "answers": {"grkd": "4", "before": "", "teacher": "four"}}]
    runs = [read_run(make_run("a")), read_run(make_run("b", task="language_model", samples=samples, title="LM run"))]
    text, page = page_of(runs, tmp_path / "report.html")
    assert len(page.ids) == len(set(page.ids)), "ids clash between the figures of a page"
    assert page.references
    for reference in page.references:
        assert reference.startswith("#"), f"loads {reference}"
        assert reference[1:] in page.ids, f"points nowhere: {reference}"
    assert "@import" not in text
    own_script_alone(text)
    assert not page.tags["img"]
    assert not page.tags["link"]
    words = " ".join(page.words)
    for expected in ("LM run", "grkd run recipes/digits.yaml", "2026-11-21 20:54", "torch 2.11.0", "94.87", "four"):
        assert expected in words
    assert words.index("four") < words.index("empty answer")
    assert re.search(r"prompts dropped too long\s*3", " ".join(words.split()))
    # a: differences, accuracy; loss, two terms, alpha, gradient norm. b: differences, two metrics and the same five.
    assert page.tags["svg"] == 7 + 8
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in page.roles)
    assert any("grkd 94.87 %" in (attributes["aria-label"] or "") for attributes in page.roles)


def test_model_output_is_escaped_everywhere(make_run: MakeRun, tmp_path: Path) -> None:
    samples = [{"prompt": ATTACK, "answers": {"teacher": ATTACK, "grkd": "\ud83d half", ATTACK: "x"}}]
    folder = make_run(
        task="language_model", samples=samples, title=ATTACK, status={f"{ATTACK}-seed0": f"failed: {ATTACK}"}
    )
    (folder / "environment.json").write_text(json.dumps({"command": ATTACK, "cpu": ATTACK, "date": ATTACK}))
    (folder / "recipe.yaml").write_text((folder / "recipe.yaml").read_text() + f"# {ATTACK}\n")
    rows = json.loads((folder / "results.json").read_text())
    rows["rows"].append({"method": ATTACK, "seed": 0, "metric": "kendall_tau", "value": 0.4})
    rows["counts"][ATTACK] = 1
    (folder / "results.json").write_text(json.dumps(rows))
    text, page = page_of([read_run(folder)], tmp_path / "report.html")
    own_script_alone(text)
    assert not page.tags["img"]
    assert "&lt;script&gt;alert(" in text
    assert " ".join(page.words).count(ATTACK) >= 7


@pytest.mark.parametrize("gone", ["results.json", "environment.json", "recipe.yaml", "train"])
def test_page_of_an_unfinished_run_says_what_is_missing(make_run: MakeRun, tmp_path: Path, gone: str) -> None:
    folder = make_run()
    (folder / gone).rename(tmp_path / "elsewhere")
    _, page = page_of([read_run(folder)], tmp_path / "report.html")
    told = " ".join(" ".join(page.words).split())
    assert f"Not available, so not shown: {'train/*/metrics.jsonl' if gone == 'train' else gone}" in told
    assert ("No results yet." in told) == (gone == "results.json")
    assert page.tags["svg"] == {"results.json": 5, "train": 2}.get(gone, 7)


def test_failed_trainings_are_listed(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run(status={"kd-seed1": "failed: loss is NaN at step 40"})
    _, page = page_of([read_run(folder)], tmp_path / "report.html")
    assert "kd-seed1: loss is NaN at step 40" in page.words


def test_missing_values_are_dashes(make_run: MakeRun, tmp_path: Path) -> None:
    rows = [{"method": "kd", "seed": 0, "metric": "accuracy", "value": float("nan")}]
    text, page = page_of([read_run(make_run(rows=rows))], tmp_path / "report.html")
    assert DASH in [word.strip() for word in page.words]
    assert "nan" not in text[text.index("<body") :].lower()


def test_benchmarks_are_a_section_of_the_page(make_run: MakeRun, tmp_path: Path) -> None:
    folders = []
    for label, win_rate, score in (("student", 42.0, 6.5), (ATTACK, 41.0, 7.125)):
        folder = tmp_path / f"evaluation{len(folders)}"
        folder.mkdir()
        tasks = {
            "alpaca_eval": {"metrics": {"win_rate": {"value": win_rate}}, "judge": ATTACK},
            "mt_bench": {"metrics": {"score": {"value": score}}},
        }
        (folder / "evaluation.json").write_text(json.dumps({"model": "m", "generator": label, "tasks": tasks}))
        folders.append(str(folder))
    path = tmp_path / "report.html"
    run = str(make_run())
    assert cli.main(["report", run, "--output", str(path), "--evaluations", *folders, "--paper", "gemma2"]) == 0
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    words = [word.strip() for word in page.words]
    assert "#evaluations" in page.references
    assert "evaluations" in page.ids
    place = words.index(ATTACK)
    assert [word for word in words[place + 1 :] if word][:5] == [DASH, "41.00 (\u22121.00)", DASH, "7.12 (+0.62)", DASH]
    printed = paper_table(read_evaluations(folders), paper="gemma2")
    for row in printed.rows:
        assert row.label in words
        assert all(cell in words for cell in shown(row))
    assert all(note in words for note in printed.notes)
    assert any("alpaca_eval was judged by" in word and ATTACK in word for word in words)
    own_script_alone(text)
    assert not page.tags["img"]


def test_a_page_without_evaluations_has_no_such_section(make_run: MakeRun, tmp_path: Path) -> None:
    run, path = str(make_run()), tmp_path / "report.html"
    assert cli.main(["report", run, "--output", str(path)]) == 0
    assert "evaluations" not in Page(path.read_text(encoding="utf-8")).ids


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--paper", "gemma2"], "--evaluations"), (["--evaluations", "absent"], "absent: no such folder")],
)
def test_mistakes_about_evaluations_leave_no_page(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    path = tmp_path / "report.html"
    assert cli.main(["report", str(make_run()), "--output", str(path), *more]) == 2
    assert said in capsys.readouterr().err
    assert not path.exists()


def test_same_input_same_bytes(make_run: MakeRun, tmp_path: Path) -> None:
    run = read_run(make_run(task="language_model"))
    write_page([run], tmp_path / "one.html")
    write_page([run], tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_method_keeps_its_colour_in_every_run_and_figure(make_run: MakeRun) -> None:
    runs = [read_run(make_run("a", rows=[])), read_run(make_run("b", task="language_model", rows=[]))]
    places = palette(runs)
    assert places == {"ce": 0, "kd": 1, "grkd": 2}
    alphas = [next(one for one in draw(run, places=places) if one.title == "Alpha") for run in runs]
    for drawing in alphas:
        assert "var(--method-2)" in drawing.svg
        assert "var(--method-1)" not in drawing.svg


def test_figures_hold_text_and_page_colours_only(make_run: MakeRun) -> None:
    for drawing in draw(read_run(make_run()), prefix="p"):
        axes = ("training progress (%)", "accuracy (%), higher is better", "right is better")
        assert any(text in drawing.svg for text in axes)
        assert not re.search(r"#[0-9a-f]{6}\b(?![^<]*clip)", drawing.svg.replace('href="#', "")), drawing.title
        assert "<style" not in drawing.svg
        assert all(name.startswith("p-") for name in re.findall(r'\bid="([^"]*)"', drawing.svg))


def test_labels_are_never_read_as_mathematics(make_run: MakeRun) -> None:
    folder = make_run(rows=[{"method": "a$b$_{c}", "seed": 0, "metric": "accuracy", "value": 0.5}])
    (folder / "train").rename(folder / "elsewhere")
    (drawing,) = draw(read_run(folder))
    assert "a$b$_{c}" in drawing.svg


def test_a_long_label_is_cut_in_figures_and_told_in_full(make_run: MakeRun) -> None:
    label = "_" + "long" * 40
    folder = make_run(rows=[{"method": label, "seed": 0, "metric": "accuracy", "value": 0.5}])
    (folder / "train").rename(folder / "elsewhere")
    (drawing,) = draw(read_run(folder))
    assert "_longlonglonglonglong…" in drawing.svg
    assert drawing.svg.count(label) == 1


def test_smoothing_neither_lags_nor_moves_a_line() -> None:
    line = [(float(place), 2.0 * place + 1) for place in range(50)]
    for found, expected in zip(smoothed(line, share=0.2), line, strict=True):
        assert found == pytest.approx(expected)
    spike = [(float(place), float(place == 25)) for place in range(51)]
    values = [value for _, value in smoothed(spike, share=0.1)]  # 0.1 of 51 points: 3 on either side
    assert values == pytest.approx([1 / 7 if 22 <= place <= 28 else 0.0 for place in range(51)])


def test_a_note_that_another_holds_is_told_once() -> None:
    notes = ("Bars: an interval. Dashed line: kd.", "Dashed line: kd.", "Dashed line: kd.", "")
    drawings = [Drawing(title="a", caption="", note=note, svg="<svg/>", section="results") for note in notes]
    assert _section("Results", drawings)["notes"] == [notes[0]]
