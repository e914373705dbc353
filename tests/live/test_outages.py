"""The primary is killed, frozen, paused or made to trickle: no request fails, none is late, none lies."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurechaos import Origin
from featurechaos.demo.proxy import TrickleProxy
from featurechaos.demo.servers import S3Server, ValkeyServer
from tests.live.conftest import Answers, Service, World, now, pause
from tests.live.timing import Limits, Run
from tests.live.watchdog import Watchdog, hasten

pytestmark = [pytest.mark.live, pytest.mark.slow]

DEADLINE_S, GRACE_S, TIMEOUT_S = 0.050, 0.010, 0.015
BREAKER = {"window_s": 3.0, "open_s": 0.5, "healthy_s": 0.5, "ramp_s": 1.0}
LIMITS = Limits(answer_s=DEADLINE_S + GRACE_S, back_s=0.5 + 0.5 + 1.0 + 3.0, after_s=0.7)
HEALTHY_S, AWAY_S = 1.0, 2.5
ATTEMPTS = 3
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

    for left in reversed(range(ATTEMPTS)):
        run, answers = played(config, tmp_path, lambda: hurt(servers))
        complaints: list[str] = []
        for kind, told in answers.items():
            # These hold on any machine; what was not in time counts only where the machine let it be.
            assert told.failed == []
            assert [told.seen(view).check(stored.base_us) for view in ("plane", "airport")] == [[], []]
            assert not np.any(away_rows(run, told) == Origin.PRIMARY)
            for numbers, wrong in (run.late(told), run.strayed(told)):
                tell(f"{kind}: {numbers}")
                complaints += wrong
        if not complaints:
            return
        if not run.is_noisy:
            pytest.fail("\n".join(complaints))
        tell(f"the machine stood still too much to tell; {left} more attempts")
    pytest.xfail(f"the machine stood still too much to tell, {ATTEMPTS} times")


def played(config: dict[str, Any], folder: Path, hurt: Callable[[], Any]) -> tuple[Run, dict[str, Answers]]:
    """Two services under load while the primary is hurt and healed."""
    by_threads = Service(config, folder / "threads.npz", kind="threads", many=8, pause_s=0.06)
    by_tasks = Service(config, folder / "tasks.npz", kind="tasks", many=32, pause_s=0.4)
    with Watchdog() as watchdog, by_threads, by_tasks:
        for service in (by_threads, by_tasks):
            service.wait_until_ready()
        steady = now()
        pause(HEALTHY_S)
        struck = now()
        with hurt():
            gone = now() + SETTLED_S
            pause(AWAY_S)
            ended = now()
        healed = now()
        pause(LIMITS.back_s + LIMITS.after_s)
        answers = {"threads": by_threads.stop(), "tasks": by_tasks.stop()}
    return Run((steady, struck), (gone, ended), healed, watchdog, LIMITS), answers


def away_rows(run: Run, told: Answers) -> Any:
    """The origins of rows asked for and answered while the primary was away."""
    away = (told.columns["began"] > run.away[0]) & (told.columns["ended"] < run.away[1])
    return told.by_request("plane.truth.origin")[away]
