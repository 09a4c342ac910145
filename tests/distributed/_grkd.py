"""`python -m grkd` as a process of a launch: WAY is ddp or fsdp, and process 1 fails at optimiser step FAIL_AT.

FAIL_AT stands for an error that one process alone meets, such as a full disk.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

from grkd import cli
from grkd.errors import UserError
from grkd.ranks import ranks
from tests.distributed._ways import use


def command(words: Sequence[str], *, way: str, fail_at: int | None = None) -> int:
    """Exit status of `grkd WORDS` in this process of a launch."""
    use(way)
    if fail_at is not None:
        from grkd.training import FiniteSteps

        real = FiniteSteps.on_step_end

        def fail(self: Any, args: Any, state: Any, control: Any, **options: Any) -> None:
            real(self, args, state, control, **options)
            if state.global_step == fail_at and ranks().process_index == 1:
                raise UserError("process 1 cannot go on")

        FiniteSteps.on_step_end = fail  # type: ignore[method-assign]
    return cli.main(words)


if __name__ == "__main__":
    step = os.environ.get("FAIL_AT")
    sys.exit(command(sys.argv[1:], way=os.environ.get("WAY", "ddp"), fail_at=None if step is None else int(step)))
