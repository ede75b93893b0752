"""A transform that takes its time where a job says so, so that a time limit finds the run at work."""

from __future__ import annotations

import os
import time
from typing import Any


class Pause:
    """Changes nothing, and takes TOY_PAUSE seconds a sample."""

    def __call__(self, sample: Any) -> Any:
        time.sleep(float(os.environ.get("TOY_PAUSE", "0")))
        return sample
