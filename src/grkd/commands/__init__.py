"""One file per command: SUMMARY, DESCRIPTION, `declare` (its arguments) and `run` (its exit status).

A command imports what it needs in `run`: `grkd --help` must not wait for PyTorch.
"""

import argparse
from collections.abc import Callable

from grkd.commands import (
    cache,
    compare,
    demo,
    doctor,
    evaluate,
    export,
    groups,
    init,
    methods,
    plan,
    push,
    recipes,
    report,
    run,
    schema,
    table,
    verify,
    watch,
)

Run = Callable[[argparse.Namespace], int]

COMMANDS = {
    "init": init,
    "doctor": doctor,
    "plan": plan,
    "run": run,
    "compare": compare,
    "demo": demo,
    "methods": methods,
    "report": report,
    "watch": watch,
    "groups": groups,
    "eval": evaluate,
    "table": table,
    "verify": verify,
    "export": export,
    "push": push,
    "recipes": recipes,
    "schema": schema,
    "cache": cache,
}
