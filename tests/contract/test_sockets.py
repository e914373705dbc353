"""The contract, kept by the plainest store with sockets: every hook of the suite is used here."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from featurechaos.stores import Ask, Place
from featurechaos.testing import AsyncStoreContract, StoreContract
from tests.contract.sockets import AsyncSocketStore, Server, SocketStore, key_of, packed


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


class OnSockets:
    """What the classes on a loopback server share."""

    server: Server

    @pytest.fixture(autouse=True)
    def _server(self, server: Server) -> None:
        self.server = server

    def put(self, store: Any, ask: Ask, blobs: Sequence[bytes]) -> None:
        for key, blob in zip(ask.keys.ids, blobs, strict=True):
            self.server.rows[key_of(ask, key)] = packed(blob)

    @contextmanager
    def stalled(self, store: Any) -> Generator[None]:
        self.server.stall()
        try:
            yield
        finally:
            self.server.go_on()

    @contextmanager
    def down(self, store: Any) -> Generator[None]:
        self.server.stop()
        try:
            yield
        finally:
            self.server.begin()


class TestSocketStore(OnSockets, StoreContract):
    begins: ClassVar[bool] = True

    def open(self, place: Place) -> SocketStore:
        return SocketStore(self.server.port)


class TestAsyncSocketStore(OnSockets, AsyncStoreContract):
    def open(self, place: Place) -> AsyncSocketStore:
        return AsyncSocketStore(self.server.port)
