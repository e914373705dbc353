"""A real Valkey, stores on it, and rows made by the real codec."""

from __future__ import annotations

import datetime as dt
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis import Redis

from featurechaos import codec
from featurechaos.clock import SystemClock
from featurechaos.demo.servers import ValkeyServer
from featurechaos.model import DType, Feature, JoinKey, View
from featurechaos.stores import Answer, Ask, Batch, Pending, Place
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

    def finished(self, pending: Pending, most_s: float = 20.0) -> list[Answer]:
        """Wait on a pending read as the engine does, until it is whole or raises."""
        until = self.now() + most_s
        while (answers := pending.advance()) is None:
            assert self.now() < until
            poller = select.poll()
            poller.register(pending.fileno(), select.POLLIN)
            poller.poll(20)
        return answers

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
            made: RedisStore = RedisStore.open(spec(url, **settings), kit.place)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def aopened(kit: Kit) -> Callable[..., AsyncRedisStore]:
    """Opens async stores; the test closes them on its loop."""
    return lambda url, **settings: RedisStore.aopen(spec(url, **settings), kit.place)


@pytest.fixture
def silent() -> Iterator[Callable[[], int]]:
    """Ports on which connections are accepted, by the kernel, and nobody ever speaks."""
    with ExitStack() as stack:

        def start() -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port: int = listener.getsockname()[1]
            return port

        yield start


@dataclass(frozen=True, slots=True)
class TlsFront:
    """A small TLS server before a plain one, with a certificate it signed itself."""

    url: str
    certificate: Path


@pytest.fixture
def tls(valkey: ValkeyServer, admin: Redis, tmp_path: Path) -> Iterator[TlsFront]:
    certificate, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with TlsRelay(context, valkey.port) as relay:
        yield TlsFront(f"rediss://localhost:{relay.port}", certificate)


class TlsRelay:
    """Carries bytes between TLS clients and a port; a thread a client."""

    def __init__(self, context: ssl.SSLContext, target_port: int) -> None:
        self._context, self._target_port = context, target_port
        self._listener = socket.create_server(("localhost", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._servers: list[socket.socket] = []

    def __enter__(self) -> TlsRelay:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for server in self._servers:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._target_port)) as server:
            self._servers.append(server)
            client.settimeout(5)
            with self._context.wrap_socket(client, server_side=True) as tls:
                while True:
                    ready = [tls] if tls.pending() else select.select([tls, server], [], [], 5)[0]
                    if not ready:
                        return
                    for source in ready:
                        if not (data := source.recv(1 << 16)):
                            return
                        (server if source is tls else tls).sendall(data)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost, good for a day, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    begin = dt.datetime.fromtimestamp(CLOCK.wall(), dt.UTC) - dt.timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "tls.crt", folder / "tls.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, private, plain))
    return paths


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
