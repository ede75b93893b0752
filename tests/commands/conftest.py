"""Fixtures of runs."""

from tests.runs import copy, finished, process_as_it_was  # noqa: F401
