"""A small server and a store on it that offers everything a store can: sockets, `begin`, asyncio, forks.

The plainest store we could write that keeps the whole contract. Its bad habits, off by default, are what the
suite must catch. Frames are a u32 length and JSON; one request, one reply.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import BaseModel

from featurechaos.clock import SystemClock
from featurechaos.errors import StoreTimeout, StoreUnavailable
from featurechaos.stores import Answer, Ask, Batch, WriteCounts
from featurechaos.testing import MemorySpec, event_time_of

CLOCK = SystemClock()
Keys = list[tuple[bytes, ...]]


class Server:
    """Rows by key on a loopback port, on threads; `stall()` makes it silent until `go_on()`."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.described: dict[str, str] = {}
        self._may_answer = threading.Event()
        self._may_answer.set()
        self._lock = threading.Lock()
        self.delay_s = 0.0
        self.begin()

    def begin(self) -> None:
        """Listen on a port; the same one after `stop`."""
        self._listener = socket.create_server(("127.0.0.1", getattr(self, "port", 0)))
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._connections:
            connection.close()

    def stall(self) -> None:
        self._may_answer.clear()

    def go_on(self) -> None:
        self._may_answer.set()

    @property
    def open_connections(self) -> int:
        """How many clients are still there; a connection that was closed is found out by reading it."""
        return sum(thread.is_alive() for thread in self._threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        self.stop()

    def _accept(self, listener: socket.socket) -> None:
        self._threads: list[threading.Thread] = []
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            while True:
                request = json.loads(_frame(connection))
                self._may_answer.wait()
                if self.delay_s:
                    threading.Event().wait(self.delay_s)
                connection.sendall(framed(self._answer(request)))
        except OSError:
            connection.close()

    def _answer(self, request: dict[str, Any]) -> Any:
        with self._lock:
            if "get" in request:
                return [self.rows.get(key) for key in request["get"]]
            if "layouts" in request:
                return {name: self.described[name] for name in request["layouts"] if name in self.described}
            self.described.update(request["described"])
            older = 0
            for key, blob in request["set"].items():
                stored = self.rows.get(key)
                if stored is not None and event_time_of(unpacked(stored)) > event_time_of(unpacked(blob)):
                    older += 1
                else:
                    self.rows[key] = blob
            return {"older": older}


def packed(blob: bytes) -> str:
    return base64.b64encode(blob).decode()


def unpacked(text: str) -> bytes:
    return base64.b64decode(text)


def framed(said: Any) -> bytes:
    body = json.dumps(said).encode()
    return struct.pack("<I", len(body)) + body


def _frame(connection: socket.socket) -> bytes:
    size = struct.unpack("<I", _exactly(connection, 4))[0]
    return _exactly(connection, size)


def _exactly(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        more = connection.recv(size - len(got))
        if not more:
            raise ConnectionResetError("the other side has gone")
        got += more
    return got


def key_of(ask: Ask, key: bytes) -> str:
    return packed(ask.view.head + key + b"}")


class _Words:
    """What the store says and hears: the same for sync and async."""

    bounded: ClassVar[bool] = True
    writable: ClassVar[bool] = True
    spec: ClassVar[type[BaseModel]] = MemorySpec

    def __init__(self, port: int) -> None:
        self.port, self.is_closed = port, False

    def _get(self, asks: Sequence[Ask], as_of_us: int | None) -> Any:
        if as_of_us is not None:
            raise StoreUnavailable("it keeps no history")
        if self.is_closed:
            raise StoreUnavailable("it is closed")
        return {"get": [key_of(ask, key) for ask in asks for key in ask.keys.ids]}

    def _answers(self, asks: Sequence[Ask], reply: Any) -> list[Answer]:
        blobs = iter([None if text is None else unpacked(text) for text in reply])
        return [[next(blobs) for _ in ask.keys.ids] for ask in asks]

    def _set(self, batch: Batch) -> Any:
        ask = batch.ask
        rows = {key_of(ask, key): packed(blob) for key, blob in zip(ask.keys.ids, batch.blobs, strict=True)}
        named = f"{ask.view.project}:{ask.layout.hash}"
        return {"set": rows, "described": {named: packed(ask.layout.describe())}}

    def _counts(self, batch: Batch, reply: Any) -> WriteCounts:
        return WriteCounts(written=len(batch.blobs) - int(reply["older"]), older=int(reply["older"]))

    def _descriptions(self, project: str, hashes: Sequence[int]) -> Any:
        return {"layouts": [f"{project}:{number}" for number in hashes]}

    def _described(self, reply: Mapping[str, str]) -> dict[int, bytes]:
        return {int(name.split(":")[1]): unpacked(text) for name, text in reply.items()}


class SocketStore(_Words):
    """The blocking form. Bad habits: `shares` one connection among all, `keeps` an abandoned one, `overstays`."""

    shares = keeps = overstays = translates_nothing = fork_blind = closes_once = False

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._idle: list[socket.socket] = []
        self._pid = os.getpid()

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        request = self._get(asks, as_of_us)
        return self._answers(asks, self._ask(request, until))

    def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        return self._described(self._ask(self._descriptions(project, hashes), until))

    def write(self, batch: Batch, until: float) -> WriteCounts:
        return self._counts(batch, self._ask(self._set(batch), until))

    def begin(self, asks: Sequence[Ask], until: float) -> PendingRead:
        connection = self.take()
        connection.sendall(framed(self._get(asks, None)))
        return PendingRead(self, connection, lambda reply: self._answers(asks, reply))

    def close(self) -> None:
        if self.closes_once and self.is_closed:
            raise OSError("closed twice")
        self.is_closed = True
        while self._idle:
            self._idle.pop().close()

    def take(self) -> socket.socket:
        if self._pid != os.getpid() and not self.fork_blind:
            self._idle, self._pid = [], os.getpid()
        try:
            return self._idle[-1] if self.shares and self._idle else self._idle.pop()
        except IndexError:
            connection = socket.create_connection(("127.0.0.1", self.port), 1.0)
            if self.shares:
                self.give(connection)
            return connection

    def give(self, connection: socket.socket) -> None:
        if connection not in self._idle:
            self._idle.append(connection)

    def _ask(self, request: Any, until: float) -> Any:
        try:
            return self._once(request, until)
        except TimeoutError:
            raise StoreTimeout("it gave no answer in time") from None
        except OSError as error:
            if self.translates_nothing:
                raise
            while self._idle:
                self._idle.pop().close()
            raise StoreUnavailable(str(error)) from error

    def _once(self, request: Any, until: float) -> Any:
        connection = self.take()
        try:
            left = until - CLOCK.monotonic() + (1.0 if self.overstays else 0.0)
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
            connection.sendall(framed(request))
            reply = json.loads(_frame(connection))
        except BaseException:
            if self.keeps:
                self.give(connection)
            else:
                connection.close()
            raise
        self.give(connection)
        return reply


class PendingRead:
    """A read under way on a connection of its own."""

    def __init__(self, store: SocketStore, connection: socket.socket, finish: Callable[[Any], list[Answer]]) -> None:
        self._store, self._connection, self._finish = store, connection, finish
        self._got, self._is_over = b"", False
        connection.setblocking(False)

    def fileno(self) -> int:
        return self._connection.fileno()

    def advance(self) -> list[Answer] | None:
        try:
            more = self._connection.recv(1 << 16)
        except BlockingIOError:
            return None
        except OSError as error:
            self.abandon()
            raise StoreUnavailable(str(error)) from error
        if not more:
            self.abandon()
            raise StoreUnavailable("the server has gone")
        self._got += more
        if len(self._got) < 4 or len(self._got) - 4 < struct.unpack_from("<I", self._got)[0]:
            return None
        self._is_over = True
        self._store.give(self._connection)
        return self._finish(json.loads(self._got[4:]))

    def abandon(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._store.keeps:
            self._connection.setblocking(True)
            self._store.give(self._connection)
        else:
            self._connection.close()


class AsyncSocketStore(_Words):
    """The async form. `keeps` puts the connection of a cancelled read back, its reply still to come."""

    keeps = overstays = False

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        request = self._get(asks, as_of_us)
        return self._answers(asks, await self._ask(request, until))

    async def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        return self._described(await self._ask(self._descriptions(project, hashes), until))

    async def write(self, batch: Batch, until: float) -> WriteCounts:
        return self._counts(batch, await self._ask(self._set(batch), until))

    async def close(self) -> None:
        self.is_closed = True
        for _, writer in self._idle:
            writer.transport.abort()
        self._idle.clear()
        await asyncio.sleep(0)

    async def _ask(self, request: Any, until: float) -> Any:
        try:
            left = until - CLOCK.monotonic() + (1.0 if self.overstays else 0.0)
            async with asyncio.timeout(max(0.0, left)):
                if left <= 0:
                    raise TimeoutError
                return await self._once(request)
        except TimeoutError:
            raise StoreTimeout("it gave no answer in time") from None
        except OSError as error:
            while self._idle:
                self._idle.pop()[1].transport.abort()
            raise StoreUnavailable(str(error)) from error

    async def _once(self, request: Any) -> Any:
        reader, writer = self._idle.pop() if self._idle else await self._dialled()
        is_done = False
        try:
            writer.write(framed(request))
            size = struct.unpack("<I", await self._read(reader, 4))[0]
            reply = json.loads(await self._read(reader, size))
            is_done = True
        finally:
            if is_done or self.keeps:
                self._idle.append((reader, writer))
            else:
                writer.transport.abort()
        return reply

    @staticmethod
    async def _read(reader: asyncio.StreamReader, size: int) -> bytes:
        try:
            return await reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the server has gone") from error

    async def _dialled(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)
