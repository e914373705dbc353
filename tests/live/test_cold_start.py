"""The first call of a process whose every source is down; and how still everything is before it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from featurechaos import Cause, Origin, Status
from tests.live.conftest import TOKEN
from tests.live.truth import DEFAULT_DELAY, VIEWS
from tests.live.watchdog import Watchdog

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
DEADLINE_S, GRACE_S = 0.050, 0.010

# What Python itself does to the network or to start processes is heard, whoever asks for it.
PROGRAM = """
import json, sys
heard = []
LOUD = {"socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto"}
LOUD |= {"subprocess.Popen", "os.fork", "os.posix_spawn"}
sys.addaudithook(lambda event, args: heard.append(event) if event in LOUD else None)

from featurechaos import AsyncFeatureClient, FeatureClient
from featurechaos.clock import SystemClock
from tests.live.watchdog import hasten
import asyncio

now = SystemClock().monotonic
config, kind = json.loads(sys.argv[1]), sys.argv[2]
hasten()
FEATURES, ROWS = ["plane:number", "airport:delay", "airport:count"], {"tail": [1, 2], "code": ["K1", "K2"]}

def tell(client, still, began, ended, response):
    plane, airport = response.provenance("plane"), response.provenance("airport")
    print(json.dumps({
        "still": still, "began": began, "ended": ended, "loud": sorted(set(heard)),
        "plane": [plane.origin.tolist(), plane.status.tolist(), plane.cause.tolist()],
        "airport": [airport.origin.tolist(), airport.status.tolist(), airport.cause.tolist()],
        "delay": response.columns["delay"].tolist(),
        "nulls": {name: response.nulls[name].tolist() for name in response.nulls},
    }))

def threads():
    client = FeatureClient.from_config(config)
    still, began = list(heard), now()
    response = client.get_online_features(FEATURES, ROWS)
    tell(client, still, began, now(), response)
    client.close()

async def tasks():
    client = AsyncFeatureClient.from_config(config)
    still, began = list(heard), now()
    response = await client.get_online_features(FEATURES, ROWS)
    tell(client, still, began, now(), response)
    await client.close()

threads() if kind == "threads" else asyncio.run(tasks())
"""


@pytest.fixture(params=["refused", "silent", "full"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port where nobody listens; one that accepts and never speaks; one that does not even accept."""
    with ExitStack() as stack:
        held = stack.enter_context(socket.socket())
        held.bind(("127.0.0.1", 0))
        if request.param != "refused":
            held.listen(0 if request.param == "full" else 64)
        if request.param == "full":
            for _ in range(4):  # the queue of those who wait to be accepted
                caller = stack.enter_context(socket.socket())
                caller.setblocking(False)
                caller.connect_ex(held.getsockname())
        yield held.getsockname()[1]


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_it_answers_in_time_with_what_there_is(kind: str, port: int, tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "project": "cold",
        "sources": {
            "primary": {"type": "redis", "url": f"redis://127.0.0.1:{port}/0"},
            "standby": {
                "type": "s3", "url": "s3://features/cold", "endpoint_url": f"http://127.0.0.1:{port}",
                "region": "us-east-1", "cache_dir": str(tmp_path),
            },
        },
        "views": VIEWS,
        "policy": {"deadline_s": DEADLINE_S},
        "chaos": {"enabled": True, "listen": "127.0.0.1:0"},
        "metrics": {"port": 0},
    }  # fmt: skip
    environ = {**os.environ, "FEATURECHAOS_CHAOS": "armed", "FEATURECHAOS_TOKEN": TOKEN}

    with Watchdog() as watchdog:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(config), kind],
            capture_output=True, text=True, timeout=60, check=False, cwd=ROOT, env=environ,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)

    assert told["still"] == []
    assert "socket.connect" in told["loud"]
    late_s = told["ended"] - told["began"] - DEADLINE_S - GRACE_S
    assert late_s <= 0 or watchdog.excuses(told["began"], told["ended"], late_s), late_s
    for view, origin in (("plane", Origin.NONE), ("airport", Origin.DEFAULT)):
        origins, statuses, causes = told[view]
        assert (origins, statuses) == ([origin] * 2, [Status.UNAVAILABLE] * 2)
        assert set(causes) <= {Cause.TIMEOUT, Cause.REFUSED}
    assert told["delay"] == [DEFAULT_DELAY] * 2
    assert told["nulls"] == {"number": [True] * 2, "delay": [False] * 2, "count": [True] * 2}
