"""The command line: dispatch, exit codes, one-line errors, the config verb, and how fast it answers."""

import json
import os
import resource
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from types import ModuleType

import pytest

import calotype
from calotype.cli import VERBS, main
from calotype.commands._arguments import add_config_arguments, config_from
from calotype.commands._text import count
from calotype.errors import DataError, DiffersError, Interrupted


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CALOTYPE_TRACEBACK", raising=False)
    return tmp_path


def fake_verb(monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> None:
    """Put a verb in place of `status` that raises `error`."""
    module = ModuleType("calotype.commands.status")

    def run(_: Namespace) -> int:
        if error is not None:
            raise error
        return 0

    vars(module).update(HELP="a fake", add_arguments=lambda _: None, run=run)
    monkeypatch.setitem(sys.modules, "calotype.commands.status", module)


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"calotype {calotype.__version__}\n"
    assert main([]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no verb 'trian'; did you mean train?"),
        (["xyz"], f"there are: {', '.join(VERBS)}"),
        (["config"], "the following arguments are required: action"),
        (["config", "shwo"], "invalid choice: 'shwo'"),
        (["config", "show", "--jsn"], "unrecognized arguments: --jsn; did you mean --json?"),
        (["config", "show", "trainer.max_epoch=3"], "did you mean trainer.max_epochs?"),
        (["config", "show", "--config-dir", "absent"], "is no folder"),
        (["config", "explain"], "needs a KEY"),
        (
            ["config", "explain", "trainer.max_epoch"],
            "there is no key trainer.max_epoch; did you mean trainer.max_epochs",
        ),
        (["config", "diff", "digits"], "compares two"),
        (["config", "diff", "digits", "digit"], "no experiment; did you mean digits?"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("calotype: ")
    assert message in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, 0, ""),
        (DataError("train.idx is missing", key="data"), 3, "calotype: data: train.idx is missing\n"),
        (DiffersError("step 7 differs"), 5, "calotype: step 7 differs\n"),
        (Interrupted("stopped at step 7"), 75, "calotype: stopped at step 7\n"),
        (KeyboardInterrupt(), 130, "calotype: stopped by Ctrl-C\n"),
    ],
)
def test_errors_have_their_exit_codes(
    error: BaseException | None,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_verb(monkeypatch, error)
    assert main(["status"]) == code
    assert capsys.readouterr().err == message


def test_an_internal_error_asks_for_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_verb(monkeypatch, RuntimeError("two\nlines"))
    assert main(["status"]) == 1
    text = capsys.readouterr().err
    assert text.startswith("calotype: internal error: RuntimeError: two lines; please report it")
    assert len(text.splitlines()) == 1
    monkeypatch.setenv("CALOTYPE_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        main(["status"])


def test_the_projects_own_code_is_found_but_hides_nothing(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    fake_verb(monkeypatch, None)
    main(["status"])
    assert sys.path[-1] == str(elsewhere)


def test_overrides_and_options_may_be_mixed(elsewhere: Path) -> None:
    (elsewhere / "own" / "optimizer").mkdir(parents=True)
    (elsewhere / "own" / "optimizer" / "mine.yaml").write_text("# @package module.optimizer\n_target_: a.B\n")
    parser = ArgumentParser()
    add_config_arguments(parser)
    args = parser.parse_intermixed_args(
        ["experiment=fashion_mnist", "seed=1", "--config-dir", "own", "optimizer=mine", "--cfg", "~module.lr_warmup"]
    )
    assert args.cfg
    assert config_from(args).tree["module"]["optimizer"] == {"_target_": "a.B"}
    assert "digits" in str(parser.epilog)


def test_config_show_prints_yaml_or_json(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    assert main(["config", "show", "optimizer=sgd"]) == 0
    (elsewhere / "again.yaml").write_text(capsys.readouterr().out)
    assert main(["config", "show", "--json", "again.yaml"]) == 0
    assert json.loads(capsys.readouterr().out)["module"]["optimizer"]["_target_"] == "torch.optim.SGD"


def test_config_show_shows_a_wrong_config_and_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "trainer.max_epochs=many"]) == 2
    captured = capsys.readouterr()
    assert "max_epochs: many" in captured.out
    assert "trainer.max_epochs: 'many' is not allowed" in captured.err


def test_config_explain_says_where_a_value_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "explain", "trainer.max_epochs", "trainer.max_epochs=3", "debug=fast"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "trainer.max_epochs = 3"
    assert lines[1] == "  from      override 'trainer.max_epochs=3'"
    assert lines[2].startswith("  replaced  1  (")
    assert lines[2].endswith("debug/fast.yaml:4)")
    assert "  allowed   an integer, null" in lines
    assert main(["config", "explain", "--json", "data.root", "experiment=mnist"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["value"], facts["written"]) == ("data", "${paths.data}")
    assert facts["from"].endswith("data/mnist.yaml:3")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("trainer.max_epoch", "did you mean trainer.max_epochs, trainer.val_epochs or trainer.max_steps?"),
        ("lr", "did you mean module.optimizer.lr?"),
        ("monitr", "did you mean module.monitor?"),
        ("nope", "the nearest: "),
        ("QQQ", "there is no key QQQ; `calotype config show` lists all"),
    ],
)
def test_config_explain_of_an_unknown_key_names_a_few_and_says_how_to_see_all(
    key: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "explain", key]) == 2
    text = capsys.readouterr().err
    assert hint in text and text.endswith(" `calotype config show` lists all\n")
    assert len(text) < 200


