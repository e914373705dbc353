"""The contract, kept by redis sources whose rows others write: hashes and JSON, sync and async."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import pytest
from redis import Redis

from featurechaos.codec import encode_keys
from featurechaos.contract.values import VALUES
from featurechaos.demo.clusters import ValkeyCluster
from featurechaos.demo.servers import ValkeyServer
from featurechaos.model import View
from featurechaos.stores import Place
from featurechaos.testing import AsyncStoreContract, StoreContract
from featurechaos_redis import RedisSpec, RedisStore
from featurechaos_redis.chart import slot_of
from featurechaos_redis.keys import KeyForm

pytestmark = pytest.mark.live

KEY = "{project}/{view}/{keys}"


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster() as cluster:
        yield cluster


def finite(values: Mapping[str, Any], *, scalars: bool) -> dict[str, Any]:
    """The suite's values without what JSON can't say."""
    return {
        dtype: each if dtype in ("float32", "float64") and not scalars else [one for one in each if is_finite(one)]
        for dtype, each in values.items()
    }


def is_finite(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value]
    return all(not isinstance(part, float) or math.isfinite(part) for part in parts)


def as_json(value: Any) -> Any:
    if isinstance(value, list):
        return [as_json(each) for each in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value) if isinstance(value, np.datetime64) else value


def as_text(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, (str, np.datetime64)):
        return str(value).encode()
    if isinstance(value, (bool, list)):
        return json.dumps(as_json(value)).encode()
    return repr(value).encode()


class OnValkey:
    """A server for all classes of this file; a test that kills it starts it again, empty."""

    is_writable: ClassVar[bool] = False
    buries: ClassVar[bool] = False
    layout: ClassVar[str]
    server: ValkeyServer

    @pytest.fixture(autouse=True)
    def _server(self, valkey: ValkeyServer) -> None:
        self.server = valkey

    @property
    def spec(self) -> RedisSpec:
        return RedisSpec.model_validate({"url": self.server.url, **self.settings})

    @property
    def settings(self) -> dict[str, Any]:
        return {"layout": self.layout, "key": KEY, "time_unit": "us"}

    def fill(self, store: Any, view: View, table: Mapping[str, Any]) -> None:
        keys, _, _ = encode_keys(view.join_keys, [list(table[key.name]) for key in view.join_keys])
        with self.client() as client:
            for at, key in enumerate(KeyForm(KEY, view, "us").keys(keys.ids)):
                row = {feature.name: table[feature.name][at] for feature in view.features}
                row = {name: value for name, value in row.items() if not is_nothing(value)}
                row["event_timestamp"] = int(table["event_timestamp"][at].astype(np.int64))
                client.delete(key)
                self.put_row(client, key, row)

    def put_row(self, client: Any, key: bytes, row: Mapping[str, Any]) -> None:
        raise NotImplementedError

    @contextmanager
    def client(self) -> Generator[Any]:
        with Redis(port=self.server.port, protocol=2) as client:
            yield client

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


class OfHashes(OnValkey):
    layout: ClassVar[str] = "hash"
    values: ClassVar[Mapping[str, Any]] = finite(VALUES, scalars=False)

    def put_row(self, client: Any, key: bytes, row: Mapping[str, Any]) -> None:
        client.hset(key, mapping={name: as_text(value) for name, value in row.items()})


class OfDocuments(OnValkey):
    layout: ClassVar[str] = "json"
    values: ClassVar[Mapping[str, Any]] = finite(VALUES, scalars=True)

    def put_row(self, client: Any, key: bytes, row: Mapping[str, Any]) -> None:
        client.set(key, json.dumps({name: as_json(value) for name, value in row.items()}))


def is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, np.datetime64) and bool(np.isnat(value)))


class TestHashes(OfHashes, StoreContract):
    begins: ClassVar[bool] = True

    def open(self, place: Place) -> Any:
        return RedisStore.open(self.spec, place)


class TestDocuments(OfDocuments, StoreContract):
    begins: ClassVar[bool] = True

    def open(self, place: Place) -> Any:
        return RedisStore.open(self.spec, place)


class OnCluster(OnValkey):
    """Three shards; a test that kills them starts them again, empty."""

    cluster: ValkeyCluster

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: ValkeyCluster) -> None:
        self.cluster = cluster

    @property
    def spec(self) -> RedisSpec:
        return RedisSpec.model_validate({"url": self.cluster.url, "mode": "cluster", **self.settings})

    @contextmanager
    def client(self) -> Generator[Any]:
        yield Routed(self.cluster)

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


class Routed:
    """The three commands of a writer, each sent to the node of its key."""

    def __init__(self, cluster: ValkeyCluster) -> None:
        self._cluster = cluster

    def _ask(self, name: str, key: bytes, *more: Any) -> None:
        self._cluster.node_of(slot_of(key)).ask(name, key, *more)

    def delete(self, key: bytes) -> None:
        self._ask("DEL", key)

    def set(self, key: bytes, value: str) -> None:
        self._ask("SET", key, value)

    def hset(self, key: bytes, mapping: Mapping[str, bytes]) -> None:
        self._ask("HSET", key, *(part for pair in mapping.items() for part in pair))


@pytest.mark.long
class TestHashesOfACluster(OnCluster, OfHashes, StoreContract):
    begins: ClassVar[bool] = True

    def open(self, place: Place) -> Any:
        return RedisStore.open(self.spec, place)


@pytest.mark.long
class TestAsyncDocumentsOfACluster(OnCluster, OfDocuments, AsyncStoreContract):
    def open(self, place: Place) -> Any:
        return RedisStore.aopen(self.spec, place)


class TestAsyncHashes(OfHashes, AsyncStoreContract):
    def open(self, place: Place) -> Any:
        return RedisStore.aopen(self.spec, place)


class TestAsyncDocuments(OfDocuments, AsyncStoreContract):
    def open(self, place: Place) -> Any:
        return RedisStore.aopen(self.spec, place)
