"""However a drill ends: every fault undone, every rollback run, the stage closed, and the end told."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from featurechaos import FeatureClient
from featurechaos.drills import History, Outcome, Verdict, parse_script
from featurechaos.drills.history import End, Fault, Note, Sample, read_history
from featurechaos.drills.run import _stage, run_drill
from featurechaos.drills.stage import Asked, Stage
from tests.drills.memory import ARMED, SCRIPT, stage

ROLLBACKS = "rollbacks: [{action: refresh}, {action: clear_all}, {probe: active_faults, equals: 0}]\n"
CONFIG = """
project: drill
sources: {primary: {type: memory}}
views: [{name: user, join_keys: {id: int64}, features: {score: {dtype: float32}}}]
chaos: {enabled: true, listen: "127.0.0.1:9911"}
metrics: {port: 9912}
"""


class Unable(FeatureClient):
    """A client whose replicas cannot be refreshed."""

    def refresh(self, timeout_s: float = 60) -> Any:
        raise RuntimeError("no room on the disk")


@dataclass
class Balky:
    """A server that does what it is told, and then fails to say so."""

    pid: int = 4711
    told: list[str] = field(default_factory=list)

    def kill(self) -> None:
        self.told.append("kill")
        raise subprocess.TimeoutExpired("valkey-server", 10)

    def freeze(self) -> None:
        self.told.append("freeze")
        raise ChildProcessError(10, "No child processes")

    def thaw(self) -> None:
        self.told.append("thaw")

    def restart(self) -> None:
        self.told.append("restart")


def play(directory: Path, played: Stage, text: str = SCRIPT, **options: Any) -> tuple[Verdict, History]:
    verdict, _ = run_drill(parse_script(text), directory=directory, open_stage=lambda _: played, **options)
    return verdict, read_history(directory / "history.jsonl")


@pytest.mark.parametrize(
    ("chaos", "environ", "why"),
    [
        ({"enabled": False}, ARMED, "chaos.enabled: wanted true to inject faults, got false"),
        ({"enabled": True, "max_share": 1.0}, {}, "FEATURECHAOS_CHAOS: wanted 'armed' in the environment"),
    ],
)
def test_where_nothing_may_be_injected_nobody_is_asked_first(
    tmp_path: Path, chaos: dict[str, Any], environ: dict[str, str], why: str
) -> None:
    asked: list[float] = []

    def draw(_: Random, wall_s: float) -> Asked:
        asked.append(wall_s)
        return Asked({"id": [1]})

    played = stage(draw=draw, chaos=chaos, environ=environ)
    verdict, report = run_drill(parse_script(SCRIPT), directory=tmp_path, open_stage=lambda _: played)

    assert (verdict.outcome, verdict.exit_code, report) == (Outcome.INCONCLUSIVE, 6, None)
    assert verdict.sentence.startswith("outage did not apply: ") and why in verdict.sentence
    assert asked == []
    assert not played.closers, "the stage is closed"


def test_server_of_the_drills_own_may_be_hurt_where_nothing_may_be_injected(tmp_path: Path) -> None:
    unarmed = stage(environ={})
    server = Balky()
    unarmed.processes = {"primary": server}

    play(tmp_path, unarmed, SCRIPT.replace("fault: outage", "fault: process_freeze").replace("share: 1, ", ""))

    assert server.told == ["freeze", "thaw"]


def test_rollbacks_are_run_and_one_that_fails_keeps_nothing_from_the_rest(tmp_path: Path) -> None:
    verdict, history = play(tmp_path, stage(made=Unable), SCRIPT + ROLLBACKS)

    told = [(note.event, note.detail) for note in history.of(Note)]
    assert told == [
        ("drill.rollback_failed", "refresh: RuntimeError: no room on the disk"),
        ("drill.clear_all", "rollback"),
    ]
    assert [(one.probe, one.value) for one in history.of(Sample)] == [("active_faults", 0.0)]
    assert history.records[-1].kind == "end"
    assert verdict.outcome is Outcome.HELD, verdict.sentence


@pytest.mark.parametrize(
    ("fault", "did"), [("process_freeze", ["freeze", "thaw"]), ("process_kill", ["kill", "restart"])]
)
def test_a_fault_that_fails_halfway_is_undone(tmp_path: Path, fault: str, did: list[str]) -> None:
    server, played = Balky(), stage()
    played.processes = {"primary": server}

    verdict, history = play(
        tmp_path, played, SCRIPT.replace("fault: outage, source: primary, share: 1", f"fault: {fault}, source: primary")
    )

    assert server.told == did
    assert [one.state for one in history.of(Fault)] == ["armed", "failed", "cleared"]
    assert verdict.outcome is Outcome.INCONCLUSIVE


def test_a_mistake_of_ours_is_told_as_an_error_with_the_fault_undone(tmp_path: Path) -> None:
    def say(line: str) -> None:
        if line.startswith("after: "):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        play(tmp_path, stage(), progress=say)

    history = read_history(tmp_path / "history.jsonl")
    assert [end.reason for end in history.of(End)] == ["error"]
    assert [one.state for one in history.of(Fault)] == ["armed", "applied", "cleared"]


def test_a_listener_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    def say(line: str) -> None:
        raise BrokenPipeError

    verdict, _ = play(tmp_path, stage(), progress=say)

    assert verdict.outcome is Outcome.HELD


def test_a_report_that_cannot_be_written_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    opened: list[Stage] = []

    verdict, page = run_drill(
        parse_script(SCRIPT),
        directory=tmp_path / "file" / "report",
        open_stage=lambda _: opened.append(stage()) or opened[0],  # type: ignore[func-returns-value]
    )

    assert (verdict.outcome, page, opened) == (Outcome.INVALID, None, [])
    assert verdict.sentence == f"report: {tmp_path}/file/report: Not a directory"


def test_a_journal_that_cannot_be_opened_closes_the_stage(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").mkdir()
    closed: list[str] = []
    played = stage()
    played.closers.append(lambda: closed.append("stage"))

    with pytest.raises(OSError, match=r"history\.jsonl"):
        play(tmp_path, played)

    assert closed == ["stage"]


def test_a_drill_takes_no_port_of_the_service(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "asked.jsonl").write_text('{"entity_rows": {"id": [1]}}\n')
    script = parse_script(SCRIPT.replace("tests.drills:none", str(tmp_path / "asked.jsonl")))

    played = _stage(str(tmp_path / "config.yaml"), lambda line: None)(script)

    settings = played.client.settings
    played.close()
    assert (settings.chaos.listen, settings.metrics.port, settings.chaos.enabled) == (None, None, True)
