"""A run folder that came from elsewhere is data, not code, until its user says otherwise."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path

import pytest
import yaml

import calotype
from calotype import cli
from calotype.commands.verify import verify
from calotype.errors import RefusedError
from tests import harness, runs
from tests.runs import config, reopen

copy, finished, process_as_it_was = runs.copy, runs.finished, runs.process_as_it_was

PLANTED = "raise SystemExit('this module must not be imported')\n"


@pytest.fixture
def foreign(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run, as somebody else sees it who got a copy."""
    monkeypatch.setenv("CALOTYPE_HOME", str(tmp_path / "somebody"))
    return copy


def edit(run: Path, **changes: object) -> None:
    path = run / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("verb", [["evaluate"], ["verify"], ["train", "--resume"]])
def test_somebody_else_s_run_with_code_of_its_own_is_refused(
    foreign: Path, verb: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*verb, str(reopen(foreign))]) == 2
    told = capfd.readouterr().err
    assert "tests.toys" in told and "is not on the list" in told and "--trust tests" in told


def test_a_package_can_be_trusted_by_name(foreign: Path) -> None:
    assert calotype.load(foreign, trust=["tests"]).evaluate("val").count == 13
    assert verify(foreign, steps=2, trust=["tests"]).holds
    assert calotype.train(resume=reopen(foreign), trust=["tests"], quiet=True).state == "done"
    with pytest.raises(RefusedError, match="--trust tests"):
        calotype.load(foreign, trust=["toys"])


def test_python_s_own_library_can_t_be_trusted(foreign: Path) -> None:
    with pytest.raises(RefusedError, match="Python's own library can't be trusted"):
        calotype.load(foreign, trust=["os"])


@pytest.mark.guarantee("A run folder whose config was edited counts as somebody else's", condition="always")
def test_an_edited_config_loses_its_signature(copy: Path) -> None:
    assert calotype.load(copy).step
    path = copy / "config.yaml"
    path.write_text(path.read_text() + "# a line more\n")
    with pytest.raises(RefusedError, match="--trust tests"):
        calotype.load(copy)


@pytest.mark.parametrize("signature", ["", "0" * 64, "ä", None])
def test_a_wrong_signature_is_none(copy: Path, signature: object) -> None:
    edit(copy, signature=signature)
    with pytest.raises(RefusedError, match="--trust tests"):
        calotype.load(copy)


@pytest.mark.parametrize("place", ["module", "module.network", "data", "data.train_transforms.0", "tracking.x"])
@pytest.mark.parametrize("verb", ["evaluate", "verify", "resume"])
def test_a_planted_target_is_refused_and_not_imported(
    copy: Path,
    place: str,
    verb: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "planted_module.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(str(tmp_path))
    tree = yaml.safe_load((reopen(copy) / "config.yaml").read_text())
    node = tree
    for part in place.split("."):
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    node["_target_"] = "planted_module.run"
    (copy / "config.yaml").write_text(yaml.safe_dump(tree))
    before = set(sys.modules)
    with pytest.raises(RefusedError, match="planted_module"):
        {
            "evaluate": lambda: calotype.load(copy, trust=["tests"]),
            "verify": lambda: verify(copy, trust=["tests"]),
            "resume": lambda: calotype.train(resume=copy, trust=["tests"], quiet=True),
        }[verb]()
    assert "planted_module" not in sys.modules
    assert not {name for name in set(sys.modules) - before if name.startswith("planted")}


def test_a_planted_command_is_not_composed(foreign: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "planted.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    edit(foreign, command=[str(tmp_path / "planted.py")], search=[str(tmp_path)])
    assert verify(foreign, steps=2, trust=["tests"]).holds
    assert not marker.exists()


def test_an_edited_command_loses_the_signature_too(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(PLANTED)
    edit(copy, command=[str(tmp_path / "planted.py")])
    with pytest.raises(RefusedError, match="--trust tests"):
        verify(copy, steps=2)


def test_modules_that_a_record_names_are_looked_at_not_imported(
    copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = tmp_path / "planted_package"
    package.mkdir()
    for name in ("__init__", "inner"):
        (package / f"{name}.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = json.loads((copy / "record.json").read_text())["code"]
    edit(copy, code=code | {"planted_package.inner": "0" * 64, "planted_package.gone": "0" * 64, "": "0" * 64})
    found = verify(copy, steps=2)
    assert [text.split(":")[0] for text in found.changed["code"]] == [
        "",
        "planted_package.gone",
        "planted_package.inner",
    ]
    assert not any(name.startswith("planted") for name in sys.modules)


def test_a_key_of_the_wrong_size_or_place_makes_no_run_one_s_own(copy: Path) -> None:
    from calotype.record.ownership import is_own, sign

    assert sign(b"x") and is_own(b"x", sign(b"x")) and not is_own(b"y", sign(b"x"))


def test_the_key_is_the_user_s_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from calotype.record.ownership import is_own, sign

    monkeypatch.setenv("CALOTYPE_HOME", str(tmp_path / "home"))
    assert not is_own(b"x", "") and not (tmp_path / "home").exists()
    signature = sign(b"x")
    assert (tmp_path / "home" / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "home" / "key").write_bytes(b"short")
    assert not is_own(b"x", signature) and sign(b"x") == ""
    (tmp_path / "home" / "key").unlink()
    (tmp_path / "home").rmdir()
    (tmp_path / "home").write_text("a file")
    assert sign(b"x") == ""


@pytest.mark.guarantee("No secret of the environment gets into a run folder", condition="given as ${oc.env:NAME}")
def test_no_secret_of_the_environment_is_in_a_run_folder(parity_root: Path, tmp_path: Path) -> None:
    secret = f"canary-{uuid.uuid4().hex}"  # not in the source, which a patch of uncommitted changes holds
    file = config(parity_root, tmp_path, trainer={"max_epochs": 1})
    with Path(file).open("a") as text:
        text.write("vars: {token: '${oc.env:CANARY}'}\n")
    outcome = harness.call(harness.train, file, env={"CANARY": secret, "ANOTHER_CANARY": secret})
    assert outcome.code == 0, outcome.error
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(files) > 8 and not [path for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.guarantee("No file of a checkpoint is more than data", condition="always")
@pytest.mark.parametrize("content", [b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.", b"", b"{}"])
@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "training.json", "manifest.json"])
def test_no_file_of_a_checkpoint_is_more_than_data(copy: Path, name: str, content: bytes) -> None:
    (harness.last(copy) / name).write_bytes(content)
    with pytest.raises(calotype.errors.CheckpointError, match=name.replace(".", r"\.")):
        calotype.load(copy, checkpoint="last")
