"""Two S3 servers for the whole run, and a prefix, a cache and a view of its own for each test."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from numpy.typing import NDArray

from featurechaos.clock import SystemClock
from featurechaos.codec import Layout, Rows, column, decode, encode_keys, verify
from featurechaos.demo.servers import S3Server, SeaweedServer
from featurechaos.model import DType, Feature, JoinKey, View
from featurechaos.stores import Ask, Block, Place, Refreshed
from featurechaos_s3 import S3Spec, S3Store
from featurechaos_s3.bucket import Address, Bucket
from featurechaos_s3.hydrate import Work, hydrate

DAY_US = 86_400_000_000
JUNE_US = 1_717_200_000_000_000
"""2024-06-01T00:00:00Z."""

Server = S3Server | SeaweedServer


def dtype(name: str) -> DType:
    return DType.parse(name)


def view_of(features: dict[str, str], keys: dict[str, str] | None = None, *, name: str = "plane") -> View:
    """A view of project flights."""
    joins = tuple(JoinKey(key, dtype(kind), key) for key, kind in (keys or {"tailnum": "string"}).items())
    return View("flights", name, name, joins, tuple(Feature(one, dtype(kind)) for one, kind in features.items()))


PLANE = view_of({"seats": "int32"})


def planes(count: int, seats: int, *, time_us: int = JUNE_US, begin: int = 0) -> dict[str, Any]:
    """An image in which every plane has the same number of seats."""
    return {
        "tailnum": [f"N{number}" for number in range(begin, begin + count)],
        "seats": np.full(count, seats),
        "event_timestamp": np.full(count, time_us).view("M8[us]"),
    }


@dataclass
class World:
    """One source of one test."""

    server: Server
    cache: Path
    prefix: str = field(default_factory=lambda: uuid4().hex)

    def spec(self, **more: Any) -> S3Spec:
        given = {"endpoint_url": self.server.endpoint_url, "region": "us-east-1", "cache_dir": str(self.cache)}
        return S3Spec(**({"url": f"s3://features/{self.prefix}"} | given | more))

    def store(self, *views: View, **more: Any) -> S3Store:
        return S3Store.open(self.spec(**more), Place("standby", "flights", views or (PLANE,), SystemClock()))

    @cached_property
    def bucket(self) -> Bucket:
        return Bucket(Address.of(self.spec(), "standby"))


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    with S3Server(buckets=("features",)) as server:
        yield server


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedServer]:
    with SeaweedServer(buckets=("features",)) as server:
        yield server


@pytest.fixture
def world(moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """On moto, which starts fast."""
    return _world(moto, tmp_path, monkeypatch)


@pytest.fixture(params=["moto", "seaweed"])
def each_world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """On moto, and on a server that checks signatures: for what leans on the server's own promises."""
    return _world(request.getfixturevalue(request.param), tmp_path, monkeypatch)


def _world(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name, value in server.credentials().items():
        monkeypatch.setenv(name, value)
    return World(server, tmp_path / "cache")


def publish(store: S3Store, table: Any, *, view: View = PLANE, **more: Any) -> Any:
    return store.publish(view, Layout.of(view), table, **({"as_of_us": None} | more))


def refresh_here(store: S3Store, view: View = PLANE, **more: Any) -> Refreshed:
    """`refresh` of one view with the hydrating in this process: the same steps without starting another."""
    replicas = store._replicas
    said = replicas._work(view.base, more.get("as_of_us"))
    work = Work(
        view.base,
        Layout.of(view),
        replicas._shelf(view.base),
        replicas._spec.max_bytes,
        frozenset(said["bad"]),
        said["as_of_us"],
    )
    return replicas._outcome(view.base, hydrate(store._bucket, work))


def read_rows(store: S3Store, ids: Sequence[Any], *, view: View = PLANE, as_of_us: int | None = None) -> Rows:
    """What a client makes of the store's answer."""
    layout = Layout.of(view)
    columns = ids if len(view.join_keys) > 1 else [ids]
    keys, inverse, nulls = encode_keys(view.join_keys, columns)
    assert inverse is None
    assert nulls is None
    (answer,) = store.read([Ask(view, layout, keys)], 0.0, as_of_us=as_of_us)
    if isinstance(answer, Block):
        return verify(answer.words, keys.own, layout, answer.found)
    assert isinstance(answer, list)
    rows, unknown = decode(answer, keys.own, layout)
    assert not unknown
    return rows


def seats(store: S3Store, *ids: str, as_of_us: int | None = None) -> list[int | None]:
    """Seats of some planes; None where there is no such row."""
    rows = read_rows(store, ids, as_of_us=as_of_us)
    values: NDArray[Any] = column(rows, "seats")
    return [int(value) if verdict == 1 else None for value, verdict in zip(values, rows.verdicts, strict=True)]


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port on which nobody answers, held so that nobody else takes it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])
