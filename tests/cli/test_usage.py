"""Help, typos, exit codes: what somebody meets who has not read anything."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from featurechaos.cli.app import told
from featurechaos.errors import PartialWrite, RequestError, SpecError, StoreTimeout
from featurechaos.stores import WriteReport
from featurechaos.version import VERSION
from tests.cli.conftest import Run, start

COMMANDS = [
    "get",
    "explain",
    "bench",
    "demo",
    "config show",
    "config schema",
    "snapshot publish",
    "snapshot list",
    "snapshot verify",
    "snapshot gc",
    "drill run",
    "drill check",
    "drill list",
    "doctor",
    "status",
    "source drain",
    "source hold",
    "source auto",
    "faults list",
    "faults on",
    "faults off",
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", ["80", "120"])
def test_every_command_has_help_with_examples_that_name_it(
    command: str, columns: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)

    ran = run(*command.split(), "--help")

    assert (ran.code, ran.err) == (0, "")
    assert f"featurechaos {command}" in ran.out.partition("Examples:")[2]
    assert max(map(len, ran.out.splitlines())) <= int(columns)


@pytest.mark.parametrize("group", ["", "config", "snapshot", "drill", "source", "faults"])
def test_a_group_alone_lists_its_commands(group: str, run: Run) -> None:
    ran = run(*group.split())

    assert ran.code == 0
    assert all(name.split()[-1] in ran.out for name in COMMANDS if name.startswith(group) and " " in name) or not group
    assert ran == run(*group.split(), "--help") == run(*group.split(), "-h")


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version").out == f"featurechaos {VERSION}\n"


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("gte", "there is no command 'gte', did you mean 'get'?"),
        ("snapshots list", "there is no command 'snapshots', did you mean 'snapshot'?"),
        ("snapshot lst", "there is no command 'lst', did you mean 'list'?"),
        ("config zzz", "there is no command 'zzz', known here: show, schema"),
        ("get plane:seats --entty a=b", "there is no option --entty, did you mean --entity?"),
        ("snapshot publish plane --form primary", "there is no option --form, did you mean --from?"),
        ("drill run x --sed 3", "there is no option --sed, did you mean --seed?"),
        ("get", "missing argument 'FEATURES'"),
        ("explain --zzz", "there is no option --zzz, known here: --config, --json, --help"),
        ("drill run x --seed seven", "invalid value for '--seed'"),
        ("drill run x --seed seven", "'seven'"),
        ("snapshot gc plane --keep 0", "invalid value for '--keep'"),
        ("bench --rate fast", "'fast'"),
        ("explain extra", "extra"),
    ],
)
def test_a_typo_is_told_in_one_sentence(typed: str, wanted: str, run: Run) -> None:
    ran = run(*typed.split())

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert wanted in ran.err
    assert "--help)" in ran.err


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (SpecError("a.yaml: project: is missing"), "a.yaml: project: is missing", 2),
        (RequestError("there is no view 'x'"), "there is no view 'x'", 2),
        (StoreTimeout("source 'primary' gave no answer"), "source 'primary' gave no answer", 1),
        (PartialWrite("some", report=WriteReport("plane", 1)), "some", 1),
        (KeyboardInterrupt(), "interrupted", 1),
        (FileNotFoundError(2, "No such file or directory", "x.csv"), "x.csv: No such file or directory", 1),
        (
            ModuleNotFoundError("No module", name="pyarrow.csv"),
            "this needs pyarrow.csv: pip install 'featurechaos[s3]'",
            2,
        ),
        (ZeroDivisionError("division by zero"), "a mistake of ours, ZeroDivisionError: division by zero", 1),
    ],
)
def test_an_error_is_a_sentence_and_a_code(error: BaseException, message: str, code: int) -> None:
    said, came = told(error)

    assert said.startswith(message)
    assert came == code


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_packages_it_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from featurechaos.cli import main; sys.exit(main(['get']))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"featurechaos: the command line needs {missing}: pip install 'featurechaos[cli]'\n"


def test_importing_main_loads_neither_typer_nor_rich() -> None:
    code = "import sys, featurechaos.cli; print([name for name in ('typer', 'rich') if name in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_reader_that_has_enough_is_no_error(folder: Path) -> None:
    with start("config", "schema", folder=folder) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()

    assert (process.returncode, said) == (1, "")


def test_an_interrupt_is_one_word(folder: Path) -> None:
    with start("get", "plane:seats", "--rows", "-", folder=folder) as process:
        assert process.stdin is not None
        process.stdin.write(" " * 300_000)  # More than a pipe holds: once it is written, somebody is reading.
        process.stdin.flush()
        process.send_signal(signal.SIGINT)  # Once: a second would fall into what comes of the first.
        _, said = (
            process.communicate()
        )  # The end of its input wakes one that was between two reads, which Python does not.

    assert said == "featurechaos: interrupted\n"
    assert process.returncode == 1


def test_debug_shows_where_an_error_came_from(folder: Path, run: Run) -> None:
    plain, debug = run("get", "x", "-e", "a=b"), run("--debug", "get", "x", "-e", "a=b")

    assert plain.code == debug.code == 2
    assert "Traceback" not in plain.err
    assert "Traceback" in debug.err
    assert debug.err.endswith(plain.err)
