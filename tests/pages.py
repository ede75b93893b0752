"""Runs what the documentation tells a user to type, and compares what it shows with what comes out.

Blocks of a page, in their order and in one folder:

    console   lines after `$ ` are commands, what follows one is its output; `...` stands for lines left out, or for
              what is left out of a line
    bash      a script
    python    run; with a file's name behind the language it is written to that file instead
    yaml      written to a file likewise

A command that fails is an error unless `$ echo $?` follows it. Numbers with decimals, times, the names of runs and
digests differ from machine to machine and are not compared; everything else is.
Unusual: `calotype` and Python blocks run in children forked from a process that has imported torch (`tests.harness`),
which makes a command ten times cheaper; everything else is run by bash.
"""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import harness

_FENCE = re.compile(r"^```(\w*)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MASKS = (
    (re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}"), "RUN"),
    (re.compile(r", \d+:\d\d:\d\d left"), ""),
    (re.compile(r"\b[0-9a-f]{12,}\b"), "DIGEST"),
    (re.compile(r"(?<=\w)(/\w+ +)[-+.\de]+(?= |$)"), r"\1#"),
    (re.compile(r"\d+:\d\d:\d\d|-?0x[^\s)]+|-?\d+\.\d+(e[-+]\d+)?"), "#"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    line: int
    language: str
    file: str | None
    text: str


@dataclass(frozen=True)
class Typed:
    """A command and the output that the page shows, None where it shows none."""

    line: int
    command: str
    shown: str | None


class PageError(AssertionError):
    """A page that says what isn't so."""


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    for match in _FENCE.finditer(page):
        yield Block(page.count("\n", 0, match.start()) + 2, match[1], match[2], match[3])


def typed(block: Block) -> list[Typed]:
    """The commands of a console block."""
    found: list[Typed] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if line.startswith("$ "):
            found.append(Typed(number, line[2:], None))
        elif found and found[-1].command.endswith("\\"):
            found[-1] = Typed(found[-1].line, found[-1].command[:-1] + line.strip(), None)
        elif found:
            found[-1] = Typed(found[-1].line, found[-1].command, f"{found[-1].shown or ''}{line}\n")
        else:
            raise PageError(f"line {number}: output without a command")
    return found


def masked(line: str) -> str:
    """The line without what differs from machine to machine."""
    for pattern, name in _MASKS:
        line = pattern.sub(name, line)
    return line.strip()


def agrees(shown: str, output: str) -> bool:
    """Whether the output is what a page shows of it."""
    lines = [
        r"(?:.*\n)*?" if line.strip() == "..." else re.escape(masked(line)).replace(r"\.\.\.", ".*") + r"\n"
        for line in shown.splitlines()
    ]
    return re.fullmatch("".join(lines), "".join(masked(line) + "\n" for line in output.splitlines())) is not None


class Session:
    """A user who types what a page says, in `folder`. `excused` maps beginnings of commands to what is typed instead,
    "" for nothing.
    """

    def __init__(self, folder: Path, excused: Mapping[str, str]) -> None:
        self.folder, self.excused, self.code = folder, excused, 0
        self.ran: list[str] = []

    def run(self, page: str) -> None:
        """Run every block of a page. Raises PageError naming the line."""
        for block in blocks(page):
            if block.language == "console":
                self._console(typed(block))
            elif block.file:
                (self.folder / block.file).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / block.file).write_text(block.text)
            elif block.language == "bash":
                self._checked(Typed(block.line, block.text, None), self._bash(block.text))
            elif block.language == "python":
                self._checked(Typed(block.line, "python", None), self._child(_python, block.text))

    def _console(self, commands: Sequence[Typed]) -> None:
        for item, after in zip(commands, [*commands[1:], None], strict=True):
            instead = next((there for start, there in self.excused.items() if item.command.startswith(start)), None)
            command = item.command if instead is None else instead
            if not command:
                continue
            output = self._type(command)
            if after is None or after.command != "echo $?":
                self._checked(item, output)
            if instead is None and item.shown is not None and not agrees(item.shown, output):
                raise PageError(f"line {item.line}: {item.command}\nshown:\n{item.shown}\nreally:\n{output}")

    def _type(self, command: str) -> str:
        self.ran.append(command)
        if re.match(r"calotype [^|&;<>$`*'\"]*$", command):
            return self._child(_calotype, command.split()[1:])
        return self._bash(command)

    def _checked(self, item: Typed, output: str) -> None:
        if self.code:
            raise PageError(f"line {item.line}: {item.command}\nends with {self.code}:\n{output}")

    def _bash(self, script: str) -> str:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", f"(exit {self.code})\n{script}"],
            cwd=self.folder, env=os.environ | {"PATH": path}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, timeout=120,
        )  # fmt: skip
        self.code = done.returncode
        return done.stdout

    def _child(self, function: object, argument: object) -> str:
        outcome = harness.call(_redirected, function, argument, self.folder, timeout=120)
        self.code = outcome.code or int(outcome.value or 0)
        return (self.folder / ".output").read_text()


def _redirected(function: object, argument: object, folder: Path) -> int:
    os.chdir(folder)
    sys.path.insert(0, "")
    with (folder / ".output").open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code: int = function(argument)  # type: ignore[operator]
    sys.stdout.flush()
    return code


def _calotype(arguments: list[str]) -> int:
    from calotype.cli import main

    return main(arguments)


def _python(code: str) -> int:
    Path(".script.py").write_text(code)
    runpy.run_path(".script.py", run_name="__main__")
    return 0
