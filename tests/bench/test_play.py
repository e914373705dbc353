"""A bench played on memory sources: one load before, during and after, and everything undone."""

from __future__ import annotations

import datetime as dt
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from featurechaos import FeatureClient
from featurechaos.bench.breaks import breaks_of
from featurechaos.bench.cold import started_cold, with_empty_cache
from featurechaos.bench.figures import Figures
from featurechaos.bench.play import Setup, WholeReads, can_break_again, play
from featurechaos.bench.pool import Pool
from featurechaos.bench.verdict import judge
from featurechaos.config import Settings, load
from featurechaos.drills.history import Start
from featurechaos.errors import FeatureError, StoreUnavailable
from featurechaos.testing import MemoryStore
from tests.bench.test_given import state

CONFIG: dict[str, Any] = {
    "project": "shop",
    "sources": {"primary": {"type": "memory"}},
    "views": [
        {"name": "user", "join_keys": {"id": "int64"}, "features": {"score": {"dtype": "float32", "default": 0.5}}}
    ],
    "policy": {"last_known": None, "breaker": None},
    "chaos": {"enabled": True, "max_share": 0.01},
}
POOL = Pool(({"id": list(range(500))},), "500 of a test")


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a store that all clients of a test share, with a row for each entity."""
    found, store = load(CONFIG, environ={"FEATURECHAOS_CHAOS": "armed"}), MemoryStore("primary")
    monkeypatch.setattr(MemoryStore, "open", lambda *_: store)
    with FeatureClient(found) as client:
        at = [dt.datetime.fromtimestamp(client.clock.wall() - 60, dt.UTC)] * 500
        client.write_to_online_store("user", {"id": list(range(500)), "score": [0.1] * 500, "event_timestamp": at})
    return found


def setup(settings: Settings, **changes: Any) -> Setup:
    wanted: dict[str, Any] = {"features": ["user:score"], "views": ["user"], "pool": POOL, "rate_per_s": 200.0}
    return Setup(settings, **(wanted | {"batch": 5, "for_s": 0.5, "seed": 7} | changes))


@pytest.mark.slow
def test_an_injected_outage_hits_every_read_of_the_bench_and_is_over_at_its_end(
    settings: Settings, tmp_path: Path
) -> None:
    breaks = breaks_of(settings, ["outage:primary"], [], signal="stop", for_s=0.5)

    figures = Figures.of(play(setup(settings, breaks=breaks), tmp_path / "history.jsonl"))

    before, during, after = (figures.phases[name] for name in ("before", "during", "after"))
    assert before.origins.keys() == {"PRIMARY"}
    # What was under way when it began belongs to it; on a busy machine that is a good deal.
    assert during.origins["DEFAULT"].share > 0.5
    # On a machine that is busy elsewhere some reads of memory are too late, too.
    assert after.origins["PRIMARY"].share > 0.5
    assert figures.applied is not None and figures.applied > 50, "chaos.max_share bounds no process that serves nobody"
    assert figures.recovery is not None and figures.recovery.after_s is not None
    verdict = judge(figures)
    assert verdict.exit_code == 1
    assert "of rows were without a stored value" in verdict.sentence


@pytest.mark.slow
def test_what_the_bench_itself_holds_is_not_collected_while_users_wait(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.unfreeze()
    draw, frozen = Pool.draw, [gc.get_freeze_count()]

    def drawn(*asked: Any) -> Any:
        frozen.append(gc.get_freeze_count())
        return draw(*asked)

    monkeypatch.setattr(Pool, "draw", drawn)

    play(setup(settings), tmp_path / "history.jsonl")

    assert frozen[-1] > frozen[0] + 1000
    assert gc.get_freeze_count() == frozen[0]


@pytest.mark.slow
def test_nothing_broken_is_one_phase(settings: Settings, tmp_path: Path) -> None:
    figures = Figures.of(play(setup(settings, for_s=1.0), tmp_path / "history.jsonl"))

    assert list(figures.phases) == ["warm"]
    assert figures.phases["warm"].requests > 100
    assert figures.phases["warm"].rows == 5 * figures.phases["warm"].requests


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(120)"]) as process:
        yield process
        process.kill()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="states of processes are read from /proc")
def test_the_wrong_process_is_let_go_and_told(
    settings: Settings, victim: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    breaks = breaks_of(settings, [], [f"primary={victim.pid}"], signal="stop", for_s=0.5)
    seen = []

    def say(line: str) -> None:
        seen.append((line, state(victim.pid)))

    verdict = judge(Figures.of(play(setup(settings, breaks=breaks), tmp_path / "history.jsonl", say=say)))

    assert [each for each in seen if each[1] == "T"] == [], "it is told before it is done, and after it is undone"
    assert state(victim.pid) != "T"
    assert verdict.exit_code == 6
    assert "Source 'primary' went on serving 100 % of rows: is that its server? (SIGSTOP to process" in verdict.sentence


@pytest.mark.skipif(sys.platform != "linux", reason="states of processes are read from /proc")
def test_what_cannot_begin_leaves_nothing_stopped(
    settings: Settings, victim: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    breaks = breaks_of(settings, [], [f"primary={victim.pid}"], signal="stop", for_s=0.5)
    assert breaks[0].process is not None
    breaks[0].process.freeze()

    with pytest.raises(FeatureError):
        play(setup(settings, breaks=breaks, features=["user:none"]), tmp_path / "history.jsonl")

    assert state(victim.pid) != "T"


@pytest.mark.skipif(sys.platform != "linux", reason="states of processes are read from /proc")
def test_a_killed_server_that_somebody_started_again_is_not_told_as_dead(
    settings: Settings, victim: subprocess.Popen[bytes]
) -> None:
    """A process that starts then would be measured on a server that is well."""
    breaks = breaks_of(settings, [], [f"primary={victim.pid}"], signal="kill", for_s=0.5)
    with FeatureClient(settings) as client:
        store: Any = client.store("primary")
        while_it_runs = can_break_again(breaks, client)
        victim.kill()
        victim.wait()
        back = can_break_again(breaks, client)
        store.fail_with = StoreUnavailable("gone")
        dead = can_break_again(breaks, client)

    assert (while_it_runs, back, dead) == (False, False, True)


class Touched(dict[str, int]):
    """Columns that know which of them were asked for."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(dict.fromkeys(names, 0))
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> int:
        self.asked.append(name)
        return super().__getitem__(name)


