"""What a read costs: ours, redis-py's `mget` of the same bytes, what one would write by hand, and Feast.

Every timed read of ours touches every column and the provenance of every view. `mget` gives bytes and stops; the
hand-written reader makes columns of them, and knows neither nulls nor ages nor damaged rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import redis
import redis.asyncio

from benchmarks.harness import Awaited, Called, Contender, Options, Timing, alternate, main, pinned
from benchmarks.inside import SyncParts
from benchmarks.peers import FeastContender, FeastProcess, feast_python
from benchmarks.results import Plot, Result, Table
from benchmarks.worlds import (
    DIM,
    KEY,
    MARK,
    VIEWS,
    Ids,
    ReadWorld,
    features_of,
    references,
    rows_of,
    touch,
    views_for,
)
from featurechaos import AsyncFeatureClient, FeatureClient, Response
from featurechaos.codec import Layout

MGET, OURS, COLUMNS, DICT = (
    "redis-py mget, undecoded",
    "featurechaos",
    "featurechaos, columns in",
    "featurechaos + to_dict",
)
LEAN, FEAST, LEAN_FEAST = "hand-written over packed", "Feast + to_dict", "hand-written over Feast's hashes"
ABOUT = """One request at a time, client and server on one core. Times are of one request: wall median and 99th
percentile, the fastest, the first call after another contender's turn ("cold"), thread CPU time (best round), and the
wall ratio to `mget` with its quartiles."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How many entities and views a request asks for."""

    entities: int
    views: int

    @property
    def title(self) -> str:
        return f"{self.entities} x {self.views}"


class Lean:
    """Columns of packed rows as one writes it by hand who knows where the floats lie, and trusts them."""

    def __init__(self, client: FeatureClient, views: Sequence[str]) -> None:
        self.views = views
        layouts = [Layout.of(client.settings.views[view]) for view in views]
        self.spots = [{name: spot.run.at + spot.at for name, spot in one.spots.items()} for one in layouts]

    def __call__(self, blobs: Sequence[bytes]) -> dict[str, Any]:
        out, count = {}, len(blobs) // len(self.views)
        for at, spots in enumerate(self.spots):
            floats = np.frombuffer(b"".join(blobs[at * count : (at + 1) * count]), np.float32).reshape(count, -1)
            for name, spot in spots.items():
                cells = floats[:, spot : spot + DIM] if name == "embedding" else floats[:, spot]
                out[name] = np.ascontiguousarray(cells)
        return out


def sync_contenders(world: ReadWorld, shape: Shape, feast: FeastProcess | None) -> list[Contender]:
    views = views_for(shape.views)
    wanted, client = references(views), world.client()
    bare = redis.Redis.from_url(world.server.url)
    lean, mget = Lean(world.writer, views), cast("Callable[[list[bytes]], list[bytes]]", bare.mget)
    spot = mark_spot(world, views)

    def keys(ids: Ids) -> list[bytes]:
        return world.keys(views, ids)

    def ours(rows: Any) -> Any:
        return touch(client.get_online_features(wanted, rows))

    contenders: list[Contender] = [
        Called(MGET, mget, keys, lambda got, ids: spot(got), world.mark),
        Called(LEAN, lambda asked: lean(mget(asked)), keys, lambda got, ids: float(got[MARK][-1]), world.mark),
        Called(OURS, ours, rows_of, lambda got, ids: float(got.columns[MARK][-1]), world.mark),
        Called(COLUMNS, ours, columns_of, lambda got, ids: float(got.columns[MARK][-1]), world.mark),
        Called(
            DICT,
            lambda rows: client.get_online_features(wanted, rows).to_dict(),
            rows_of,
            lambda got, ids: got[MARK][-1],
            world.mark,
        ),
    ]
    if feast is not None:
        every = 1 if shape.entities <= 100 else 6
        contenders.append(FeastContender(LEAN_FEAST, feast, "lean", views, every))
        contenders.append(FeastContender(FEAST, feast, "feast", views, every))
    return contenders


