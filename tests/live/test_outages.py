"""The primary is killed, frozen, paused or made to trickle: no request fails, none is late, none lies."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featurechaos import Cause, Origin
from featurechaos.demo.proxy import TrickleProxy
from featurechaos.demo.servers import S3Server, ValkeyServer
from tests.live.conftest import Answers, Service, World, now, pause
from tests.live.watchdog import Span, Watchdog, hasten

pytestmark = [pytest.mark.live, pytest.mark.slow]

DEADLINE_S, GRACE_S, TIMEOUT_S = 0.050, 0.010, 0.015
BREAKER = {"open_s": 0.5, "healthy_s": 0.5, "ramp_s": 1.0}
BACK_S = sum(BREAKER.values()) + 3.0
HEALTHY_S, AWAY_S, AFTER_S = 1.0, 2.5, 0.7
SETTLED_S = 0.1
"""What was asked just before the blow may still be answered by the primary."""

Proxied = tuple[ValkeyServer, TrickleProxy]


@pytest.fixture(scope="module")
def servers() -> Iterator[Proxied]:
    """A server that finds its rows after a kill and a restart, and a proxy before it."""
    with ValkeyServer(keeps_data=True) as valkey, TrickleProxy(valkey.port) as proxy:
        hasten(valkey.pid)
        hasten(proxy.pid)
        yield valkey, proxy


@pytest.fixture(scope="module")
def stored(servers: Proxied, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> World:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.credentials().items():
            patch.setenv(name, value)
        return World.on(servers[0], s3, tmp_path_factory.mktemp("outages"), ExitStack()).fill()


@contextmanager
def killed(servers: Proxied) -> Iterator[None]:
    servers[0].kill()
    yield
    servers[0].restart()
    hasten(servers[0].pid)


@contextmanager
def frozen(servers: Proxied) -> Iterator[None]:
    servers[0].freeze()
    yield
    servers[0].thaw()


@contextmanager
def paused(servers: Proxied) -> Iterator[None]:
    # For a time: a server that is paused for all does not hear CLIENT UNPAUSE either.
    command(servers[0], f"CLIENT PAUSE {int((AWAY_S + SETTLED_S) * 1000)} ALL", b"+OK")
    yield
    command(servers[0], "PING", b"+PONG")


@contextmanager
def trickling(servers: Proxied) -> Iterator[None]:
    servers[1].turn("trickle", every_s=0.005)
    yield
    servers[1].turn("pass")


def command(server: ValkeyServer, line: str, wanted: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.settimeout(5)
        connection.sendall(f"{line}\r\n".encode())
        assert connection.recv(64) == wanted + b"\r\n"


@pytest.mark.parametrize("hurt", [killed, frozen, paused, trickling], ids=lambda one: one.__name__)
def test_no_request_fails_or_is_late_or_lies(
    hurt: Callable[[Proxied], Any],
    servers: Proxied,
    stored: World,
    armed: None,
    tmp_path: Path,
    tell: Callable[[str], None],
) -> None:
    port = servers[1].port if hurt is trickling else servers[0].port
    primary = {"url": f"redis://127.0.0.1:{port}/0", "timeout_s": TIMEOUT_S}
    config = stored.config(primary=primary, policy={"breaker": BREAKER, "deadline_s": DEADLINE_S})
    by_threads = Service(config, tmp_path / "threads.npz", kind="threads", many=8, pause_s=0.06)
    by_tasks = Service(config, tmp_path / "tasks.npz", kind="tasks", many=32, pause_s=0.25)

    with Watchdog() as watchdog, by_threads, by_tasks:
        for service in (by_threads, by_tasks):
            service.wait_until_ready()
        steady = now()
        pause(HEALTHY_S)
        struck = now()
        with hurt(servers):
            hurt_from = now() + SETTLED_S
            pause(AWAY_S)
            hurt_until = now()
        healed = now()
        pause(BACK_S + AFTER_S)
        answers = {"threads": by_threads.stop(), "tasks": by_tasks.stop()}

    for kind, told in answers.items():
        assert told.failed == []
        tell(f"{kind}: {check_lateness(told, watchdog)}")
        assert [told.seen(view).check(stored.base_us) for view in ("plane", "airport")] == [[], []]
        tell(f"{kind}: {check_origins(told, (steady, struck), (hurt_from, hurt_until), healed)}")


def check_lateness(told: Answers, watchdog: Watchdog) -> str:
    """None past the deadline and 10 ms but what a bare process met too; of those 1 in 100 on a shared machine."""
    began, ended = told.columns["began"], told.columns["ended"]
    took = ended - began
    late = np.flatnonzero(took > DEADLINE_S + GRACE_S)
    excess = {int(at): float(took[at]) - DEADLINE_S - GRACE_S for at in late}
    excused = [at for at, late_s in excess.items() if watchdog.excuses(began[at], ended[at], late_s)]
    numbers = (
        f"{len(told)} requests, p50 {np.median(took) * 1000:.1f}, p99 {np.quantile(took, 0.99) * 1000:.1f}, most "
        f"{took.max() * 1000:.1f} ms; {len(late)} late, {len(excused)} excused; {len(watchdog)} stalls seen"
    )
    assert {at: late_s for at, late_s in excess.items() if at not in excused} == {}, numbers
    assert len(excused) <= len(told) / 100, numbers
    return numbers


def check_origins(told: Answers, healthy: Span, hurt: Span, healed: float) -> str:
    """The primary's before, the snapshot's while it is away, and the primary's again in time."""
    began, ended = told.columns["began"], told.columns["ended"]
    origin = told.by_request("plane.truth.origin")
    before, away = (began > healthy[0]) & (ended < healthy[1]), (began > hurt[0]) & (ended < hurt[1])
    after = (began > healed + BACK_S) & (began < healed + BACK_S + AFTER_S)
    causes = told.by_request("plane.truth.cause")[away]
    numbers = (
        f"primary before {share(origin[before], Origin.PRIMARY):.3f}, snapshot away "
        f"{share(origin[away], Origin.SNAPSHOT):.3f}, primary after {share(origin[after], Origin.PRIMARY):.3f}, "
        f"90 % again after {back_after_s(began - healed, origin):.1f} s; causes {counted(causes)}"
    )
    assert before.sum() > 20
    assert away.sum() > 50
    assert after.sum() > 20
    assert share(origin[before], Origin.PRIMARY) > 0.9
    # 2 % of the keys are not in the image.
    assert not np.any(origin[away] == Origin.PRIMARY)
    assert share(origin[away], Origin.SNAPSHOT) > 0.95
    assert Cause.BREAKER_OPEN in causes
    assert share(origin[after], Origin.PRIMARY) >= 0.9
    return numbers


def share(origin: NDArray[Any], wanted: Origin) -> float:
    return float(np.mean(origin == wanted))


def back_after_s(since: NDArray[Any], origin: NDArray[Any]) -> float:
    """Seconds from which on 90 % of each half second's rows are the primary's."""
    back = 0.0
    for begin in np.arange(0.0, BACK_S, 0.25):
        rows = origin[(since >= begin) & (since < begin + 0.5)]
        if rows.size and share(rows, Origin.PRIMARY) < 0.9:
            back = float(begin) + 0.5
    return back


def counted(causes: NDArray[Any]) -> str:
    names, counts = np.unique(causes, return_counts=True)
    return ", ".join(f"{Cause(int(name)).name} {count}" for name, count in zip(names, counts, strict=True))
