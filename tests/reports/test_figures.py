"""Figures that can be read: ticks of nearly equal values, labels of any length inside their card."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grkd.reports import read_run, write_page
from grkd.reports.figures import draw

MakeRun = Callable[..., Path]
CHARACTER = 0.56  # mean width of a character in font sizes; common sans-serif fonts have 0.5


def rows_of(values: dict[str, list[float]], metric: str = "accuracy") -> list[dict[str, Any]]:
    return [
        {"method": method, "seed": seed, "metric": metric, "value": value}
        for method, found in values.items()
        for seed, value in enumerate(found)
    ]


def texts(svg: str) -> list[str]:
    return re.findall(r">([^<>\n]+)</text>", svg)


@pytest.mark.parametrize(
    "values", [[0.9123456, 0.9123457], [0.9123456, 0.9123456], [0.91234, 0.91238], [1234.5678, 1234.5679]]
)
def test_ticks_of_nearly_equal_values_are_plain_numbers(make_run: MakeRun, values: list[float]) -> None:
    metric = "accuracy" if values[0] < 1 else "zest"
    run = read_run(make_run(rows=rows_of({"kd": values, "grkd": values[::-1]}, metric)))
    (drawing,) = (one for one in draw(run) if one.section == "results")
    found = [text for text in texts(drawing.svg) if re.fullmatch(r"[\u2212+\d.e]+", text)]
    assert not any("e" in text or text.startswith("+") for text in found), found  # no offset such as +9.1234e1
    assert 2 <= len(set(found)) == len(found)
    assert max(map(len, found)) <= 10
    shown = [float(text.replace("\u2212", "-")) for text in found]
    scale = 100 if metric == "accuracy" else 1
    assert min(shown) <= scale * values[0] <= max(shown) + (shown[1] - shown[0])


def beyond_the_sides(svg: str) -> float:
    """How far a text reaches beyond the sides of a figure, in points; texts that stand upright are left out."""
    width = float(svg.split('viewBox="0 0 ')[1].split()[0])
    worst = 0.0
    for attributes, text in re.findall(r"<text ([^>]*)>([^<]*)<", svg):
        place = re.search(r'(?: x="|translate\()([\d.]+)', attributes)
        assert place is not None, attributes
        if "rotate(-90" in attributes:
            continue
        size = re.search(r"font-size: ([\d.]+)", attributes)
        assert size is not None, attributes
        long, at = CHARACTER * float(size[1]) * len(text), float(place[1])
        start = at - long / 2 if "middle" in attributes else at - long if "anchor: end" in attributes else at
        worst = max(worst, -start, start + long - width)
    return worst


def test_a_wide_logarithmic_axis_has_room_for_its_ticks(make_run: MakeRun) -> None:
    folder = make_run()
    path = folder / "train" / "grkd-seed0" / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"step": n, "progress": n / 4, "loss_nats": 1.0, "gradient_norm": 5e-5 * 20**n} for n in range(4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (drawing,) = (one for one in draw(read_run(folder)) if one.title == "Gradient norm")
    powers = [text for text in texts(drawing.svg) if re.fullmatch(r"[\d.e\u2212-]+", text) and float(text) < 1]
    assert 2 <= len(powers) <= 6, powers


@pytest.mark.parametrize("metric", ["accuracy", "a_metric_" + "of_a_very_long_name_" * 6])
def test_long_labels_stay_inside_the_figure(make_run: MakeRun, metric: str) -> None:
    labels = [f"{name}-with-{'a-very-' * 25}long-label" for name in ("kd", "grkd", "dist")]
    folder = make_run(rows=rows_of({label: [0.5, 0.6, 0.7] for label in labels}, metric))
    for path in list((folder / "train").iterdir()):
        label, seed = path.name.rsplit("-", 1)
        new = f"{label}-with-{'a-very-' * 25}long-label-{seed}"
        path.rename(path.with_name(new))
    for drawing in draw(read_run(folder)):
        assert beyond_the_sides(drawing.svg) <= 6, drawing.title


def test_titles_of_any_length_break_inside_their_card(make_run: MakeRun, tmp_path: Path) -> None:
    metric = "m" * 200
    write_page([read_run(make_run(rows=rows_of({"kd": [0.5], "grkd": [0.6]}, metric)))], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for selector in ("h4", "thead th", ".outcome p", "nav a", ".notes", "figcaption"):
        rule = re.search(rf"^{re.escape(selector)} {{([^}}]*)}}", page, re.MULTILINE)
        assert rule is not None, selector
        assert "overflow-wrap: anywhere" in rule[1], selector


def test_what_depends_on_the_architecture_alone_has_no_figure(make_run: MakeRun) -> None:
    same, other = {"kd": [1.5, 1.5], "grkd": [1.5, 1.5]}, {"kd": [1.0, 2.0], "grkd": [1.0, 2.0]}
    rows = [*rows_of(same, "model_mb"), *rows_of(other, "query_ms")]
    titles = [one.title for one in draw(read_run(make_run(rows=rows)))]
    assert "Time per query" in titles
    assert "Model" not in titles
