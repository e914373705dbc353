"""The primary comes back without its data, under load: it is not believed for long, and believed again once filled."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featurechaos import Cause, Origin, Status
from featurechaos.demo.servers import S3Server, ValkeyServer
from tests.live.conftest import Answers, Service, World, now, pause
from tests.live.timing import back_after_s, share
from tests.live.truth import AWAY, LIVE, VIEWS, is_online, table
from tests.live.watchdog import Watchdog, hasten

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.long]

BREAKER = {"window_s": 3.0, "open_s": 0.5, "healthy_s": 0.5, "ramp_s": 1.0}
BACK_S = 0.5 + 0.5 + 1.0 + 3.0
MIN_ROWS, CALM_ROWS, ROWS_A_REQUEST, AT_ONCE = 200, 16, 12, 8
MOST_BELIEVED = MIN_ROWS + CALM_ROWS + (1 + AT_ONCE) * ROWS_A_REQUEST
"""What it takes to judge, and what is on its way meanwhile."""
KINDS: dict[str, Any] = {"threads": {"many": AT_ONCE, "pause_s": 0.06}, "tasks": {"many": 32, "pause_s": 0.4}}


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        hasten(server.pid)
        yield server


@pytest.fixture
def stored(armed: None, valkey: ValkeyServer, s3: S3Server, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World.on(valkey, s3, tmp_path, stack).fill()


def flushed(valkey: ValkeyServer) -> None:
    with socket.create_connection(("127.0.0.1", valkey.port), 5) as connection:
        connection.settimeout(5)
        connection.sendall(b"FLUSHALL SYNC\r\n")
        assert connection.recv(64) == b"+OK\r\n"


def restarted(valkey: ValkeyServer) -> None:
    valkey.kill()
    valkey.restart()
    hasten(valkey.pid)


def refilled(world: World) -> None:
    with world.client() as client:
        for view in VIEWS:
            client.write_to_online_store(view["name"], table(view["name"], LIVE, world.base_us))


@pytest.mark.parametrize("emptied", [flushed, restarted], ids=lambda one: one.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_primary_is_not_believed_for_long(
    kind: Any, emptied: Callable[[ValkeyServer], None], stored: World, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    policy = {"breaker": BREAKER, "deadline_s": 0.3}
    config = stored.config(primary={"timeout_s": 0.1}, policy=policy)
    with Watchdog() as watchdog, Service(config, tmp_path / "told.npz", kind=kind, **KINDS[kind]) as service:
        service.wait_until_ready()
        pause(1.0)
        emptied(stored.valkey)
        gone = now()
        pause(3.0)
        refilled(stored)
        full = now()
        pause(BACK_S + 0.7)
        told = service.stop()

    believed = {view["name"]: believed_of(told, view["name"]) for view in VIEWS}
    rows = sum(int(each.sum()) for each in believed.values())
    last = max((float(since) for each in believed.values() for since in began_of(told)[each] - gone), default=0.0)
    origin, cause = told.by_request("plane.truth.origin"), told.by_request("plane.truth.cause")
    began, ended = told.columns["began"], told.columns["ended"]
    settled = (began > gone + 1.0) & (ended < full - 0.5)
    after = (began > full + BACK_S) & (ended < full + BACK_S + 0.7)
    again = back_after_s(began - full, origin, BACK_S)
    tell(f"{kind}: {rows} rows NOT_FOUND, the last {last:.2f} s after; 90 % the primary's again {again:.1f} s after")

    assert told.failed == []
    assert rows <= MOST_BELIEVED
    assert last < 1.0 or len(watchdog)
    for view in VIEWS:
        seen = replace(told.seen(view["name"]), away=(*AWAY, Cause.EMPTY)).only(~believed[view["name"]])
        assert seen.check(stored.base_us) == []
    assert share(origin[settled], Origin.SNAPSHOT) > 0.95, "2 % of the keys are not in the image"
    assert set(cause[settled].ravel().tolist()) == {Cause.EMPTY}
    assert share(origin[after], Origin.PRIMARY) >= 0.9 or len(watchdog)


def believed_of(told: Answers, view: str) -> NDArray[np.bool_]:
    """The rows that were said not to exist though they were written: bool, by row."""
    truth = {name: told.columns[f"{view}.truth.{name}"] for name in ("origin", "status")}
    absent = (truth["origin"] == Origin.PRIMARY) & (truth["status"] == Status.NOT_FOUND)
    return np.asarray(absent & is_online(told.columns["key"]))


def began_of(told: Answers) -> NDArray[np.float64]:
    """When the request of each row began."""
    return np.repeat(told.columns["began"], len(told.columns["key"]) // len(told))
