"""Calotype: reproducible vision training in PyTorch. One config, any number of identical runs.

`calotype.train("experiment=digits")` trains, `calotype.load(run)` gives a trained model back. Importing this package
imports no torch; the two functions do when they are first used.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load", "train"]


def __getattr__(name: str) -> Any:
    if name == "train":
        from calotype.commands.train import train

        return train
    if name == "load":
        from calotype.commands.evaluate import load

        return load
    raise AttributeError(f"module 'calotype' has no attribute {name!r}")
