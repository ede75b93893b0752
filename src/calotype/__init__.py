"""Calotype: reproducible vision training in PyTorch. One config, any number of identical runs.

`calotype.train("experiment=digits")` trains, `calotype.load(run)` gives a trained model back, `calotype.predict(run,
"photos")` predicts files. Importing this package imports no torch; the functions do when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
_FUNCTIONS = {
    "average": ("average", "average"),
    "export": ("export", "export"),
    "load": ("evaluate", "load"),
    "predict": ("predict", "predict"),
    "runs": ("runs", "board"),
    "train": ("train", "train"),
}
__all__ = ["__version__", "average", "export", "load", "predict", "runs", "train"]


def __getattr__(name: str) -> Any:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module 'calotype' has no attribute {name!r}")
    module, function = _FUNCTIONS[name]
    return getattr(importlib.import_module(f"calotype.commands.{module}"), function)
