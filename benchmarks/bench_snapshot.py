"""What a read from the local replica of a snapshot costs: beside our own Redis read, LMDB, sqlite, a dict, and `mget`.

All hold the same packed rows. Ours gives columns, ages and origins as every read does; the others' bytes are made
columns by hand. Rows cannot be written to an image just before they are read, so each read's last value is compared
with what was published for that entity.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import redis

from benchmarks.bench_read import Lean
from benchmarks.harness import Called, Contender, Options, Timing, alternate, main, pinned
from benchmarks.inside import packed
from benchmarks.results import Plot, Result, Table
from benchmarks.worlds import KEY, MARK, PATIENT, Ids, features_of, references, view_of
from featurechaos import FeatureClient, Origin, Response
from featurechaos.clock import SystemClock
from featurechaos.demo.servers import S3Server, ValkeyServer

ABOUT = """Rows of 20 float32 with an int64 key, client and Redis on one core, files warm. `x our Redis read` is the
wall ratio to the same call on the same rows in Redis."""
VIEW = "b"
REPLICA, REDIS, MGET = "featurechaos, local replica", "featurechaos, Redis", "redis-py mget + columns by hand"
LMDB, SQLITE, DICT = "LMDB + columns by hand", "sqlite + columns by hand", "a dict of bytes + columns by hand"
PART = 50_000
_SIZES = (1, 10, 100, 1000)


def table_of(first: int, stop: int) -> dict[str, Any]:
    """Rows whose marked value is the entity's number."""
    ids = np.arange(first, stop)
    when = np.datetime64(int(SystemClock().wall() * 1e6), "us") - np.timedelta64(1, "h")
    columns: dict[str, Any] = {name: (ids % 97).astype(np.float32) for name in features_of(VIEW)}
    return {KEY: ids, "event_timestamp": np.full(len(ids), when), **columns, MARK: ids.astype(np.float32)}


@dataclass
class Shelves:
    """The same rows in every place, or in a local replica and LMDB alone; a context manager."""

    rows: int
    folder: Path
    is_local: bool = False
    built: list[list[Any]] = field(default_factory=list)

    def __enter__(self) -> Shelves:
        self._ends = ExitStack()
        self.valkey = self._ends.enter_context(ValkeyServer())
        self.s3 = self._ends.enter_context(S3Server(buckets=("features",)))
        self._ends.enter_context(environment(self.s3.credentials()))
        self.online = self._client({"primary": {"type": "redis", "url": self.valkey.url, "timeout_s": 10.0}})
        standby = {
            "type": "s3",
            "url": "s3://features/bench",
            "endpoint_url": self.s3.endpoint_url,
            "region": "us-east-1",
            "refresh_s": 86_400,
            "cache_dir": str(self.folder / "cache"),
        }
        self.local = self._client({"standby": standby})
        self.direct = redis.Redis(port=self.valkey.port)
        self._ends.callback(self.direct.close)
        self._fill()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def _client(self, sources: dict[str, Any]) -> FeatureClient:
        policy = {**PATIENT, "last_known": None}
        config = {"project": "bench", "sources": sources, "views": [view_of(VIEW)], "policy": policy}
        return self._ends.enter_context(FeatureClient.from_config(config))

    def _fill(self) -> None:
        import pyarrow as pa

        with self._timed("publish to S3"):
            self.local.publish_snapshot(VIEW, pa.table(table_of(0, self.rows)))
        with self._timed("local replica, from S3", self.folder / "cache"):
            told = self.local.refresh(300)["standby"]
        assert {one.state for one in told} <= {"hydrated", "current"}, told  # its own thread may have been faster
        blobs = list(self.blobs())
        if find_spec("lmdb"):
            with self._timed("LMDB", self.folder / "lmdb"):
                self._fill_lmdb(blobs)
        if self.is_local:
            return
        with self._timed("Redis, by MSET"):
            for pairs in blobs:
                self.direct.mset(pairs)
        self.dict: dict[bytes, bytes] = {}
        with self._timed("a dict"):
            for pairs in blobs:
                self.dict.update(pairs)
        with self._timed("sqlite", self.folder / "rows.db"):
            self._fill_sqlite(blobs)

    def blobs(self) -> Iterator[dict[bytes, bytes]]:
        """Stored key -> packed row, in parts."""
        for first in range(0, self.rows, PART):
            keys, blobs = packed(self.online, VIEW, table_of(first, min(first + PART, self.rows)))
            yield dict(zip(keys, blobs, strict=True))

    def _fill_sqlite(self, blobs: Sequence[dict[bytes, bytes]]) -> None:
        self.sqlite = sqlite3.connect(self.folder / "rows.db")
        self._ends.callback(self.sqlite.close)
        self.sqlite.execute("pragma journal_mode=off")
        self.sqlite.execute("pragma mmap_size=2000000000")
        self.sqlite.execute("create table rows(key blob primary key, row blob) without rowid")
        for pairs in blobs:
            self.sqlite.executemany("insert into rows values(?, ?)", pairs.items())
        self.sqlite.commit()

    def _fill_lmdb(self, blobs: Sequence[dict[bytes, bytes]]) -> None:
        lmdb = import_module("lmdb")
        size = (1 << 24) + self.rows * 1024
        self.lmdb = lmdb.open(str(self.folder / "lmdb"), map_size=size, sync=False, readahead=False)
        self._ends.callback(self.lmdb.close)
        for pairs in blobs:
            with self.lmdb.begin(write=True) as write:
                write.cursor().putmulti(pairs.items())

    @contextmanager
    def _timed(self, name: str, path: Path | None = None) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        took_s = time.perf_counter() - begun
        self.built.append([name, took_s, None if path is None else size_of(path) / 1e6])


