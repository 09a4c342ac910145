"""`python -m grkd` and `accelerate launch -m grkd`."""

import sys

from grkd.cli import main

sys.exit(main())
