"""`python -m calotype` is the command line."""

import sys

from calotype.cli import main

sys.exit(main())
