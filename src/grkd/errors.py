"""The error that means: the user can fix this."""

import difflib
from collections.abc import Iterable

_LONGEST = 380  # characters; `grkd: error: ` stands before them


def one_line(message: str) -> str:
    """A message as one line of fewer than 400 characters: its beginning and its end, where a long value is between."""
    words = " ".join(message.split())
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 160]} ... {words[-150:]}"


def nearest(word: str, known: Iterable[str], *, at_least: float = 0.6) -> str | None:
    """The known word that `word` was probably meant to be (`at_least`: difflib's likeness, 0 to 1)."""
    near = difflib.get_close_matches(word[:100], list(known), n=1, cutoff=at_least)
    return near[0] if near else None


def meant(word: str, known: Iterable[str]) -> str:
    """ " (did you mean 'tau'?)" or nothing. The word itself, which may be among them twice, is no advice."""
    near = nearest(word, (one for one in known if one != word))
    return f" (did you mean {near!r}?)" if near else ""


class UserError(ValueError):
    """A mistake in a recipe, a file or a command; its text is one short line that says what to change.

    The command prints it without a traceback and exits with status 2.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))
