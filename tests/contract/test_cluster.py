"""The contract, kept by the redis adapter on a real cluster of three shards, sync and async."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from featurechaos.demo.clusters import ValkeyCluster
from featurechaos.stores import Ask, Place
from featurechaos.testing import AsyncStoreContract, StoreContract
from featurechaos_redis import RedisSpec, RedisStore
from featurechaos_redis.chart import slot_of

pytestmark = [pytest.mark.live, pytest.mark.long]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster() as cluster:
        yield cluster


class OnCluster:
    """A cluster for both classes of this file; a test that kills it starts it again, empty."""

    cluster: ValkeyCluster

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: ValkeyCluster) -> None:
        self.cluster = cluster

    def put(self, store: Any, ask: Ask, blobs: Sequence[bytes]) -> None:
        for id_, blob in zip(ask.keys.ids, blobs, strict=True):
            key = ask.view.head + id_ + b"}"
            self.cluster.node_of(slot_of(key)).ask("SET", key, blob)

    @contextmanager
    def stalled(self, store: Any) -> Generator[None]:
        for node in self.cluster.nodes:
            node.freeze()
        try:
            yield
        finally:
            for node in self.cluster.nodes:
                node.thaw()
            self.cluster.wait()

    @contextmanager
    def down(self, store: Any) -> Generator[None]:
        for node in self.cluster.nodes:
            node.kill()
        try:
            yield
        finally:
            self.cluster.restart()

    def spec(self) -> RedisSpec:
        return RedisSpec.model_validate({"url": self.cluster.url, "mode": "cluster"})


class TestClusterStore(OnCluster, StoreContract):
    begins: ClassVar[bool] = True

    def open(self, place: Place) -> Any:
        return RedisStore.open(self.spec(), place)


class TestAsyncClusterStore(OnCluster, AsyncStoreContract):
    def open(self, place: Place) -> Any:
        return RedisStore.aopen(self.spec(), place)
