"""benchmarks/_scaling_work.py on CPUs: its arguments follow."""

from accelerate.state import AcceleratorState

from benchmarks._scaling_work import main
from tests.distributed import _ways

AcceleratorState.__init__ = _ways._on_cpus_too

if __name__ == "__main__":
    main()
