"""How the cost of a read grows: with entities, views, features, threads, processes, and rows of the snapshot."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import redis

from benchmarks.bench_failover import Servers
from benchmarks.bench_read import Lean, mark_spot
from benchmarks.bench_snapshot import LMDB, Shelves
from benchmarks.bench_snapshot import contenders_of as places_of
from benchmarks.harness import Called, Contender, Options, Timing, alternate, main, pinned
from benchmarks.inside import mark_at
from benchmarks.load import MARK as LOAD_MARK
from benchmarks.load import VIEW
from benchmarks.results import ROOT, Plot, Result, Table
from benchmarks.worlds import KEY, MARK, Ids, ReadWorld, features_of, references, touch
from featurechaos import FeatureClient
from featurechaos.demo.proxy import TrickleProxy
from featurechaos.demo.servers import ValkeyServer

ABOUT = """One thing grows, the rest stands still. Entities, views, features and snapshot rows: client and server on one
core, wall medians, beside `mget` of the same bytes. Threads and processes: on all cores, 10 rows of 20 float32 a
request, as fast as they can; answers a second, the best of the turns."""
OURS, MGET, LEAN = "featurechaos", "redis-py mget, undecoded", "mget + columns by hand"
_PLAIN = ("b", *(f"v{at:02d}" for at in range(1, 16)))
"""Sixteen views of equal shape; the first is the one that is written to between turns."""
_FOR_S = 1.0


@dataclass(frozen=True, slots=True)
class Step:
    """One size of what grows."""

    size: int
    timings: Mapping[str, Timing]


def read_step(options: Options, world: ReadWorld, size: int, views: Sequence[str], entities: int) -> Step:
    """Ours, `mget` and columns by hand, at one size."""
    wanted, client = references(views, world.floats), world.client()
    bare = redis.Redis.from_url(world.server.url)
    mget = cast("Callable[[list[bytes]], list[bytes]]", bare.mget)
    lean, spot = Lean(world.writer, views), mark_spot(world, views)

    def keys(ids: Ids) -> list[bytes]:
        return world.keys(views, ids)

    contenders: list[Contender] = [
        Called(
            OURS,
            lambda rows: touch(client.get_online_features(wanted, rows)),
            lambda ids: {KEY: ids},
            lambda got, ids: float(got.columns[MARK][-1]),
            world.mark,
        ),
        Called(MGET, mget, keys, lambda got, ids: spot(got), world.mark),
        Called(LEAN, lambda asked: lean(mget(asked)), keys, lambda got, ids: float(got[MARK][-1]), world.mark),
    ]
    timings = alternate(contenders, draw=lambda: world.draw(entities), rounds=options.pick(20, 2), calls=5)
    bare.close()
    client.close()
    return Step(size, timings)


def by_entities(options: Options) -> list[Step]:
    sizes = options.pick((1, 3, 10, 30, 100, 300, 1000, 3000), (1, 30))
    views = _PLAIN[:3]
    with ReadWorld(max(sizes), options.seed, views) as world:
        return [read_step(options, world, size, views, size) for size in sizes]


def by_views(options: Options, entities: int) -> list[Step]:
    sizes = options.pick((1, 2, 4, 8, 16), (1, 2))
    with ReadWorld(500, options.seed, _PLAIN[: max(sizes)]) as world:
        return [read_step(options, world, size, _PLAIN[:size], entities) for size in sizes]


def by_features(options: Options) -> list[Step]:
    steps = []
    for size in options.pick((5, 10, 20, 40, 80, 160, 320), (5, 20)):
        with ReadWorld(500, options.seed, ("b",), size) as world:
            steps.append(read_step(options, world, size, ("b",), 100))
    return steps


def by_rows(options: Options) -> tuple[list[Step], Table]:
    """100 rows from a local replica that grows; and what it takes to have one."""
    table = Table("A growing snapshot: having one", ["rows", "place", "s", "MB on disk"])
    steps = []
    draws = np.random.default_rng(options.seed)
    for rows in options.pick((1_000, 10_000, 100_000, 1_000_000), (1_000,)):
        with TemporaryDirectory(prefix="featurechaos-bench-") as folder, Shelves(rows, Path(folder), True) as shelves:
            timings = alternate(
                places_of(shelves),
                draw=lambda rows=rows: draws.integers(0, rows, 100),  # type: ignore[misc]
                rounds=options.pick(20, 2),
                calls=8,
            )
            table.rows += [[f"{rows:,}", *built] for built in shelves.built]
        steps.append(Step(rows, timings))
    return steps, table


class Hammer:
    """A process that reads with some threads as fast as it can, when told; a context manager."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._argv = [sys.executable, "-m", "benchmarks.load", json.dumps(job)]

    def __enter__(self) -> Hammer:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._argv, stdin=pipe, stdout=pipe, cwd=ROOT, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def said(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            msg = f"a reader's process ended with {self._process.wait(5)}"
            raise RuntimeError(msg)
        return line


@dataclass(frozen=True, slots=True)
class Rate:
    """Answers a second of all processes together, and the median time of one."""

    size: int
    name: str
    answers_per_s: float
    p50_us: float


def hammered(options: Options, job: Mapping[str, Any], sizes: Iterable[int], what: str) -> list[Rate]:
    """Ours and `mget` in turns, with more and more threads or processes."""
    rates: list[Rate] = []
    for size in sizes:
        many = size if what == "processes" else 1
        threads = size if what == "threads" else 1
        with ExitStack() as stack:
            teams = {
                name: [
                    stack.enter_context(Hammer({**job, "kind": kind, "threads": threads, "seed": options.seed + at}))
                    for at in range(many)
                ]
                for name, kind in ((OURS, "ours"), (MGET, "bare"))
            }
            for team in teams.values():
                for one in team:
                    assert one.said() == "ready\n"
            best: dict[str, Rate] = {}
            for _ in range(options.pick(3, 1)):
                for name, team in teams.items():
                    rate = turn_of(team, size, name, job["for_s"])
                    if name not in best or rate.answers_per_s > best[name].answers_per_s:
                        best[name] = rate
        rates += best.values()
    return rates


def turn_of(team: Sequence[Hammer], size: int, name: str, for_s: float) -> Rate:
    for one in team:
        one.go()
    told = [json.loads(one.said()) for one in team]
    answers = sum(one["answers"] for one in told)
    return Rate(size, name, answers / for_s, float(np.median([one["p50_us"] for one in told])))


def by_load(options: Options) -> tuple[list[Rate], list[Rate]]:
    with ValkeyServer() as primary, ValkeyServer() as replica, TrickleProxy(primary.port) as proxy:
        Servers(primary, replica, proxy).fill()
        config = patient(primary.port)
        with FeatureClient.from_config(config) as client:
            head = client.settings.views[VIEW].head.decode()
            at = 4 * mark_at(client, VIEW, LOAD_MARK)
        job = {
            "config": config,
            "ports": [primary.port],
            "head": head,
            "at": at,
            "features": features_of(VIEW),
            "for_s": options.pick(_FOR_S, 0.2),
        }
        threads = hammered(options, job, options.pick((1, 2, 4, 8, 16), (2,)), "threads")
        processes = hammered(options, job, options.pick((1, 2, 4, 8), (1,)), "processes")
    return threads, processes


def patient(port: int) -> dict[str, Any]:
    """The config of the failover bench with waits that a full machine does not run into."""
    config = Servers.config(port)
    config["sources"]["primary"]["timeout_s"] = 10.0
    config["policy"] = {"deadline_s": 30.0, "breaker": {"slow_s": 9.0}}
    return config


def measure(options: Options) -> Result:
    result = Result("scale", ABOUT, options.seed, options.is_quick)
    with pinned():
        entities = by_entities(options)
        views, views_of_one = by_views(options, 100), by_views(options, 1)
        features = by_features(options)
        rows, rows_table = by_rows(options)
    threads, processes = by_load(options)
    result.tables = [
        step_table("Entities, of 3 views", "entities", entities),
        step_table("Views, of 100 entities", "views", views),
        step_table("Views, of 1 entity", "views", views_of_one),
        step_table("Features of one view, of 100 entities", "features", features),
        step_table("Rows of the snapshot, 100 read from its replica", "rows", rows, base=LMDB),
        rows_table,
        rate_table("Threads of one process", "threads", threads),
        rate_table("Processes", "processes", processes),
    ]
    result.plots = [
        step_plot("scale-entities", "Entities, of 3 views", "entities", entities),
        step_plot("scale-views", "Views, of 100 entities", "views", views),
        step_plot("scale-features", "Features of one view, of 100 entities", "features", features),
        step_plot("scale-rows", "100 rows from a replica of so many", "rows of the snapshot", rows),
        rate_plot("scale-threads", "Threads of one process", "threads", threads),
        rate_plot("scale-processes", "Processes", "processes", processes),
    ]
    return result


def step_table(title: str, what: str, steps: Sequence[Step], base: str = MGET) -> Table:
    table = Table(title, [what, "reader", "p50 us", "CPU us", f"x {base}", "CPU us for each"])
    for step in steps:
        for name, one in step.timings.items():
            ratio = round(one.against(step.timings[base])[0], 2) if base in step.timings else None
            table.rows.append([step.size, name, one.p50_us, one.cpu_best_us, ratio, one.cpu_best_us / step.size])
    return table


def rate_table(title: str, what: str, rates: Sequence[Rate]) -> Table:
    table = Table(title, [what, "reader", "answers a second", "p50 us"])
    table.rows = [[rate.size, rate.name, rate.answers_per_s, rate.p50_us] for rate in rates]
    return table


def step_plot(name: str, title: str, what: str, steps: Sequence[Step]) -> Plot:
    plot = Plot(name, title, what, "wall us, median")
    for step in steps:
        for reader, one in step.timings.items():
            plot.series.setdefault(reader, []).append((step.size, one.p50_us))
    return plot


def rate_plot(name: str, title: str, what: str, rates: Sequence[Rate]) -> Plot:
    plot = Plot(name, title, what, "answers a second", is_log=False)
    for rate in rates:
        plot.series.setdefault(rate.name, []).append((rate.size, rate.answers_per_s))
    return plot


if __name__ == "__main__":
    main(measure, __doc__)
