"""From YAML groups, a Python file and overrides to one plain tree, checked in two stages, then to objects.

compose   groups or a file + overrides -> Config           check     what a tree may hold, without torch
targets   each `_target_` and its arguments                 trust     what somebody else's tree may name
build     tree -> objects                                   reader    YAML with limits and line numbers

Only `hydra_internals` touches Hydra and OmegaConf.
"""
