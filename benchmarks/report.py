"""What a benchmark found, as JSON, with the versions and the machine that it was found on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def tell(result: Mapping[str, Any], file: Path | None) -> None:
    """Print a result; write it into a file too, where one is named."""
    about = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    text = json.dumps(about | dict(result), indent=2)
    print(text)
    if file:
        file.write_text(text + "\n")
