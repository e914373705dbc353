"""Real servers, clients on them, services under load beside us, and the numbers told at the end of the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import pytest
from numpy.typing import NDArray

from featurechaos import FeatureClient
from featurechaos.clock import Clock, SystemClock
from featurechaos.demo.servers import S3Server, ValkeyServer
from tests.live.truth import IMAGE, LIVE, VIEWS, Seen, table

now = SystemClock().monotonic
TOKEN = "a-token-that-only-tests-know"
_NUMBERS: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured, for whoever reads the run."""
    if _NUMBERS:
        terminalreporter.section("measured on real servers")
        for line in _NUMBERS:
            terminalreporter.write_line(line)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Keep a line of numbers for the end of the run."""
    return lambda line: _NUMBERS.append(f"{request.node.name}: {line}")


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with S3Server(buckets=("features",)) as server:
        yield server


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """One server for all; a test that hurts it for good starts its own."""
    with ValkeyServer() as server:
        yield server


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def eventually(claim: Callable[[], Any], *, most_s: float = 20.0) -> Any:
    """Wait for something that another process or thread does."""
    end = now() + most_s
    while not (got := claim()):
        if now() > end:
            pytest.fail(f"it did not come to pass within {most_s:g} s")
        pause(0.01)
    return got


def refreshed(client: FeatureClient) -> None:
    """Hydrate now; what the background hydrated a moment before is current."""
    states = {one.state for one in client.refresh(60)["standby"]}
    assert states <= {"hydrated", "current"}


def open_files() -> set[str]:
    """The descriptors of this process."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@dataclass
class World:
    """A project of its own on the servers: its config, and clients that are closed at the end."""

    valkey: ValkeyServer
    s3: S3Server
    cache: Path
    folder: Path
    stack: ExitStack
    project: str
    base_us: int

    @classmethod
    def on(cls, valkey: ValkeyServer, s3: S3Server, folder: Path, stack: ExitStack) -> World:
        base_us = int(SystemClock().wall() * 1e6)
        return cls(valkey, s3, folder / "cache", folder, stack, f"live_{uuid4().hex[:12]}", base_us)

    def config(self, *, views: Any = VIEWS, primary: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
        """A config of a primary and a standby, last-known off; `sections` are laid over it, `policy` key by key.

        Patient unless told otherwise: mostly we ask who answers and with what, on a machine that others use too.
        """
        standby = {
            "type": "s3", "url": f"s3://features/{self.project}", "endpoint_url": self.s3.endpoint_url,
            "region": "us-east-1", "refresh_s": 3600, "cache_dir": str(self.cache),
        }  # fmt: skip
        patient = {"type": "redis", "url": self.valkey.url, "timeout_s": 2.0}
        policy = {"last_known": None, "deadline_s": 5.0} | sections.pop("policy", {})
        return {
            "project": self.project,
            "sources": {"primary": patient | (primary or {}), "standby": standby},
            "views": views,
            "policy": policy,
            **sections,
        }

    def client(self, config: dict[str, Any] | None = None, clock: Clock | None = None) -> FeatureClient:
        client = FeatureClient.from_config(config or self.config(), clock=clock)
        self.stack.callback(client.close)
        return client

    def fill(self) -> World:
        """Store both versions of `truth.VIEWS` where they belong, and hydrate."""
        with FeatureClient.from_config(self.config()) as client:
            for view in VIEWS:
                client.write_to_online_store(view["name"], table(view["name"], LIVE, self.base_us))
                client.publish_snapshot(view["name"], table(view["name"], IMAGE, self.base_us))
            refreshed(client)
        return self


@pytest.fixture
def armed(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process may inject, and knows the S3 server's credentials."""
    for name, value in {**s3.credentials(), "FEATURECHAOS_CHAOS": "armed", "FEATURECHAOS_TOKEN": TOKEN}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def world(armed: None, valkey: ValkeyServer, s3: S3Server, tmp_path: Path) -> Iterator[World]:
    """An empty project of the test's own."""
    with ExitStack() as stack:
        yield World.on(valkey, s3, tmp_path, stack)


@pytest.fixture(scope="session")
def library(valkey: ValkeyServer, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A project with its rows and images, filled once."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.credentials().items():
            patch.setenv(name, value)
        return World.on(valkey, s3, tmp_path_factory.mktemp("library"), ExitStack()).fill()


@pytest.fixture
def filled(armed: None, library: World, tmp_path: Path) -> Iterator[World]:
    """The filled project, to read and to inject into; never to write to."""
    with ExitStack() as stack:
        yield replace(library, folder=tmp_path, stack=stack)


class Service:
    """A serving process under load (`service.py`), from the start of the `with` until `stop`."""

    def __init__(
        self, config: dict[str, Any], path: Path, *, kind: Literal["threads", "tasks"], many: int, pause_s: float
    ) -> None:
        self._path = path
        self._job = {"config": config, "path": str(path), "kind": kind, "many": many, "pause_s": pause_s, "seed": 7}

    def __enter__(self) -> Service:
        command = [sys.executable, "-m", "tests.live.service", json.dumps(self._job)]
        pipe = subprocess.PIPE
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=root, env=os.environ.copy())
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def wait_until_ready(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def stop(self) -> Answers:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(30) == 0
        return Answers.read(self._path)


@dataclass
class Answers:
    """What a service was answered: `began` and `ended` (n,) by request, the rest by row."""

    columns: dict[str, NDArray[Any]]

    @classmethod
    def read(cls, path: Path) -> Answers:
        with np.load(path) as saved:
            return cls({name: saved[name] for name in saved})

    @property
    def failed(self) -> list[str]:
        return [str(one) for one in self.columns["failed"]]

    def __len__(self) -> int:
        return len(self.columns["began"])

    def seen(self, view: str) -> Seen:
        def under(kind: str) -> dict[str, NDArray[Any]]:
            head = f"{view}.{kind}."
            return {name.removeprefix(head): column for name, column in self.columns.items() if name.startswith(head)}

        key, wall_us = self.columns["key"], self.columns["wall_us"]
        return Seen(view, key, wall_us, under("value"), under("null"), under("truth"))

    def by_request(self, column: str) -> NDArray[Any]:
        """A fact of each row as (requests, rows)."""
        return self.columns[column].reshape(len(self), -1)
