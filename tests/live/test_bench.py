"""`featurechaos bench` on a real Valkey and a real S3 server: the primary is frozen by its pid, and let go again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from featurechaos import FeatureClient
from featurechaos.cli.sampling import pool_of
from featurechaos.clock import SystemClock
from featurechaos.config import load
from featurechaos.demo.servers import S3Server, ValkeyServer
from featurechaos.errors import RequestError
from tests.bench.test_given import becomes_running, state
from tests.cli.conftest import start

pytestmark = [
    pytest.mark.long,
    pytest.mark.live,
    pytest.mark.skipif(sys.platform != "linux", reason="states of processes are read from /proc"),
]

# Far from the limits of time: what is asked here is where rows come from, on a machine that is never quiet.
CONFIG = """
project: shop
sources:
  primary: {{type: redis, url: "{valkey}", timeout_s: 0.4}}
  standby: {{type: s3, url: "s3://features/{prefix}", endpoint_url: "{s3}", region: us-east-1, cache_dir: "{cache}"}}
views:
  - name: user
    join_keys: {{user_id: int64}}
    features: {{clicks_7d: {{dtype: float32, default: 0.0}}, taste: {{dtype: "float32[8]"}}}}
    ttl_s: 86400
  - {{name: friend, from: user, join_keys: {{friend_id: user_id}}}}
  - {{name: item, join_keys: {{sku: string}}, features: {{price: {{dtype: float64}}}}, ttl_s: null}}
policy:
  deadline_s: 2.0
  on_missing: fallback
  last_known: null
  breaker: {{window_s: 2, open_s: 0.3, healthy_s: 0.2, ramp_s: 0.3, slow_s: 0.09}}
chaos: {{enabled: true}}
"""
ROWS = 800


@pytest.fixture
def primary() -> Iterator[ValkeyServer]:
    """A server of this test's own: it is hurt."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def world(s3: S3Server, primary: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config over both servers, rows in the primary and an image of them, two hours old."""
    for name, value in {**s3.credentials(), "FEATURECHAOS_CHAOS": "armed"}.items():
        monkeypatch.setenv(name, value)
    text = CONFIG.format(valkey=primary.url, s3=s3.endpoint_url, prefix=uuid4().hex, cache=tmp_path / "cache")
    (tmp_path / "featurechaos.yaml").write_text(text)
    with FeatureClient.from_config(tmp_path / "featurechaos.yaml") as client:
        now = datetime.fromtimestamp(SystemClock().wall(), UTC)
        for view, table in tables(now).items():
            client.write_to_online_store(view, table)
        for view, table in tables(now - timedelta(hours=2)).items():
            client.publish_snapshot(view, table)
    return tmp_path


def tables(when: datetime) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(7)
    stamps = [when] * ROWS
    return {
        "user": {
            "user_id": list(range(ROWS)),
            "clicks_7d": rng.random(ROWS),
            "taste": rng.random((ROWS, 8)),
            "event_timestamp": stamps,
        },
        "item": {"sku": [f"s|{k}" for k in range(ROWS)], "price": rng.random(ROWS), "event_timestamp": stamps},
    }


