"""The error that means: the user can fix this."""


class UserError(ValueError):
    """A mistake in a recipe, a file or a command; its text is one line that says what to change.

    The command prints it without a traceback and exits with status 2.
    """
