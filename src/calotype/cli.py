"""The command line: picks the verb's module, parses, runs it, and turns errors into one line and an exit code.

Imports no torch; a verb's module is imported only when the verb is used. The current folder comes last on the import
path, so a `_target_` finds the project's own code and nothing in it can hide an installed package.
"""

from __future__ import annotations

import argparse
import atexit
import importlib
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import NoReturn

from calotype import __version__
from calotype.commands._text import printable
from calotype.errors import CTRL_C, CalotypeError, UsageError

VERBS = {
    "train": "train from a config, or resume a run",
    "launch": "write the script that trains on a cluster",
    "status": "say how a run is doing, and exit with its code",
    "runs": "a table of the runs, newest or best first",
    "evaluate": "score a run or checkpoint on a split",
    "predict": "predict the classes of image files, or their masks",
    "average": "average the weights of several checkpoints",
    "export": "export a network to ONNX",
    "verify": "run a run again and compare it bit for bit",
    "replay": "compute the step at which a run failed again, and say where",
    "data": "fetch, write, check or measure a data set",
    "track": "bring a run's mirror at a tracking server up to date",
    "config": "show a config, explain a key, compare two configs",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are UsageErrors with the nearest option."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        unknown = message.removeprefix("unrecognized arguments: ").split("=")[0].split()[0]
        nearest = get_close_matches(unknown, [*self._option_string_actions], 1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise UsageError(f"{message}{hint} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    try:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            _flush()  # results before the message about them
    except SystemExit as left:  # --help, a process that leaves the word to another, a user's module
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)  # noqa: T201
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except CalotypeError as error:
        print("calotype: " + "\n".join(map(printable, str(error).split("\n"))), file=sys.stderr)  # noqa: T201
        if os.environ.get("CALOTYPE_TRACEBACK") == "1":
            raise
        return error.exit_code
    except KeyboardInterrupt:
        print("calotype: stopped by Ctrl-C", file=sys.stderr)  # noqa: T201
        return CTRL_C
    except BrokenPipeError:
        _flush()
        return 1
    except Exception as error:
        if os.environ.get("CALOTYPE_TRACEBACK") == "1":
            raise
        text = printable(" ".join(f"{type(error).__name__}: {error}".split()))
        advice = "please report it, with the traceback that CALOTYPE_TRACEBACK=1 shows"
        print(f"calotype: internal error: {text}; {advice}", file=sys.stderr)  # noqa: T201
        return 1


def end(code: int) -> NoReturn:
    """End one of several processes without taking the interpreter down: torch's threads may outlive its process group,
    which DDP and DTensor hold on to, and one that then wants the interpreter's lock aborts the process
    (pytorch#190489).
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _flush() -> None:
    """Hand over what stands in stdout's buffer. Where nobody reads it any more, the interpreter needn't say so."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())  # noqa: T201
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb == "--version":
        print(f"calotype {__version__}")  # noqa: T201
        return 0
    if verb not in VERBS:
        raise _unknown("verb", verb, VERBS)
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - sys.path holds text
        sys.path.append(here)
    module = importlib.import_module(f"calotype.commands.{verb}")
    if subverbs := getattr(module, "SUBVERBS", None):
        if not rest or rest[0] in ("-h", "--help"):
            print(_listed(f"usage: calotype {verb} VERB ...", subverbs))  # noqa: T201
            return 0 if rest else 2
        name, *rest = rest
        if name not in subverbs:
            raise _unknown(f"verb {verb}", name, subverbs)
        module, verb = importlib.import_module(f"calotype.commands._{verb}_{name}"), f"{verb} {name}"
    parser = Parser(
        prog=f"calotype {verb}",
        description=module.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    code: int = module.run(parser.parse_intermixed_args(rest))
    return code


def _unknown(what: str, name: str, known: Mapping[str, str]) -> UsageError:
    nearest = get_close_matches(name, known, 1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"there are: {', '.join(known)}"
    return UsageError(f"there is no {what} {name!r}; {hint}")


def _listed(head: str, verbs: Mapping[str, str]) -> str:
    lines = "\n".join(f"  {name:10}{summary}" for name, summary in verbs.items())
    return f"{head}\n\n{lines}"


def _help() -> str:
    head = "usage: calotype VERB ...\n\nOne config, any number of identical runs."
    return f"""{_listed(head, VERBS)}

  calotype train experiment=digits            train the example
  calotype verify last                        run it again and compare
  calotype VERB --help                        more about a verb

exit codes: 0 done, 1 failure at run time, 2 usage or config, 3 data, 4 checkpoint, 5 differs, 75 interrupted (resume
continues it), 130 Ctrl-C"""