@dataclass(frozen=True, slots=True)
class Loop:
    """The event loop of the async contenders, and the clients that live on it."""

    loop: asyncio.AbstractEventLoop
    client: AsyncFeatureClient
    bare: Any

    @classmethod
    def on(cls, world: ReadWorld) -> Loop:
        return cls(
            asyncio.new_event_loop(),
            AsyncFeatureClient.from_config(world.config()),
            redis.asyncio.Redis.from_url(world.server.url),
        )

    def close(self) -> None:
        self.loop.run_until_complete(self.client.close())
        self.loop.run_until_complete(self.bare.aclose())
        self.loop.close()


def async_contenders(world: ReadWorld, shape: Shape, feast: FeastProcess | None, on: Loop) -> list[Contender]:
    loop, client, mget = on.loop, on.client, on.bare.mget
    views = views_for(shape.views)
    wanted, lean, spot = references(views), Lean(world.writer, views), mark_spot(world, views)

    def keys(ids: Ids) -> list[bytes]:
        return world.keys(views, ids)

    async def by_hand(asked: Any) -> Any:
        return lean(await mget(asked))

    async def ours(rows: Any) -> Any:
        return touch(await client.get_online_features(wanted, rows))

    async def as_dict(rows: Any) -> Any:
        return (await client.get_online_features(wanted, rows)).to_dict()

    contenders: list[Contender] = [
        Awaited(MGET, mget, loop, keys, lambda got, ids: spot(got), world.mark),
        Awaited(LEAN, by_hand, loop, keys, lambda got, ids: float(got[MARK][-1]), world.mark),
        Awaited(OURS, ours, loop, rows_of, lambda got, ids: float(got.columns[MARK][-1]), world.mark),
        Awaited(DICT, as_dict, loop, rows_of, lambda got, ids: got[MARK][-1], world.mark),
    ]
    if feast is not None:
        contenders.append(FeastContender(FEAST, feast, "feast_async", views, 1 if shape.entities <= 100 else 6))
    return contenders


def mark_spot(world: ReadWorld, views: Sequence[str]) -> Callable[[Sequence[bytes]], float]:
    """Finds the marked value in the last row of view `b` among the blobs of a request, without a decoder."""
    spots, at = Lean(world.writer, ["b"]).spots[0], views.index("b")

    def look(blobs: Sequence[bytes]) -> float:
        each = len(blobs) // len(views)
        return float(np.frombuffer(blobs[(at + 1) * each - 1], np.float32)[spots[MARK]])

    return look


def columns_of(ids: Ids) -> dict[str, Ids]:
    return {KEY: ids}


def measure(options: Options) -> Result:
    result = Result("read", ABOUT, options.seed, options.is_quick)
    entities = options.pick((1, 10, 100, 1000), (1, 100))
    shapes = [Shape(each, views) for views in (1, 3) for each in entities]
    with ExitStack() as stack:
        stack.enter_context(pinned())
        world = stack.enter_context(ReadWorld(options.pick(3000, 200), options.seed))
        feast = None
        if feast_python() is None:
            result.missing.append("Feast (make bench sets up its environment)")
        else:
            features = {view: features_of(view) for view in VIEWS}
            feast = stack.enter_context(FeastProcess(world.server.port, world.entities, features, options.seed))
        sync = [(shape, timed(options, world, shape, sync_contenders(world, shape, feast))) for shape in shapes]
        on = Loop.on(world)
        stack.callback(on.close)
        waiting = [(shape, timed(options, world, shape, async_contenders(world, shape, feast, on))) for shape in shapes]
        went = {shape: stages(options, world, shape) for shape in (Shape(1, 1), Shape(100, 3))}
    result.tables = [table_of("Threads", sync), table_of("asyncio", waiting), stage_table(went)]
    result.plots = [
        plot_of("read-sync", "A read of three views", sync),
        plot_of("read-async", "The same, async", waiting),
    ]
    result.measured = measured(dict(sync))
    return result


def timed(options: Options, world: ReadWorld, shape: Shape, contenders: list[Contender]) -> dict[str, Timing]:
    calls = {1: 12, 10: 12, 100: 6, 1000: 3}[shape.entities]
    return alternate(
        contenders,
        draw=lambda: world.draw(shape.entities),
        rounds=options.rounds,
        calls=options.pick(calls, 2),
    )