def test_a_read_is_timed_with_every_value_in_hand(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SimpleNamespace(columns=Touched(["user__score", "user__age"]))
    monkeypatch.setattr(FeatureClient, "get_online_features", lambda *args, **options: answer)

    with WholeReads(settings) as client:
        client.get_online_features(["user:score", "user:age"], {"id": [1]})

    assert answer.columns.asked == ["user__score", "user__age"]


@pytest.mark.slow
def test_a_process_really_starts_and_tells_how_it_fares(settings: Settings) -> None:
    armed = {"batch": 5, "seed": 7, "may_lose": 0.01, "most_s": 1.0}

    well = started_cold(settings, ["user:score"], ["user"], POOL, **armed)  # type: ignore[arg-type]

    assert well.why == ""
    assert well.made_s is not None and well.first_s is not None
    assert 0 < well.made_s <= well.first_s == well.good_s
    assert well.good_origins == {"PRIMARY": 5}
    assert not well.has_local


@pytest.mark.slow
def test_a_process_that_starts_while_it_is_broken_has_no_good_answer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATURECHAOS_CHAOS", "armed")
    breaks = breaks_of(settings, ["outage:primary"], [], signal="stop", for_s=0.5)

    ill = started_cold(
        settings, ["user:score"], ["user"], POOL, batch=5, seed=7, may_lose=0.01, breaks=breaks, most_s=1.0
    )

    assert ill.why == ""
    assert ill.good_s is None
    assert ill.first_origins == {"DEFAULT": 5}
    assert ill.looked_s >= 1.0


def test_a_cold_process_keeps_its_copies_apart_and_has_the_config_as_it_was_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BUCKET", "features")
    standby = {"type": "s3", "url": "s3://${BUCKET}/shop", "cache_dir": "mine"}
    written = load({**CONFIG, "sources": {**CONFIG["sources"], "standby": standby}})

    text = with_empty_cache(written, "given/$1")

    assert text["sources"]["standby"] == {**standby, "cache_dir": "given/$$1/standby"}
    assert {**text, "sources": {}} == {**written.source_text, "sources": {}}
    assert load(text).sources["standby"].spec.cache_dir == "given/$1/standby"  # type: ignore[attr-defined]


def test_the_journal_holds_what_was_played(settings: Settings, tmp_path: Path) -> None:
    record = play(setup(settings, for_s=0.5, rate_per_s=40.0), tmp_path / "history.jsonl")

    (start,) = record.history.of(Start)
    assert start.config["project"] == "shop"
    assert start.deadline_s == record.asked.deadline_s == 0.05
    assert record.asked.entities == "500 of a test"