def test_config_diff_compares_leaf_by_leaf(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    assert main(["config", "diff", "digits", "digits"]) == 0
    assert capsys.readouterr().out == ""
    (elsewhere / "run").mkdir()
    main(["config", "show", "trainer.max_epochs=7", "+module.optimizer.betas=[0.8,0.9]"])
    (elsewhere / "run" / "config.yaml").write_text(capsys.readouterr().out)
    assert main(["config", "diff", "digits", "run"]) == 5
    assert capsys.readouterr().out.splitlines() == [
        "trainer.max_epochs: 20 -> 7",
        "module.optimizer.betas.0: (absent) -> 0.8",
        "module.optimizer.betas.1: (absent) -> 0.9",
    ]
    assert main(["config", "diff", "--json", "digits", "run/config.yaml"]) == 5
    report = json.loads(capsys.readouterr().out)
    assert report["equal"] is False
    assert report["different"][0] == {"key": "trainer.max_epochs", "a": 20, "b": 7}
    assert report["different"][1] == {"key": "module.optimizer.betas.0", "b": 0.8}


def cost(*arguments: str, code: int) -> float:
    """Seconds of processor time, the best of three: what a wait would be with nothing else on the machine."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "calotype", *arguments], capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        assert done.returncode == code, done.stderr
    return min(times)


@pytest.mark.guarantee("Help and config errors answer in half a second, without torch", condition="on an idle machine")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["config", "show"], 0),
        (["config", "show", "optimiser=sgd"], 2),
        (["config", "show", "optimizer=sdg"], 2),
        (["config", "show", "trainer.max_epochs=many"], 2),
        (["config", "show", "data.batch_size=???"], 2),
    ],
)
def test_answers_come_in_half_a_second(arguments: list[str], code: int) -> None:
    assert cost(*arguments, code=code) < 0.5


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, calotype, calotype.cli; print('torch' in sys.modules, 'hydra' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = calotype.trian


def test_a_closed_pipe_ends_quietly() -> None:
    command = f"{sys.executable} -m calotype config show | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("seed: 0\n", "")


@pytest.fixture
def results_then_error(tmp_path: Path) -> list[str]:
    """A command that writes a result and fails, once its stdin is at its end."""
    script = tmp_path / "late.py"
    script.write_text(
        "import sys\nfrom calotype import cli, errors\n"
        "def run(arguments):\n    sys.stdout.write('result\\n')\n    raise errors.DiffersError('too low')\n"
        "cli._run = run\nsys.stdin.read()\nsys.exit(cli.main([]))\n"
    )
    return [sys.executable, str(script)]


def test_results_stand_before_the_error_about_them_in_one_pipe(results_then_error: list[str]) -> None:
    pipe = subprocess.PIPE
    done = subprocess.run(results_then_error, input="", stdout=pipe, stderr=subprocess.STDOUT, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, "result\ncalotype: too low\n")


def test_an_error_is_told_and_coded_though_nobody_reads_the_results(results_then_error: list[str]) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(results_then_error, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.close()
        error = process.stderr.read()
    assert (process.returncode, error) == (5, "calotype: too low\n")


def test_names_that_are_no_text_or_move_a_cursor_are_written_out(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In results as in errors; each line of an error that has several stays one."""
    fake_verb(monkeypatch, DataError("two\nlines of \x1b[31mred\udcff.jpg\r"))
    assert main(["status"]) == 3
    assert capsys.readouterr().err == "calotype: two\nlines of \\x1b[31mred\\udcff.jpg\\r\n"
    for name in (b"a\xff.jpg", b"b\n.jpg", b"c\x1b[2J.jpg"):
        for label in ("ant", "bee"):
            path = elsewhere / label / os.fsdecode(name)
            path.parent.mkdir(exist_ok=True)
            path.touch()
    code = (
        "import sys; sys.stdout.reconfigure(encoding='utf-8', errors='strict');"
        "from calotype.cli import main; sys.exit(main(['data', 'check', '.', '--workers', '0']))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 3, found.stderr
    told = [line.strip() for line in found.stdout.splitlines() if line.endswith("the file is empty")]
    assert (
        told
        == [
            f"{label}/{name}: the file is empty"
            for label in ("ant", "bee")
            for name in (r"a\udcff.jpg", r"b\n.jpg", r"c\x1b[2J.jpg")
        ][:5]
    )


@pytest.mark.parametrize(("number", "text"), [(0, "0 notes"), (1, "1 note"), (2, "2 notes")])
def test_one_of_a_thing_is_no_plural(number: int, text: str) -> None:
    assert count(number, "note") == text


@pytest.mark.parametrize(("left", "code", "told"), [(3, 3, ""), (None, 0, ""), ("no more", 1, "no more\n")])
def test_a_module_that_leaves_ends_with_its_code(
    left: object, code: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(arguments: object) -> int:
        raise SystemExit(left)

    monkeypatch.setattr("calotype.cli._run", leave)
    assert main(["status"]) == code
    assert capsys.readouterr().err == told
