"""Runs in an environment that has Feast and not us: asked on stdin, answers on stdout, one JSON a line.

open    make a feature store over the server at `port` and write every row into it
write   a new value for one entity; the value
turn    some timed reads; wall and CPU ns of each, and the value the last one saw
versions, pid
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from random import Random
from typing import Any

warnings.filterwarnings("ignore")

import mmh3  # noqa: E402 - warnings of the imports are none of ours
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import redis  # noqa: E402
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType  # noqa: E402
from feast.types import Array, Float32, Int64  # noqa: E402

KEY, DIM, PROJECT, MARK = "user_id", 128, "bench", "b_f00"
_HEAD = struct.pack("<III", 1, 2, len(KEY)) + KEY.encode() + struct.pack("<II", 4, 8)


class Shop:
    """A feature store with its views, and a plain reader of the same bytes."""

    def __init__(self, folder: Path, asked: dict[str, Any]) -> None:
        self.features: dict[str, list[str]] = asked["features"]
        self.rng = Random(asked["seed"])
        url = f"127.0.0.1:{asked['port']}"
        (folder / "feature_store.yaml").write_text(
            f"project: {PROJECT}\nregistry: {folder}/registry.db\nprovider: local\n"
            f"online_store:\n  type: redis\n  connection_string: {url}{asked.get('options', '')}\n"
            "offline_store:\n  type: dask\nentity_key_serialization_version: 3\n"
        )
        self.store = FeatureStore(repo_path=str(folder))
        self.redis = redis.Redis(port=asked["port"])
        self._apply(folder / "source.parquet")
        self.hashed = {
            view: [struct.pack("<I", mmh3.hash(f"{view}:{name}", signed=False)) for name in names]
            for view, names in self.features.items()
        }
        if asked["entities"]:
            self._fill(asked["entities"], asked["seed"])

    def _apply(self, source: Path) -> None:
        now = pd.Timestamp.now(tz="UTC")
        pd.DataFrame({KEY: [1], "event_timestamp": [now]}).to_parquet(source)
        user = Entity(name="user", join_keys=[KEY], value_type=ValueType.INT64)
        views = [
            FeatureView(
                name=view,
                entities=[user],
                ttl=dt.timedelta(0),
                schema=[
                    Field(name=KEY, dtype=Int64),
                    *(Field(name=name, dtype=Array(Float32) if name == "embedding" else Float32) for name in names),
                ],
                online=True,
                source=FileSource(name=f"source_{view}", path=str(source), timestamp_field="event_timestamp"),
            )
            for view, names in self.features.items()
        ]
        self.store.apply([user, *views])

    def _fill(self, entities: int, seed: int) -> None:
        rng, now = np.random.default_rng(seed), pd.Timestamp.now(tz="UTC") - pd.Timedelta(hours=1)
        for view, names in self.features.items():
            columns: dict[str, Any] = {KEY: np.arange(entities, dtype=np.int64)}
            for name in names:
                wide = name == "embedding"
                values = rng.random((entities, DIM) if wide else entities, dtype=np.float32)
                columns[name] = list(values) if wide else values
            columns["event_timestamp"] = [now] * entities
            self.store.write_to_online_store(view, pd.DataFrame(columns))

    def fill_marked(self, entities: int) -> None:
        """Write rows whose marked value is their own number."""
        numbers = np.arange(entities)
        rows: dict[str, Any] = {name: numbers.astype(np.float32) for name in self.features["b"]}
        rows |= {KEY: numbers, "event_timestamp": [pd.Timestamp.now(tz="UTC")] * entities}
        self.store.write_to_online_store("b", pd.DataFrame(rows))

    def write(self, one: int) -> float:
        value = float(np.float32(self.rng.random()))
        row: dict[str, Any] = {name: np.array([0.5], np.float32) for name in self.features["b"]}
        row |= {KEY: [one], MARK: np.array([value], np.float32), "event_timestamp": [pd.Timestamp.now(tz="UTC")]}
        self.store.write_to_online_store("b", pd.DataFrame(row))
        return value

    def references(self, views: list[str]) -> list[str]:
        return [f"{view}:{name}" for view in views for name in self.features[view]]

    def lean(self, views: list[str], ids: list[int]) -> dict[str, Any]:
        """What one would write by hand: the same commands, and `struct` for the values; equal to Feast's dict."""
        keys = [_HEAD + struct.pack("<q", one) + PROJECT.encode() for one in ids]
        pipe: Any = self.redis.pipeline(transaction=False)
        for view in views:
            for key in keys:
                pipe.execute_command("HMGET", key, *self.hashed[view])
        rows, count = pipe.execute(), len(ids)
        out: dict[str, Any] = {KEY: ids}
        one, many = struct.Struct("<f").unpack_from, struct.Struct(f"<{DIM}f").unpack_from
        for at, view in enumerate(views):
            cells = zip(*rows[at * count : (at + 1) * count], strict=True)
            for name, column in zip(self.features[view], cells, strict=True):
                if name == "embedding":
                    out[name] = [list(many(cell, len(cell) - 4 * DIM)) if cell else None for cell in column]
                else:
                    out[name] = [one(cell, 1)[0] if cell else None for cell in column]
        return out

    def reader(self, how: str, views: list[str]) -> Callable[[list[int]], Any]:
        wanted = self.references(views)
        get, aget = self.store.get_online_features, self.store.get_online_features_async

        def feast(ids: list[int]) -> Any:
            return get(features=wanted, entity_rows=[{KEY: one} for one in ids]).to_dict()

        async def feast_async(ids: list[int]) -> Any:
            return (await aget(features=wanted, entity_rows=[{KEY: one} for one in ids])).to_dict()

        def lean(ids: list[int]) -> Any:
            return self.lean(views, ids)

        return {"feast": feast, "feast_async": feast_async, "lean": lean}[how]


