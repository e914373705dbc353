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
from featurechaos.demo.servers import ValkeyServer
from featurechaos.model import View
from featurechaos.stores import Place
from featurechaos.testing import AsyncStoreContract, StoreContract
from featurechaos_redis import RedisSpec, RedisStore
from featurechaos_redis.keys import KeyForm

pytestmark = pytest.mark.live

KEY = "{project}/{view}/{keys}"


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


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
        settings = {"url": self.server.url, "layout": self.layout, "key": KEY, "time_unit": "us"}
        return RedisSpec.model_validate(settings)

    def fill(self, store: Any, view: View, table: Mapping[str, Any]) -> None:
        keys, _, _ = encode_keys(view.join_keys, [list(table[key.name]) for key in view.join_keys])
        with Redis(port=self.server.port, protocol=2) as client:
            for at, key in enumerate(KeyForm(KEY, view, "us").keys(keys.ids)):
                row = {feature.name: table[feature.name][at] for feature in view.features}
                row = {name: value for name, value in row.items() if not is_nothing(value)}
                row["event_timestamp"] = int(table["event_timestamp"][at].astype(np.int64))
                client.delete(key)
                self.put_row(client, key, row)

    def put_row(self, client: Any, key: bytes, row: Mapping[str, Any]) -> None:
        raise NotImplementedError

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


class TestAsyncHashes(OfHashes, AsyncStoreContract):
    def open(self, place: Place) -> Any:
        return RedisStore.aopen(self.spec, place)


class TestAsyncDocuments(OfDocuments, AsyncStoreContract):
    def open(self, place: Place) -> Any:
        return RedisStore.aopen(self.spec, place)
