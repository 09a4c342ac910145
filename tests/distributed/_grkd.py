"""`python -m grkd` as a process of a launch: WAY is ddp or fsdp, and process 1 fails at optimiser step FAIL_AT.

FAIL_AT stands for an error that one process alone meets, such as a full disk.
"""

import os
import sys
from typing import Any

from grkd import cli
from grkd.errors import UserError
from grkd.ranks import ranks
from tests.distributed._ways import use


def main() -> int:
    ranks()
    use(os.environ.get("WAY", "ddp"))
    if "FAIL_AT" in os.environ and ranks().process_index == 1:
        from grkd.training import FiniteSteps

        real = FiniteSteps.on_step_end

        def fail(self: Any, args: Any, state: Any, control: Any, **options: Any) -> None:
            real(self, args, state, control, **options)
            if state.global_step == int(os.environ["FAIL_AT"]):
                raise UserError("process 1 cannot go on")

        FiniteSteps.on_step_end = fail  # type: ignore[method-assign]
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
