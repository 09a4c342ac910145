"""What every figure of a page has: its text, its size, and labels that fit."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

WIDTH_INCHES = 4.0


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure; `caption` is its own, `note` is the same for its whole section and told there once."""

    title: str
    caption: str
    note: str
    svg: str
    section: Literal["verdict", "results", "training"]


def rows(axes: Any, names: Sequence[str]) -> None:
    """A named row per model, from the bottom up, without lines of its own."""
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.tick_params(axis="y", length=0, pad=8)  # a marker on the edge of the axis must not cover a name
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def short(label: str) -> str:
    """A label that leaves room for the figure itself, and that matplotlib does not hide (a leading underscore)."""
    text = label if len(label) <= 22 else f"{label[:21]}…"
    return f"\u200b{text}" if text.startswith("_") else text


def wrapped(text: str, characters: int) -> str:
    """An axis label in at most three lines of so many characters."""
    return "\n".join(textwrap.wrap(text, characters, max_lines=3, placeholder=" …", break_on_hyphens=False))
