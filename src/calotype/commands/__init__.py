"""The verbs of the command line, one module each.

A verb's module has `HELP`, `add_arguments(parser)` and `run(args) -> int`, the exit code. It imports torch, and what
needs torch, inside functions, so that help and config errors come at once.
"""
