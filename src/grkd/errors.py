"""The error that means: the user can fix this."""

_LONGEST = 380  # characters; `grkd: error: ` stands before them


def one_line(message: str) -> str:
    """A message as one line of fewer than 400 characters: its beginning and its end, where a long value is between."""
    words = " ".join(message.split())
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 160]} ... {words[-150:]}"


class UserError(ValueError):
    """A mistake in a recipe, a file or a command; its text is one short line that says what to change.

    The command prints it without a traceback and exits with status 2.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))
