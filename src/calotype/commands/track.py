"""`calotype track ...`: the verbs about a run's mirrors. Each is a module `_track_<name>` like that of any verb."""

from __future__ import annotations

SUBVERBS = {"sync": "bring a run's mirrors up to date from its files"}
