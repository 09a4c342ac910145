"""`python -m benchmarks`: every benchmark that needs a GPU."""

from benchmarks.kernels import main

main()
