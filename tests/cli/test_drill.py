"""`drill` and `demo`: what is run, what is said of it, and the exit codes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featurechaos.cli.drilling import builtin
from featurechaos.demo import story
from featurechaos.drills import Check, Outcome, Verdict, load_script
from featurechaos.drills import run as running
from featurechaos.errors import SpecError, StoreTimeout
from tests.cli.conftest import Run, start

DRILL = """
title: primary gone for a moment
config: armed.yaml
configuration: {rate: 100, for_s: 0.6}
load: {requests: requests.jsonl, rate_per_s: "${rate}", arrivals: uniform}
steady_state: {title: it answers, for_s: 0.5, probes: [{probe: error_rate, max: 0}]}
method:
  - {at_s: 0, name: outage, inject: {fault: outage, source: primary, share: 1, for_s: "${for_s}"}}
expect:
  during: [{probe: error_rate, max: 0}]
coverage: {min_requests: 20, min_applied: 1}
limits: {max_share: 1}
"""


@pytest.fixture
def drill(folder: Path) -> Path:
    text = (folder / "featurechaos.yaml").read_text()
    (folder / "armed.yaml").write_text(f"{text}chaos: {{enabled: true, max_share: 1.0}}\n")
    (folder / "requests.jsonl").write_text('{"entity_rows": {"airport": "JFK", "tailnum": ["N1", "N2"]}}\n')
    path = folder / "drill.yaml"
    path.write_text(DRILL)
    return path


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[dict[str, Any]]]:
    """Put an outcome in the place of playing; gives what was asked to be played."""

    def put(outcome: Verdict | BaseException) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def run_drill(script: Any, **options: Any) -> tuple[Verdict, Path | None]:
            asked.append({"script": script, **options})
            options["progress"]("before: it answers")
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome, Path("out/report.html")

        monkeypatch.setattr(running, "run_drill", run_drill)
        return asked

    return put


def verdict(outcome: Outcome) -> Verdict:
    checks = (
        Check("error_rate", "during", "none", "2 of 100 requests", Outcome.WEAKNESS, 0.02),
        Check("pairs", "coverage", "at least 10", "3", Outcome.UNKNOWN, 3, "too few to mean anything"),
    )
    return Verdict(outcome, "a drill", "During the fault, error_rate: wanted none, got 2 %", checks, {"requests": 100})


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome.HELD, 0),
        (Outcome.WEAKNESS, 1),
        (Outcome.INVALID, 2),
        (Outcome.GUARD, 3),
        (Outcome.INTERRUPTED, 4),
        (Outcome.UNDO_FAILED, 5),
        (Outcome.INCONCLUSIVE, 6),
    ],
)
def test_the_exit_code_is_the_verdicts(
    outcome: Outcome, code: int, drill: Path, plays: Callable[..., Any], run: Run
) -> None:
    plays(verdict(outcome))

    ran = run("drill", "run", "drill.yaml")

    assert ran.code == code
    assert ran.out.startswith(f"{str(outcome).upper().replace('_', ' ')}: During the fault, error_rate: wanted none")
    assert ran.out.endswith("report: out/report.html\n")
    assert "before: it answers" in ran.err


def test_every_check_is_a_line_with_what_was_wanted_and_got(drill: Path, plays: Callable[..., Any], run: Run) -> None:
    plays(verdict(Outcome.WEAKNESS))

    lines = [" ".join(line.split()) for line in run("drill", "run", "drill.yaml").out.splitlines()]

    assert "during error_rate none 2 of 100 requests weakness" in lines
    assert "coverage pairs at least 10 3 (too few to mean anything) unknown" in lines


def test_json_is_the_verdict_and_the_report(drill: Path, plays: Callable[..., Any], run: Run) -> None:
    plays(verdict(Outcome.GUARD))

    told = json.loads(run("drill", "run", "drill.yaml", "--json").out)

    assert (told["outcome"], told["exit_code"], told["report"]) == ("guard", 3, "out/report.html")
    assert told["checks"][0]["value"] == 0.02


def test_options_reach_the_runner(drill: Path, plays: Callable[..., Any], run: Run) -> None:
    asked = plays(verdict(Outcome.HELD))

    run(
        "drill",
        "run",
        "drill.yaml",
        "--seed",
        "9",
        "--report",
        "out",
        "--config",
        "c.yaml",
        "--set",
        "configuration.rate=7",
    )

    (one,) = asked
    assert (one["seed"], one["directory"], one["config"]) == (9, Path("out"), "c.yaml")
    assert one["script"].load.rate_per_s == 7


def test_without_a_folder_each_run_has_its_own(drill: Path, plays: Callable[..., Any], run: Run) -> None:
    asked = plays(verdict(Outcome.HELD))

    run("drill", "run", "drill.yaml")

    assert str(asked[0]["directory"]).startswith("reports/drill-20")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 4, "interrupted"),
        (SpecError("drill.yaml: load: is wrong"), 2, "drill.yaml: load: is wrong"),
        (StoreTimeout("Valkey did not start"), 6, "could not be played: Valkey did not start"),
        (OSError(28, "No space left on device"), 6, "could not be played: OSError: [Errno 28] No space left on device"),
        (
            ZeroDivisionError("of ours"),
            6,
            "could not be played: ZeroDivisionError: of ours (`featurechaos --debug ...`",
        ),
        (ModuleNotFoundError("no", name="boto3"), 2, "this needs boto3: pip install"),
    ],
)
@pytest.mark.parametrize("command", ["drill run drill.yaml", "demo"])
def test_what_could_not_be_played_is_never_called_a_weakness(
    command: str,
    error: BaseException,
    code: int,
    said: str,
    drill: Path,
    plays: Callable[..., Any],
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plays(error)

    def tell(seed: int, **options: Any) -> tuple[int, Path | None]:
        raise error

    monkeypatch.setattr(story, "tell", tell)

    ran = run(*command.split())

    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("drill run drill.yaml --report taken", "--report: taken takes no files: File exists"),
        ("drill run drill.yaml --report taken/out", "--report: taken/out takes no files: Not a directory"),
        ("demo --report taken/out", "--report: taken/out takes no files: Not a directory"),
        ("demo --json taken/demo.json", "--json: taken takes no files: File exists"),
        ("demo --json .", "--json: . is a folder, wanted a file"),
    ],
)
def test_a_path_that_cannot_be_written_is_told_before_anything_is_started(
    arguments: str, said: str, drill: Path, plays: Callable[..., Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (drill.parent / "taken").touch()
    asked = plays(verdict(Outcome.HELD))
    monkeypatch.setattr(story, "tell", lambda seed, **options: asked.append(options) or (0, None))

    ran = run(*arguments.split())

    assert (ran.code, ran.out, ran.err) == (2, "", f"featurechaos: {said}\n")
    assert asked == []


def test_the_last_line_of_the_demo_is_the_reports_path_alone(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def tell(seed: int, **options: Any) -> tuple[int, Path | None]:
        asked.append((seed, options["config"], options["json_file"], options["report"]))
        options["say"]("2500 requests, none failed")
        return 1, Path("reports/demo/report.html")

    monkeypatch.setattr(story, "tell", tell)

    ran = run("demo", "--seed", "9", "--json", "d.json", "--config", "c.yaml", "--report", "out")

    assert (ran.code, ran.out) == (1, "reports/demo/report.html\n")
    assert ran.err == "2500 requests, none failed\n"
    assert asked == [(9, Path("c.yaml"), Path("d.json"), Path("out"))]


def test_check_says_in_a_line_what_would_happen(drill: Path, run: Run) -> None:
    ran = run("drill", "check", "drill.yaml")

    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "primary gone for a moment: 1 step, 1 fault, takes 2 s\n"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("drill check nope.yaml", "there is no drill file 'nope.yaml'"),
        ("drill check redis-kiled", "there is no drill 'redis-kiled', did you mean 'redis-killed'?"),
        ("drill run bad.yaml", "bad.yaml: methd: is not a known key, did you mean 'method'?"),
        ("drill check drill.yaml --set rate=7", "--set wants configuration.NAME=VALUE, got 'rate=7'"),
        (
            "drill check drill.yaml --set configuration.rte=7",
            "configuration.rte: is not there to be set, did you mean 'rate'?",
        ),
        ("drill check drill.yaml --set configuration.rate=-1", "drill.yaml: load.rate_per_s: "),
    ],
)
def test_a_wrong_drill_is_one_sentence_and_exit_code_2(arguments: str, wanted: str, drill: Path, run: Run) -> None:
    (drill.parent / "bad.yaml").write_text(DRILL.replace("method:", "methd:"))

    ran = run(*arguments.split())

    assert (ran.code, ran.out) == (2, "")
    assert wanted in ran.err
    assert ran.err.count("\n") == 1


def test_the_list_names_every_drill_that_comes_with_us(run: Run) -> None:
    told = json.loads(run("drill", "list", "--json").out)

    assert [one["name"] for one in told] == list(builtin()) != []
    assert all(
        set(one) == {"name", "stands_for", "takes_s"} and one["stands_for"] and one["takes_s"] > 0 for one in told
    )
    assert all(one["name"] in run("drill", "list").out for one in told)


@pytest.mark.parametrize("name", list(builtin()))
def test_every_drill_that_comes_with_us_is_right(name: str, run: Run) -> None:
    assert run("drill", "check", name).out.startswith(load_script(builtin()[name]).title)


@pytest.mark.slow
def test_a_drill_of_ones_own_is_played_and_judged(drill: Path) -> None:
    with start(
        "drill", "run", "drill.yaml", "--report", "out", folder=drill.parent, FEATURECHAOS_CHAOS="armed"
    ) as process:
        out, err = process.communicate()

    assert process.returncode == 0, err
    assert out.startswith("HELD: ")
    assert out.splitlines()[-1] == "report: out/report.html"
    assert (drill.parent / "out" / "report.html").exists()
    assert "outage" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_an_interrupted_drill_ends_with_4_and_a_report(drill: Path) -> None:
    arguments = ("drill", "run", "drill.yaml", "--report", "out", "--set", "configuration.for_s=60")
    with start(*arguments, folder=drill.parent, FEATURECHAOS_CHAOS="armed") as process:
        assert process.stderr is not None
        while "outage" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()

    assert process.returncode == 4, err
    assert out.startswith("INTERRUPTED: ")
    assert "Traceback" not in err