def turn(read: Callable[[list[int]], Any], asks: list[list[int]]) -> dict[str, Any]:
    wall, cpu, got = [], [], None
    for ids in asks:
        cpu_0, wall_0 = time.thread_time_ns(), time.perf_counter_ns()
        got = read(ids)
        wall_1, cpu_1 = time.perf_counter_ns(), time.thread_time_ns()
        wall.append(wall_1 - wall_0)
        cpu.append(cpu_1 - cpu_0)
    assert got is not None
    return {"wall_ns": wall, "cpu_ns": cpu, "seen": got[MARK][-1]}


async def aturn(read: Callable[[list[int]], Any], asks: list[list[int]]) -> dict[str, Any]:
    wall, cpu, got = [], [], None
    for ids in asks:
        cpu_0, wall_0 = time.thread_time_ns(), time.perf_counter_ns()
        got = await read(ids)
        wall_1, cpu_1 = time.perf_counter_ns(), time.thread_time_ns()
        wall.append(wall_1 - wall_0)
        cpu.append(cpu_1 - cpu_0)
    assert got is not None
    return {"wall_ns": wall, "cpu_ns": cpu, "seen": got[MARK][-1]}


def main() -> None:
    # What is imported may print; only answers go to the pipe.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory(prefix="featurechaos-feast-") as folder:
        shop: Shop | None = None
        for line in sys.stdin:
            asked = json.loads(line)
            told: Any
            if asked["do"] == "open":
                shop = Shop(Path(folder), asked)
                told = {name: metadata.version(name) for name in ("feast", "redis", "hiredis")}
            elif asked["do"] == "write":
                assert shop is not None
                told = shop.write(asked["id"])
            else:
                assert shop is not None
                read = shop.reader(asked["how"], asked["views"])
                if asked["how"] == "feast_async":
                    told = loop.run_until_complete(aturn(read, asked["asks"]))
                else:
                    told = turn(read, asked["asks"])
            answers.write(json.dumps(told) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