@pytest.mark.slow
def test_users_of_a_frozen_primary_are_served_by_the_snapshot_and_by_the_primary_again(
    world: Path, primary: ValkeyServer
) -> None:
    arguments = ["--pid", f"primary={primary.pid}", "--for-s", "3", "--rate", "60", "--batch", "10"]
    with start("bench", *arguments, "--json", "--report", "out", folder=world) as process:
        out, _ = process.communicate()

    told = json.loads(out)
    assert process.returncode == told["exit_code"]
    # On a busy machine the bench says so, and nothing else against the client.
    assert told["outcome"] == "held" or told["sentence"].startswith("The machine was busy elsewhere"), told["sentence"]
    assert state(primary.pid) != "T"
    phases, cold = told["phases"], told["cold"]
    assert phases["before"]["origins"]["PRIMARY"]["share"] > 0.9
    # What is under way when it freezes may have been answered a moment before.
    assert phases["during"]["origins"]["SNAPSHOT"]["share"] > 0.95
    assert phases["during"]["origins"].keys() <= {"PRIMARY", "SNAPSHOT"}
    assert phases["during"]["origins"]["SNAPSHOT"]["oldest_s"] >= 7200
    assert all(one["failed"] == 0 and one["requests"] >= 100 for one in phases.values())
    assert all(one["rows"] == one["requests"] * 10 * 3 for one in phases.values()), "three views of ten entities each"
    assert told["recovery_s"] is not None
    assert 7200 <= told["image_age_s"]["user"] < 7200 + 600
    assert told["entities"] == "800 of user_id, 800 of friend_id, 800 of sku, as they are stored"
    assert cold["before"]["good_origins"].keys() == {"PRIMARY"}
    assert cold["during"]["good_origins"].keys() == {"SNAPSHOT"}, "hydrated from S3 while the primary was frozen"
    assert cold["during"]["good_s"] >= cold["during"]["whole_s"] - 0.5
    assert (world / "out" / "report.html").read_text().count("primary frozen") > 2


def test_entities_are_taken_from_the_snapshot_when_the_primary_is_gone(world: Path, primary: ValkeyServer) -> None:
    primary.kill()
    settings = load(world / "featurechaos.yaml")

    pool = pool_of(settings, ["friend", "item"], None)

    assert [(list(group), len(pool)) for group in pool.groups] == [(["friend_id"], ROWS), (["sku"], ROWS)]
    assert sorted(pool.groups[0]["friend_id"]) == list(range(ROWS))
    assert "s|7" in pool.groups[1]["sku"]


def test_no_entity_anywhere_is_a_sentence_that_says_why(world: Path, s3: S3Server) -> None:
    text = (world / "featurechaos.yaml").read_text().replace("project: shop", "project: other")
    (world / "other.yaml").write_text(text.replace("s3://features/", "s3://features/other-"))

    with pytest.raises(RequestError) as refused:
        pool_of(load(world / "other.yaml"), ["item"], None)

    assert str(refused.value) == (
        "there is no entity of view 'item' to ask about (primary holds none; standby: view 'item' has no current "
        "image): name some with --entities FILE"
    )


def until_frozen(process: subprocess.Popen[str], pid: int) -> None:
    assert process.stderr is not None
    while "process_freeze" not in process.stderr.readline():
        assert process.poll() is None
    until = SystemClock().monotonic() + 20
    while state(pid) != "T":
        assert SystemClock().monotonic() < until
        threading.Event().wait(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_primary_runs_on_however_the_bench_ends(world: Path, primary: ValkeyServer, number: signal.Signals) -> None:
    arguments = ["--pid", f"primary={primary.pid}", "--for-s", "6", "--rate", "20", "--batch", "2", "--no-cold"]
    (world / "rows.json").write_text(json.dumps({"user_id": [1, 2], "friend_id": [3, 4], "sku": ["s|1", "s|2"]}))
    with start("bench", *arguments, "--entities", "rows.json", folder=world) as process:
        until_frozen(process, primary.pid)
        os.kill(process.pid, number)
        process.communicate()

    assert becomes_running(primary.pid)
    assert process.returncode == (-number if number is signal.SIGKILL else 4)


@pytest.mark.slow
def test_users_of_a_killed_primary_live_by_the_snapshot_and_nobody_waits_for_it(
    world: Path, primary: ValkeyServer
) -> None:
    arguments = ["--pid", f"primary={primary.pid}", "--signal", "kill", "--for-s", "3", "--rate", "60", "--batch", "5"]
    with start("bench", *arguments, "--features", "item:price", "--no-cold", "--json", folder=world) as process:
        out, _ = process.communicate()

    told = json.loads(out)
    assert process.returncode == told["exit_code"]
    # On a busy machine the bench says so, and nothing else against the client.
    assert told["outcome"] == "held" or told["sentence"].startswith("The machine was busy elsewhere"), told["sentence"]
    assert not primary.is_running
    assert told["recovery_s"] is None
    assert told["phases"]["after"]["origins"].keys() == {"SNAPSHOT"}
