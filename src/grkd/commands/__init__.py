"""One file per command: SUMMARY, DESCRIPTION, `declare` (its arguments) and `run` (its exit status).

A command imports what it needs in `run`: `grkd --help` must not wait for PyTorch.
"""

from importlib import import_module

# In the order of the help.
_BEFORE_A_RUN = ("init", "doctor", "plan", "run", "compare", "demo", "methods")
_AFTER_A_RUN = ("report", "watch", "groups", "eval", "table", "verify", "export", "push", "recipes", "schema", "cache")

COMMANDS = {name: import_module(f"grkd.commands.{name}") for name in (*_BEFORE_A_RUN, *_AFTER_A_RUN)}