def size_of(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_blocks * 512 for each in files)


@contextmanager
def environment(more: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


Ways = dict[str, Callable[[list[bytes]], Any]]


def contenders_of(shelves: Shelves) -> list[Contender]:
    lean, head = Lean(shelves.online, [VIEW]), shelves.online.settings.views[VIEW].head

    def keys(ids: Ids) -> list[bytes]:
        return [b"%b%d}" % (head, one) for one in ids.tolist()]

    def by_hand(get: Callable[[list[bytes]], Any]) -> Callable[[list[bytes]], Any]:
        return lambda asked: lean(get(asked))

    ways = local_ways(shelves) if shelves.is_local else {**online_ways(shelves), **local_ways(shelves)}
    clients = {REPLICA: (shelves.local, Origin.SNAPSHOT)}
    clients |= {} if shelves.is_local else {REDIS: (shelves.online, Origin.PRIMARY)}
    return [
        *(Called(name, reader(*client), columns_of, seen, wanted) for name, client in clients.items()),
        *(Called(name, by_hand(get), keys, lambda got, ids: int(got[MARK][-1]), wanted) for name, get in ways.items()),
    ]


def local_ways(shelves: Shelves) -> Ways:
    def lmdb(asked: list[bytes]) -> list[bytes]:
        with shelves.lmdb.begin() as read:
            return list(map(read.get, asked))

    return {LMDB: lmdb} if find_spec("lmdb") else {}


def online_ways(shelves: Shelves) -> Ways:
    found, execute = shelves.dict, shelves.sqlite.execute

    def sqlite(asked: list[bytes]) -> list[bytes]:
        rows = dict(execute(f"select key, row from rows where key in ({','.join('?' * len(asked))})", asked))
        return [rows[key] for key in asked]

    return {MGET: shelves.direct.mget, SQLITE: sqlite, DICT: lambda asked: list(map(found.__getitem__, asked))}


def reader(client: FeatureClient, origin: Origin) -> Callable[[Any], Response]:
    """A read with every column and the provenance touched, all of it from where it should be."""
    features = references([VIEW])

    def read(rows: Any) -> Response:
        response = client.get_online_features(features, rows)
        columns = response.columns
        for name in columns:
            columns[name]
        assert (response.provenance(VIEW).origin == origin).all()
        return response

    return read


def columns_of(ids: Ids) -> dict[str, Ids]:
    return {KEY: ids}


def seen(got: Any, ids: Ids) -> int:
    return int(got.columns[MARK][-1])


def wanted(ids: Ids) -> int:
    return int(ids[-1])


def measure(options: Options) -> Result:
    result = Result("snapshot", ABOUT, options.seed, options.is_quick)
    if not find_spec("lmdb"):
        result.missing.append("lmdb")
    draws = np.random.default_rng(options.seed)
    with ExitStack() as stack:
        stack.enter_context(pinned())
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="featurechaos-bench-")))
        shelves = stack.enter_context(Shelves(options.pick(1_000_000, 1_000), folder))
        timings = {
            size: alternate(
                contenders_of(shelves),
                # With repetition: drawing a million without it takes longer than reading.
                draw=lambda size=size: draws.integers(0, shelves.rows, size),  # type: ignore[misc]
                rounds=options.rounds,
                calls=options.pick({1: 12, 10: 12, 100: 8, 1000: 4}[size], 2),
            )
            for size in options.pick(_SIZES, (1, 100))
        }
    result.tables = [read_table(shelves.rows, timings), build_table(shelves)]
    result.plots = [plot_of(timings)]
    result.measured = {"snapshot": timings[100][REPLICA].against(timings[100][REDIS])[0]}
    return result


def read_table(rows: int, timings: dict[int, dict[str, Timing]]) -> Table:
    head = ["entities", "reader", "p50 us", "p99 us", "best us", "cold us", "CPU us", "x our Redis read", "quartiles"]
    table = Table(f"Some of {rows:,} rows", head)
    for size, by_name in timings.items():
        for name, one in by_name.items():
            ratio, low, high = one.against(by_name[REDIS])
            numbers = [one.p50_us, one.p99_us, one.best_us, one.first_us, one.cpu_best_us]
            table.rows.append([size, name, *numbers, round(ratio, 2), f"{low:.2f} to {high:.2f}"])
    return table


def build_table(shelves: Shelves) -> Table:
    return Table("Filling them", ["place", "s", "MB on disk"], shelves.built, note="Once each, not in turns.")


def plot_of(timings: dict[int, dict[str, Timing]]) -> Plot:
    plot = Plot("snapshot", "Reading from a local image", "entities", "wall us, median")
    for size, by_name in timings.items():
        for name, one in by_name.items():
            plot.series.setdefault(name, []).append((size, one.p50_us))
    return plot


if __name__ == "__main__":
    main(measure, __doc__)
