"""From YAML groups, a Python file and overrides to one plain tree, checked in two stages, then to objects.

compose   groups or a file + overrides -> Config           check     what a tree may hold, without torch
search    where groups are looked for                       schema    plain values as the types of settings.py
reader    YAML with limits and line numbers                 targets   each `_target_` and its arguments
python    configs written in Python                         trust     what somebody else's tree may name (allowed)
build     tree -> objects

Only `hydra_internals` touches Hydra and OmegaConf.
"""
