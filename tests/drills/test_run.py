"""Drills played for real: every exit code, every fault undone, and a verdict that the history alone gives again."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from featurechaos.demo.programs import valkey_binary
from featurechaos.demo.servers import ValkeyServer
from featurechaos.drills import Outcome, Verdict, judge
from featurechaos.drills.history import Fault, History, Pair, read_history
from featurechaos.drills.run import run_drill
from tests.drills import playing

pytestmark = pytest.mark.live


def play(
    directory: Path, server: ValkeyServer | None = None, *, standby: bool = True, **script: Any
) -> tuple[Verdict, History]:
    """Play the usual script, with changes; its verdict and its history."""
    server = server or ValkeyServer(keeps_data=True)
    server.start()
    verdict, report = run_drill(
        playing.script(**script),
        directory=directory,
        open_stage=lambda _: playing.stage(server, standby=standby),
    )
    assert report == directory / "report.html"
    assert not server.is_running, "the stage is closed on every path"
    return verdict, read_history(directory / "history.jsonl")


def states(history: History) -> list[str]:
    return [fault.state for fault in history.of(Fault)]


def test_a_service_that_falls_back_holds(tmp_path: Path) -> None:
    verdict, history = play(tmp_path)

    assert (verdict.outcome, verdict.exit_code) == (Outcome.HELD, 0), verdict.sentence
    assert states(history) == ["armed", "applied", "cleared"]
    assert verdict.numbers["failed"] == 0
    assert judge(history).as_dict() == verdict.as_dict(), "the journal alone gives the same verdict"


def test_without_a_snapshot_it_is_a_weakness(tmp_path: Path) -> None:
    verdict, _ = play(tmp_path, standby=False)

    assert (verdict.outcome, verdict.exit_code) == (Outcome.WEAKNESS, 1), verdict.sentence
    assert verdict.numbers["rows"]["during"]["DEFAULT"] > 0


def test_a_script_for_a_server_nobody_started_is_invalid(tmp_path: Path) -> None:
    server = ValkeyServer(keeps_data=True).start()

    def without_processes(_: object) -> Any:
        stage = playing.stage(server)
        stage.processes = {}
        return stage

    verdict, report = run_drill(playing.script(), directory=tmp_path, open_stage=without_processes)

    assert (verdict.outcome, verdict.exit_code) == (Outcome.INVALID, 2)
    assert "the drill started no server for source 'primary'" in verdict.sentence
    assert report is None
    assert not server.is_running


def test_a_guard_ends_it_and_the_fault(tmp_path: Path) -> None:
    verdict, history = play(tmp_path, for_s=20, guard="{probe: origin_share, origin: SNAPSHOT, max: 0.5}")

    assert (verdict.outcome, verdict.exit_code) == (Outcome.GUARD, 3), verdict.sentence
    assert states(history) == ["armed", "applied", "cleared"]
    assert history.records[-1].t < 15, "it did not wait for the fault's own end"


def test_a_signal_ends_it_and_the_fault(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.drills.playing", str(tmp_path)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("kill-redis: process_kill"):
                break
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        code = process.wait(60)

    history = read_history(tmp_path / "history.jsonl")
    assert code == 4
    assert states(history) == ["armed", "applied", "cleared"]
    assert judge(history).outcome is Outcome.INTERRUPTED


def test_a_server_that_does_not_come_back_is_told_before_all_else(tmp_path: Path) -> None:
    binary = tmp_path / "valkey-server"
    shutil.copy(valkey_binary(None), binary)
    server = ValkeyServer(binary=binary)
    server.start()
    binary.unlink()

    verdict, report = run_drill(
        playing.script(), directory=tmp_path / "report", open_stage=lambda _: playing.stage(server)
    )

    assert (verdict.outcome, verdict.exit_code) == (Outcome.UNDO_FAILED, 5), verdict.sentence
    assert report is not None
    assert states(read_history(tmp_path / "report" / "history.jsonl")) == ["armed", "applied", "undo_failed"]


def test_too_little_seen_is_inconclusive(tmp_path: Path) -> None:
    verdict, _ = play(tmp_path, least=100_000)

    assert (verdict.outcome, verdict.exit_code) == (Outcome.INCONCLUSIVE, 6), verdict.sentence


@pytest.mark.parametrize("fault", ["process_freeze", "process_pause", "outage"])
def test_other_outages_hold_too(tmp_path: Path, fault: str) -> None:
    verdict, history = play(tmp_path, fault=fault)

    assert verdict.outcome is Outcome.HELD, verdict.sentence
    assert states(history)[-1] == "cleared"


def test_pairs_in_the_history_are_the_flips_that_were(tmp_path: Path) -> None:
    """An injected outage leaves the store whole, so every degraded row has its reference: 0.1 u against 0.05 u."""
    verdict, history = play(tmp_path, fault="outage")

    pairs = [pair for pair in history.of(Pair) if pair.origin == "SNAPSHOT"]
    flips = sum(pair.flips for pair in pairs)
    rows = sum(pair.rows for pair in pairs)
    assert rows > 50
    # Of ten users 5 to 9 score 0.5 and more on the primary, none but 10 does on the snapshot.
    assert abs(flips / rows - 0.5) < 0.15
    assert verdict.numbers["flip_rate"] is not None


def test_a_fault_on_a_source_that_is_not_there_is_invalid(tmp_path: Path) -> None:
    wrong = playing.script(fault="outage", source="primari")
    server = ValkeyServer().start()

    verdict, _ = run_drill(wrong, directory=tmp_path, open_stage=lambda _: playing.stage(server))

    assert verdict.exit_code == 2
    assert verdict.sentence == "kill-redis: inject.source: wanted one of primary, standby, got 'primari'"
    assert not server.is_running


def test_a_world_refuses_a_model_it_would_not_use(tmp_path: Path) -> None:
    script = playing.script()
    script = script.model_copy(update={"target": script.target.model_copy(update={"world": "flights"})})

    verdict, _ = run_drill(script, directory=tmp_path)

    assert verdict.exit_code == 2
    assert verdict.sentence.startswith("load.requests: the world flights brings its own")