BYTES, READ = "bytes from the store", "read, checked and answered"
CALL, MADE, COLUMNED, ALL = (
    "the call's words and keys",
    "the response, untouched",
    "every column touched",
    "and provenance",
)


def stages(options: Options, world: ReadWorld, shape: Shape) -> dict[str, Timing]:
    """A read, each time a part further; what a part costs is the difference."""
    views = views_for(shape.views)
    wanted, client = references(views), world.client()
    parts = SyncParts(client, wanted)

    def made(rows: Any) -> Response:
        return client.get_online_features(wanted, rows)

    def columned(rows: Any) -> Response:
        response = made(rows)
        columns = response.columns
        for name in columns:
            columns[name]
        return response

    contenders: list[Contender] = [
        Called(CALL, parts.call, rows_of),
        Called(BYTES, parts.bare, lambda ids: parts.addressed(rows_of(ids))),
        Called(READ, parts.whole, lambda ids: parts.call(rows_of(ids))),
        Called(MADE, made, rows_of),
        Called(COLUMNED, columned, rows_of),
        Called(ALL, lambda rows: touch(made(rows)), rows_of),
    ]
    return timed(options, world, shape, contenders)


def stage_table(went: dict[Shape, dict[str, Timing]]) -> Table:
    table = Table(
        "Where a read of ours goes",
        ["entities x views", "part", "wall us", "CPU us", "share of CPU"],
        note="Differences between reads that go a part further each, in turns; the whole is the sum.",
    )
    steps = [
        ("words checked, entity rows to keys", CALL, None),
        ("the command, the round trip, the reply split", BYTES, None),
        ("checksums, ages, deadline, breaker, last-known, the answer made", READ, BYTES),
        ("the counters; the answer before is let go", MADE, READ),
        ("columns", COLUMNED, MADE),
        ("provenance, degraded", ALL, COLUMNED),
    ]
    for shape, by_name in went.items():
        whole = by_name[ALL].cpu_best_us
        for title, name, before in steps:
            wall, cpu = by_name[name].p50_us, by_name[name].cpu_best_us
            for less in filter(None, (before, CALL if name == MADE else None)):
                wall, cpu = wall - by_name[less].p50_us, cpu - by_name[less].cpu_best_us
            table.rows.append([shape.title, title, wall, cpu, f"{cpu / whole:.0%}"])
    return table


def measured(timings: dict[Shape, dict[str, Timing]]) -> dict[str, float]:
    """The numbers that are promised."""
    one, many = timings[Shape(1, 1)], timings[Shape(100, 3)]
    numbers = {
        "read_100x3": many[OURS].against(many[MGET])[0],
        "read_1x1": one[OURS].against(one[MGET])[0],
    }
    if FEAST in many:
        numbers["read_feast"] = many[FEAST].against(many[DICT])[0]
    return numbers


def table_of(title: str, timings: list[tuple[Shape, dict[str, Timing]]]) -> Table:
    head = ["entities x views", "reader", "p50 us", "p99 us", "best us", "cold us", "CPU us", "x mget", "quartiles"]
    table = Table(title, head)
    for shape, by_name in timings:
        for name, timing in by_name.items():
            ratio, low, high = timing.against(by_name[MGET])
            numbers = [timing.p50_us, timing.p99_us, timing.best_us, timing.first_us, timing.cpu_best_us]
            table.rows.append([shape.title, name, *numbers, round(ratio, 2), f"{low:.2f} to {high:.2f}"])
    return table


def plot_of(name: str, title: str, timings: list[tuple[Shape, dict[str, Timing]]]) -> Plot:
    plot = Plot(name, title, "entities", "wall us, median")
    for shape, by_name in timings:
        if shape.views == 3:
            for reader, timing in by_name.items():
                plot.series.setdefault(reader, []).append((shape.entities, timing.p50_us))
    return plot


if __name__ == "__main__":
    main(measure, __doc__)
