"""Code, packages and machine are written down and what differs is named; nothing is imported to find out."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from calotype.record.environment import code, machine, packages, repository
from calotype.record.record import changed_config, changed_surroundings, leaf_differences


def test_code_is_ours_and_the_user_s_but_no_package_s_and_no_watcher_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_module.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("users_module")
    try:
        found = code()
        assert len(found["users_module"]) == 64 and "calotype.files" in found
        assert not [
            name
            for name in found
            if name.startswith(("torch", "numpy", "json", "calotype.commands.train", "calotype.commands.verify"))
        ]
        assert not [name for name in found if name.startswith(("calotype.tracking", "calotype.record", "calotype.cli"))]
        (tmp_path / "users_module.py").write_text("x = 22\n")
        changed = code(["users_module", "calotype.files", "no_such_module", "no.such.module"])
        assert changed["users_module"] != found["users_module"] and changed["calotype.files"] == found["calotype.files"]
        assert changed["no_such_module"] == changed["no.such.module"] == "gone"
    finally:
        del sys.modules["users_module"]


@pytest.mark.parametrize("with_init", ["", "outer", "outer/inner"])
def test_modules_in_folders_within_folders_are_found_without_importing_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_init: str
) -> None:
    folder = tmp_path / "outer" / "inner"
    folder.mkdir(parents=True)
    (folder / "module.py").write_text("raise RuntimeError\n")
    if with_init:
        (tmp_path / with_init / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    (digest,) = code(["outer.inner.module"]).values()
    assert len(digest) == 64 and not [name for name in sys.modules if name.startswith("outer")]


def test_packages_are_those_in_use_or_those_asked_for() -> None:
    found = packages()
    assert {"torch", "numpy"} <= set(found) and "calotype" not in found
    assert packages(["torch", "no-such-package"]) == {"torch": found["torch"], "no-such-package": "not installed"}


def test_the_machine_s_part_in_the_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("SECRET", "canary")
    found = machine()
    assert found["variables"]["PYTHONHASHSEED"] == "7" and "canary" not in json.dumps(found)
    assert {"python", "system", "cpu", "threads"} <= set(found)


def test_nothing_differs_from_a_record_of_now() -> None:
    record = {"code": code(), "packages": packages(), "machine": machine()}
    assert changed_surroundings(json.loads(json.dumps(record))) == {"code": [], "packages": [], "machine": []}


def test_leaves_that_differ() -> None:
    old = {"a": 1, "b": [1, {"c": 2}], "d": None, "e": True, "gone": 0, "list": [1]}
    new = {"a": 1.0, "b": [1, {"c": 3}], "d": None, "e": 1, "fresh": {"x": 1}, "list": [1, 2]}
    found = [name for name, _, _ in leaf_differences(old, new)]
    assert found == ["a", "b.1.c", "e", "fresh", "gone", "list"]


def test_config_changes_leave_out_what_changes_no_bit() -> None:
    old = {"paths": {"data": "a"}, "data": {"workers": 1, "batch_size": 8}, "tracking": {}, "vars": {}}
    new = {"paths": {"data": "b"}, "data": {"workers": 2, "batch_size": 9}, "tracking": {"x": 1}, "vars": {"y": 1}}
    assert changed_config(old, new) == ["data.batch_size: 8 -> 9"]
    assert changed_config({"a": 1}, {"b": "x"}) == ["a: 1 is gone", "b: x is new"]


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_a_repository_s_commit_and_what_differs_from_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("x = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    clean, patch = repository(tmp_path)
    assert patch in ("", b"")
    (tmp_path / "a.py").write_text("x = 2\n")
    dirty, patch = repository(tmp_path)
    text = patch.decode() if isinstance(patch, bytes) else patch
    assert "-x = 1" in text and "+x = 2" in text and clean != dirty


def test_outside_of_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    _, patch = repository(tmp_path)
    assert not patch
