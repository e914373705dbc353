"""`doctor`: each thing that is wrong with the world is found, and what to do is said; reads only."""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from featurechaos import FeatureClient
from featurechaos.cli import doctoring
from featurechaos.clock import SystemClock
from featurechaos.demo.servers import S3Server, ValkeyServer
from tests.cli.conftest import Run

CONFIG = """
project: clinic
sources:
  primary: {{type: redis, url: "{url}", timeout_s: {timeout_s}}}
  {standby}
views:
  - {{name: user, join_keys: {{id: int64}}, ttl_s: 3600, max_age_s: 86400, features: {{score: {{dtype: float32}}}}}}
policy: {{deadline_s: 5.0, breaker: {{slow_s: 0.001}}}}
"""
Doctor = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def emptied(valkey: ValkeyServer) -> ValkeyServer:
    with Redis.from_url(valkey.url) as connection:
        connection.flushall()
    return valkey


@pytest.fixture
def doctor(folder: Path, run: Run, emptied: ValkeyServer) -> Doctor:
    """What the doctor says of a config, by check; `code` is the exit code."""

    def examine(
        *, url: str | None = None, timeout_s: float = 1.0, standby: str = "", rows_age_s: float | None = None
    ) -> dict[str, dict[str, Any]]:
        text = CONFIG.format(url=url or emptied.url, timeout_s=timeout_s, standby=standby)
        (folder / "featurechaos.yaml").write_text(text)
        if rows_age_s is not None:
            fill(folder, rows_age_s)
        ran = run("doctor", "--json")
        found = json.loads(ran.out)
        told = {one["check"]: one for one in found}
        return {**told, "exit": {"code": ran.code, "all": found}}

    return examine


def fill(folder: Path, age_s: float) -> None:
    with FeatureClient.from_config(folder / "featurechaos.yaml") as client:
        at = dt.datetime.fromtimestamp(client.clock.wall() - age_s, dt.UTC)
        table = {"id": list(range(300)), "score": [0.5] * 300, "event_timestamp": [at] * 300}
        client.write_to_online_store("user", table)


@pytest.mark.live
def test_a_sound_store_is_found_sound(doctor: Doctor) -> None:
    told = doctor(rows_age_s=5)

    assert told["exit"]["code"] == 0
    levels = {check: one["level"] for check, one in told.items() if check not in ("exit", "latency", "pause")}
    assert levels == {"plan": "warn", "reach": "ok", "rows": "ok", "age": "ok", "clock": "ok"}
    assert told["rows"]["says"] == "100 sampled rows are sound"
    assert "100 rows took" in told["latency"]["says"]
    assert "gc.freeze()" in told["pause"]["do"]


@pytest.mark.live
def test_each_line_says_what_to_do(doctor: Doctor, run: Run) -> None:
    doctor()

    lines = run("doctor").out.splitlines()

    assert any(
        line.startswith("warn  rows") and "-> write some" in line and "fc:clinic:user:{" in line for line in lines
    )
    assert lines[-1].endswith("to put right")


@pytest.mark.live
@pytest.mark.parametrize(
    ("age_s", "level", "says"), [(7200, "warn", "ttl_s is 3600"), (100_000, "fail", "past max_age_s, none is served")]
)
def test_old_rows_are_found(doctor: Doctor, age_s: float, level: str, says: str) -> None:
    told = doctor(rows_age_s=age_s)

    assert told["age"]["level"] == level
    assert says in told["age"]["says"]
    assert told["exit"]["code"] == int(level == "fail")


