"""The contract, kept by the redis adapter on a real Valkey, sync and async."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from redis import Redis

from featurechaos.demo.servers import ValkeyServer
from featurechaos.stores import Ask, Place
from featurechaos.testing import AsyncStoreContract, StoreContract
from featurechaos_redis import RedisSpec, RedisStore

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


class OnValkey:
    """A server for both classes of this file; a test that kills it starts it again, empty."""

    server: ValkeyServer

    @pytest.fixture(autouse=True)
    def _server(self, valkey: ValkeyServer) -> None:
        self.server = valkey

    def put(self, store: Any, ask: Ask, blobs: Sequence[bytes]) -> None:
        with Redis(port=self.server.port, protocol=2) as client:
            for key, blob in zip(ask.keys.ids, blobs, strict=True):
                client.set(ask.view.head + key + b"}", blob)

    @contextmanager
    def stalled(self, store: Any) -> Generator[None]:
        self.server.freeze()
        try:
            yield
        finally:
            self.server.thaw()

    @contextmanager
    def down(self, store: Any) -> Generator[None]:
        self.server.kill()
        try:
            yield
        finally:
            self.server.restart()


class TestRedisStore(OnValkey, StoreContract):
    begins: ClassVar[bool] = True

    def open(self, place: Place) -> Any:
        return RedisStore.open(RedisSpec.model_validate({"url": self.server.url}), place)


class TestAsyncRedisStore(OnValkey, AsyncStoreContract):
    def open(self, place: Place) -> Any:
        return RedisStore.aopen(RedisSpec.model_validate({"url": self.server.url}), place)
