"""`calotype launch ...`: the verbs that start a training elsewhere. Each is a module `_launch_<name>` like that of any
verb.
"""

from __future__ import annotations

SUBVERBS = {"slurm": "write the sbatch script of a training that goes on by itself after every time limit"}