@pytest.mark.live
def test_a_witness_that_nobody_fills_is_found(
    doctor: Doctor, emptied: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in no order, and still what pairs are made of."""
    of_witness = "policy: {{order: [primary], deadline_s"
    filled = CONFIG.replace("policy: {{deadline_s", of_witness) + "impact: {{reference_source: witness}}\n"
    monkeypatch.setitem(globals(), "CONFIG", filled)
    elsewhere = emptied.url.removesuffix("/0") + "/1"

    told = doctor(standby=f'witness: {{type: redis, url: "{elsewhere}", timeout_s: 1.0}}', rows_age_s=5)

    rows = [(one["about"], one["level"], one["says"]) for one in told["exit"]["all"] if one["check"] == "rows"]
    assert rows == [
        ("primary, view 'user'", "ok", "100 sampled rows are sound"),
        ("witness, view 'user'", "warn", "no row is stored"),
    ]


@pytest.mark.live
def test_damaged_rows_are_found(doctor: Doctor, emptied: ValkeyServer) -> None:
    doctor(rows_age_s=5)
    with Redis.from_url(emptied.url) as connection:
        for key in connection.scan_iter("fc:clinic:user:*"):
            connection.setrange(key, 40, b"\xff\x00")

    told = doctor()

    assert (told["rows"]["level"], told["exit"]["code"]) == ("fail", 1)
    assert "of 100 sampled rows 100 damaged, such as id=" in told["rows"]["says"]


@pytest.mark.live
def test_rows_that_others_write_are_looked_for_under_their_own_keys(
    doctor: Doctor, emptied: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        globals(), "CONFIG", CONFIG.replace("type: redis,", 'type: redis, layout: hash, key: "u/{{id}}",')
    )
    nothing = doctor()
    with Redis.from_url(emptied.url) as connection:
        for at in range(10):
            connection.hset(f"u/{at}", mapping={"score": at})
    undated = doctor()
    with Redis.from_url(emptied.url) as connection:
        for at in range(10):
            connection.hset(f"u/{at}", "event_timestamp", SystemClock().wall())
    dated = doctor()
    with Redis.from_url(emptied.url) as connection:
        connection.hset("u/7", "score", "a lot")
    damaged = doctor()

    assert "keys look like 'u/*'" in nothing["rows"]["do"]
    assert (undated["rows"]["says"], undated["age"]["level"]) == ("10 sampled rows are sound", "fail")
    assert "no sampled row has an event time" in undated["age"]["says"]
    assert dated["age"]["level"] == "ok"
    assert "10 rows took" in dated["latency"]["says"]
    assert damaged["rows"]["says"] == "of 10 sampled rows 1 damaged, such as id=7"
    assert damaged["rows"]["do"] == "look at it: is each cell a value of its dtype?"


def test_a_read_slower_than_its_timeout_is_a_failure(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        def layouts(self, project: str, hashes: Any, until: float) -> dict[int, bytes]:
            threading.Event().wait(0.003)
            return {}

    monkeypatch.setattr(FeatureClient, "store", lambda self, name: Slow())
    monkeypatch.setattr(doctoring, "READS", 5)
    (folder / "featurechaos.yaml").write_text(CONFIG.format(url="redis://127.0.0.1:9", timeout_s=0.002, standby=""))

    found = {one["check"]: one for one in json.loads(run("doctor", "--json").out)}

    assert found["latency"]["level"] == "fail"
    assert "raise its timeout_s" in found["latency"]["do"]


def test_nobody_there_is_a_failure(folder: Path, run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (folder / "featurechaos.yaml").write_text(CONFIG.format(url=f"redis://127.0.0.1:{port}", timeout_s=1.0, standby=""))

    ran = run("doctor")

    assert ran.code == 1
    (line,) = [line for line in ran.out.splitlines() if "reach" in line]
    assert line.startswith("fail  reach     primary: no answer")
    assert "are its address and port right?" in line


@pytest.mark.live
def test_a_user_who_may_not_read_is_found(folder: Path, run: Run) -> None:
    with ValkeyServer(acl=["nobody on >secret-of-nobody ~other:* +ping +hello +auth"]) as server:
        url = server.url.replace("redis://", "redis://nobody:secret-of-nobody@")
        (folder / "featurechaos.yaml").write_text(CONFIG.format(url=url, timeout_s=1.0, standby=""))
        ran = run("doctor")

    assert ran.code == 1
    assert "it refuses us" in ran.out
    assert "let its user read fc:clinic:*" in ran.out
    assert "secret-of-nobody" not in ran.out + ran.err


def test_a_clock_that_is_off_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ahead:
        def __init__(self, by_s: float) -> None:
            self.by_s = by_s

        def server_time(self, until: float) -> float:
            return SystemClock().wall() + self.by_s

    levels = []
    config = {"project": "t", "sources": {"primary": {"type": "memory"}}, "views": []}
    for by_s in (0.0, 5.0, -5.0, 100.0):
        with FeatureClient.from_config(config | {"views": [VIEW]}) as client:
            monkeypatch.setattr(client, "store", lambda name, by_s=by_s: Ahead(by_s))
            (finding,) = doctoring._clock(client, "primary")
            levels.append(finding.level)

    assert levels == ["ok", "warn", "warn", "fail"]


VIEW = {"name": "v", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}}}


def test_a_store_that_cannot_list_its_rows_is_not_blamed(folder: Path, run: Run) -> None:
    found = json.loads(run("doctor", "--json").out)

    assert [one["level"] for one in found if one["check"] == "rows"] == ["ok"] * 2
    assert not [one for one in found if one["level"] == "fail"]


def test_switches_are_told(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURECHAOS_BYPASS", "1")

    found = json.loads(run("doctor", "--json").out)

    assert [one["about"] for one in found if one["check"] == "switch"] == ["FEATURECHAOS_BYPASS"]


@pytest.mark.live
def test_snapshots_are_looked_for(doctor: Doctor, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = CONFIG.replace("sources:\n", "sources:\n  other: {{type: memory}}\n")
    ordered = beside.replace("policy: {{deadline_s", "policy: {{order: [primary, standby], deadline_s")
    monkeypatch.setitem(globals(), "CONFIG", ordered)
    with S3Server(buckets=("clinic",)) as s3:
        for name, value in s3.credentials().items():
            monkeypatch.setenv(name, value)
        standby = (
            f'standby: {{type: s3, url: "s3://clinic/x", endpoint_url: "{s3.endpoint_url}", region: us-east-1, '
            f'refresh_s: 3600, cache_dir: "{folder / "cache"}"}}'
        )
        none = doctor(rows_age_s=5, standby=standby)["snapshot"]
        with FeatureClient.from_config(folder / "featurechaos.yaml") as client:
            at = dt.datetime.fromtimestamp(client.clock.wall() - 7200, dt.UTC)
            client.publish_snapshot("user", {"id": [1], "score": [0.5], "event_timestamp": [at]})
        old = doctor(standby=standby)["snapshot"]

    assert none["level"] == "warn"
    assert none["do"] == "featurechaos snapshot publish user --from primary", "not the first of the file"
    assert old["level"] == "warn"
    assert "the newest image has 1 rows and is 2 h old: its rows will be EXPIRED" in old["says"]
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in json.dumps([none, old])
