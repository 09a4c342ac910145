"""matplotlib figures as SVG for a page: colours are CSS variables, ids are unique, text stays text."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from grkd.reports.results import BEFORE, TEACHER

# matplotlib knows no CSS variables: it draws in these stand-ins, which `inline` replaces.
INK, GRID, _BEFORE, _TEACHER = "#010101", "#020202", "#030303", "#040404"
_CSS = {INK: "var(--figure-ink)", GRID: "var(--figure-grid)", _BEFORE: "var(--before)", _TEACHER: "var(--teacher)"}
COLOURS = 6  # methods after these use the colours again, with another dash
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
_MARKERS = ("o", "s", "D", "^", "v", "P")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "grkd",
    "text.parse_math": False,  # labels are data, "$" included
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
}


@contextmanager
def style() -> Iterator[None]:
    """The report's look, whatever the user's own matplotlib settings are; they come back afterwards."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser's font may well have it
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def colour_of(label: str, places: Mapping[str, int]) -> str:
    """The stand-in colour of a label."""
    if label in (BEFORE, TEACHER):
        return _BEFORE if label == BEFORE else _TEACHER
    return f"#0500{places[label] % COLOURS:02x}"


def variable_of(label: str, places: Mapping[str, int]) -> str:
    """The CSS variable of a label's colour."""
    return f"--{label}" if label in (BEFORE, TEACHER) else f"--method-{places[label] % COLOURS}"


def dash_of(label: str, places: Mapping[str, int]) -> Any:
    return _DASHES[places[label] // COLOURS % len(_DASHES)]


def marker_of(label: str, places: Mapping[str, int]) -> str:
    return "o" if label in (BEFORE, TEACHER) else _MARKERS[places[label] % len(_MARKERS)]


def inline(figure: Figure, description: str) -> str:
    """A figure as an <svg> element for HTML, `description` read aloud in its place."""
    stream = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Its style sheet would reach the whole page: the same two properties go on the root element.
    text = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    size = re.search(r'viewBox="([^"]*)"', text)
    assert size is not None, "an SVG without a viewBox"
    root = (
        f'<svg viewBox="{size[1]}" role="img" aria-label="{escape(" ".join(description.split()))}" '
        'style="stroke-linejoin: round; stroke-linecap: butt" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'xmlns="http://www.w3.org/2000/svg">'
    )
    text = re.sub(r"<svg\b[^>]*>", lambda _: root, text, count=1)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)  # the family is the page's
    for stand_in, variable in _CSS.items():
        text = text.replace(stand_in, variable)
    return re.sub(r"#0500(\w\w)", lambda match: f"var(--method-{int(match[1], 16)})", text)


def unique(svg: str, prefix: str) -> str:
    """Every id, and every reference to one, with a prefix: matplotlib numbers each figure from 1."""
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}", svg)
    return re.sub(r'href="#', f'href="#{prefix}', svg)
