"""A real Valkey, stores on it, and rows made by the real codec."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from redis import Redis

from featurechaos import codec
from featurechaos.clock import SystemClock
from featurechaos.demo.servers import ValkeyServer
from featurechaos.model import DType, Feature, JoinKey, View
from featurechaos.stores import Ask, Batch, Place
from featurechaos_redis import AsyncRedisStore, RedisSpec, RedisStore

CLOCK = SystemClock()


def spec(url: str, **settings: Any) -> RedisSpec:
    return RedisSpec.model_validate({"url": url, **settings})


def view(name: str) -> View:
    return View(
        project="proj",
        name=name,
        base=name,
        join_keys=(JoinKey("user", DType.parse("string"), "user"),),
        features=(Feature("score", DType.parse("float32")), Feature("count", DType.parse("int64"))),
    )


@dataclass(frozen=True, slots=True)
class Kit:
    """What the tests of this folder say in one word."""

    view: View
    other: View
    place: Place

    @staticmethod
    def now() -> float:
        return CLOCK.monotonic()

    def ask(self, ids: Sequence[str], view: View | None = None) -> Ask:
        chosen = view or self.view
        keys, _, _ = codec.encode_keys(chosen.join_keys, [list(ids)])
        return Ask(chosen, codec.Layout.of(chosen), keys)

    def batch(
        self, ids: Sequence[str], event_time: int | Sequence[int], score: float = 0.5, view: View | None = None
    ) -> Batch:
        """Rows of distinct ids, each with its place as `count`."""
        ask = self.ask(ids, view)
        times = np.broadcast_to(np.asarray(event_time, np.int64), (len(ids),)).copy()
        columns = {"score": np.full(len(ids), score, np.float32), "count": np.arange(len(ids))}
        return Batch(ask, codec.encode(ask.layout, columns, times, ask.keys.own), times)

    def times(self, store: RedisStore, ids: Sequence[str]) -> list[int]:
        """Event times of stored rows, as the codec reads them."""
        rows, _ = codec.decode(*self.blobs(store, ids))
        return [int(each) for each in rows.event_time]

    def scores(self, store: RedisStore, ids: Sequence[str]) -> list[float]:
        rows, _ = codec.decode(*self.blobs(store, ids))
        return [float(each) for each in codec.column(rows, "score")]

    def blobs(self, store: RedisStore, ids: Sequence[str]) -> tuple[Any, Any, Any]:
        ask = self.ask(ids)
        (blobs,) = store.read([ask], self.now() + 5)
        return blobs, ask.keys.own, ask.layout


# One a core: it sleeps a millisecond, and says when that took more than four.
WATCHDOG = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
last = time.monotonic()
while True:
    time.sleep(0.001)
    now = time.monotonic()
    if now - last > 0.004:
        print(last, now, flush=True)
    last = now
"""


@dataclass(slots=True)
class Stalls:
    """When the machine itself stood still, as processes saw it that do nothing but look at the time."""

    spans: list[tuple[float, float]] = field(default_factory=list)

    def excuse(self, begin: float, end: float) -> bool:
        return any(first < end and last > begin for first, last in list(self.spans))


@pytest.fixture(scope="session")
def stalls() -> Iterator[Stalls]:
    seen = Stalls()
    with ExitStack() as stack:
        for core in sorted(os.sched_getaffinity(0)):
            dog = subprocess.Popen([sys.executable, "-c", WATCHDOG, str(core)], stdout=subprocess.PIPE, text=True)
            reader = threading.Thread(target=_listen, args=(dog, seen), daemon=True)
            reader.start()
            stack.callback(dog.__exit__, None, None, None)
            stack.callback(reader.join, 5)
            stack.callback(dog.kill)
        yield seen


def _listen(dog: subprocess.Popen[str], seen: Stalls) -> None:
    for line in dog.stdout or ():
        first, last = line.split()
        seen.spans.append((float(first), float(last)))


@pytest.fixture(scope="session")
def kit() -> Kit:
    views = (view("alpha"), view("beta"))
    return Kit(*views, Place("primary", "proj", views, CLOCK))


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    """One server for a file; a test that hurts it starts its own."""
    with ValkeyServer(unixsocket=True) as server:
        yield server


@pytest.fixture
def admin(valkey: ValkeyServer) -> Iterator[Redis]:
    """A plain client of the file's server, emptied before each test."""
    with Redis(port=valkey.port, protocol=2) as client:
        client.flushall()
        client.script_flush()
        yield client


@pytest.fixture
def store(valkey: ValkeyServer, admin: Redis, opened: Callable[..., RedisStore]) -> RedisStore:
    return opened(valkey.url)


@pytest.fixture
def opened(kit: Kit) -> Iterator[Callable[..., RedisStore]]:
    """Opens stores; all are closed at the end."""
    with ExitStack() as stack:

        def make(url: str, **settings: Any) -> RedisStore:
            made = RedisStore.open(spec(url, **settings), kit.place)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def aopened(kit: Kit) -> Callable[..., AsyncRedisStore]:
    """Opens async stores; the test closes them on its loop."""
    return lambda url, **settings: RedisStore.aopen(spec(url, **settings), kit.place)


@pytest.fixture
def impostor() -> Iterator[Callable[[bytes], str]]:
    """Starts servers that answer whatever they get with fixed bytes; gives their urls."""
    with ExitStack() as stack:

        def start(reply: bytes) -> str:
            listener = socket.create_server(("127.0.0.1", 0))
            thread = threading.Thread(target=_answer, args=(listener, reply), daemon=True)
            thread.start()
            stack.callback(thread.join, 5)
            stack.callback(listener.close)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return f"redis://127.0.0.1:{listener.getsockname()[1]}"

        yield start


def _answer(listener: socket.socket, reply: bytes) -> None:
    kept = []
    try:
        while True:
            connection, _ = listener.accept()
            kept.append(connection)
            threading.Thread(target=_parrot, args=(connection, reply), daemon=True).start()
    except OSError:
        for connection in kept:
            connection.close()


def _parrot(connection: socket.socket, reply: bytes) -> None:
    try:
        while connection.recv(1 << 16):
            connection.sendall(reply)
    except OSError:
        return
