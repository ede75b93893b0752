"""`python -m calotype` is the command line, and what the processes of a run are started by."""

import os
import sys

from calotype.cli import end, main

code = main()
if "RANK" in os.environ:
    end(code)
sys.exit(code)
