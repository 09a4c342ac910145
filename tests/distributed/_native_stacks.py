"""`python -m tests.distributed._native_stacks MODULE ...`: `python -m MODULE ...`; a crash prints native stacks too.

faulthandler knows Python's threads alone: of a crash in a thread of NCCL, CUDA or autograd it shows where the others
were. PyTorch's handler prints the C++ stack of every thread; in that of the crashed one stands `fatalSignalHandler`.
"""

import runpy
import sys
import time
from threading import Thread


def _ask_torch() -> None:
    """As soon as the module has imported torch: imported here, it would be loaded before what MODULE loads first."""
    while "torch._C" not in sys.modules:
        time.sleep(0.05)
    sys.modules["torch._C"]._set_print_stack_traces_on_fatal_signal(True)


if __name__ == "__main__":
    Thread(target=_ask_torch, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
