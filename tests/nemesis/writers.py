"""`python -m tests.nemesis.writers JOB`: writes, deletes and publishes, and keeps a log of its own of all of it.

What a row holds follows from its view, key and event time (`stored.value`); every event time is one writer's alone,
since its last digits are the writer's number. A line of JSON on stdin changes what it does: `{"generation": 2}`,
`{"backfill": true}`; it stops when stdin is closed.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from featurechaos import FeatureClient
from featurechaos.clock import SystemClock
from featurechaos.errors import FeatureError, PartialWrite
from featurechaos.stores import WriteReport
from tests.nemesis.clocks import now
from tests.nemesis.history import IMAGE, ROW, TOMBSTONE, WRITES, Records
from tests.nemesis.stored import BASE, KEYS, KINDS, MORTAL, PRIMARY, REPLICA, SCORE, codes, value, written_keys

WRITERS, PAUSE_S, ROWS = 2, 0.08, 12
DELETE_EVERY_S, PUBLISH_EVERY_S = 0.7, 1.5
KEEP_IMAGES = 8
_DELETER, _PUBLISHER, _BACKFILLER = 7, 8, 9
_PLACES = 10
_LAG_US = 2000
_AGAIN_S = 0.02
"""Between tries of a backfill; each brings event times of its own."""
_wall = SystemClock().wall


class Author:
    """One thread that writes, with a number that no other has: its event times end in it."""

    def __init__(self, number: int, clients: Mapping[int, FeatureClient], folder: Path) -> None:
        self.number, self.clients = number, clients
        self.log = Records(folder / f"writer{number}.writes")
        self._last_us = 0

    def times(self, n: int, lag_s: float, rng: Random) -> list[int]:
        """n event times of this writer alone, some time ago."""
        newest = int(_wall() * 1e6) - _LAG_US
        times = [newest - int(rng.random() * lag_s * 1e6) for _ in range(n)]
        return [one // _PLACES * _PLACES + self.number for one in times]

    def write(self, view: int, keys: Sequence[int], times: Sequence[int], generation: int) -> bool:
        """Write some rows; whether every store took all of them."""
        kind = KINDS[view]
        rows = [value(view, key, at, generation) for key, at in zip(keys, times, strict=True)]
        table = table_of(view, keys, times, rows)
        records = logged(view, keys, times, generation, ROW)
        records["began"] = now()
        report = self._told(lambda: self.clients[generation].write_to_online_store(kind.name, table))
        self._keep(records, report)
        return bool((records["primary"] & records["replica"]).all())

    def delete(self, keys: Sequence[int]) -> None:
        records = logged(BASE, keys, [int(_wall() * 1e6)] * len(keys), 1, TOMBSTONE)
        records["began"] = now()
        report = self._told(lambda: self.clients[1].delete("base", {"k": list(keys)}))
        self._keep(records, report)

    @staticmethod
    def _told(act: Callable[[], WriteReport]) -> WriteReport:
        try:
            return act()
        except PartialWrite as error:
            report: WriteReport = error.report
            return report

    def _keep(self, records: Any, report: WriteReport) -> None:
        records["ended"] = now()
        for source in (PRIMARY, REPLICA):
            counts = report.sources.get(source)
            records[source] = counts is not None and not counts.failed and not counts.error
        self.log.add(records)


def logged(view: int, keys: Sequence[int], times: Sequence[int], generation: int, kind: int) -> Any:
    """Records of a write that has not ended."""
    records = np.zeros(len(keys), WRITES)
    records["view"], records["key"], records["event_time"] = view, keys, times
    records["generation"], records["kind"], records["ended"] = generation, kind, np.inf
    return records


def table_of(view: int, keys: Sequence[int], times: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows as a table to write or to publish."""
    kind = KINDS[view]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    key = codes(keys) if kind.key == "code" else np.array(keys, np.int64)
    return {kind.key: key, **columns, "event_timestamp": np.array(times, np.int64).view("M8[us]")}


class Office:
    """All who write, in one process; `generation` is the schema that `score` is written in, or both while it rolls."""

    def __init__(self, folder: Path, clients: Mapping[int, FeatureClient], seed: int) -> None:
        self._clients, self._seed = clients, seed
        self.generations = [1]
        self.stop = threading.Event()
        self._backfill = threading.Event()
        self.wrong: list[str] = []
        self._newest: dict[tuple[int, int], tuple[int, int]] = {}
        """The newest row of each view and key by our own account: event time and generation."""
        numbers = (*range(1, 1 + WRITERS), _DELETER, _PUBLISHER, _BACKFILLER)
        self._authors = {number: Author(number, clients, folder) for number in numbers}

    def fill(self) -> None:
        """Everything once, online and as images, before anyone reads."""
        self._write_all(self._authors[_BACKFILLER], Random(self._seed))
        for kind in KINDS:
            if kind.imaged:
                self._publish(self._authors[_PUBLISHER], kind.number)

    def close(self) -> None:
        for author in self._authors.values():
            author.log.close()

    def run(self) -> list[threading.Thread]:
        jobs: list[tuple[Callable[..., None], Any]] = [(self._write, number) for number in range(1, 1 + WRITERS)]
        jobs += [(self._delete, _DELETER), (self._publish_on, _PUBLISHER), (self._backfill_on, _BACKFILLER)]
        threads = [threading.Thread(target=self._guarded, args=job) for job in jobs]
        for thread in threads:
            thread.start()
        return threads

    def backfill(self) -> None:
        """A store has lost its rows: write all of them anew."""
        self._backfill.set()

    def _guarded(self, work: Callable[[int], None], number: int) -> None:
        try:
            work(number)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no documented answer to a write
            self.wrong.append(f"{type(error).__name__}: {error}")

    def _write(self, number: int) -> None:
        rng, author = Random(f"{self._seed}/{number}"), self._authors[number]
        views = [kind.number for kind in KINDS if kind.name != "marker"]
        while not self.stop.wait(PAUSE_S * rng.uniform(0.5, 1.5)):
            view = rng.choice(views)
            self._some(author, view, rng.sample(written_keys(view), ROWS), rng)

    def _some(self, author: Author, view: int, keys: Sequence[int], rng: Random) -> bool:
        generation = rng.choice(self.generations) if view == SCORE else 1
        times = author.times(len(keys), KINDS[view].lag_s, rng)
        is_taken = author.write(view, keys, times, generation)
        for key, at in zip(keys, times, strict=True):
            if at > self._newest.get((view, key), (0, 0))[0]:
                self._newest[view, key] = (at, generation)
        return is_taken

    def _delete(self, number: int) -> None:
        rng, author = Random(f"{self._seed}/{number}"), self._authors[number]
        self._some(author, BASE, MORTAL, rng)
        while not self.stop.wait(DELETE_EVERY_S * rng.uniform(0.5, 1.5)):
            key = rng.choice(MORTAL)
            author.delete([key])
            # Past the tombstone's own time, which is somewhere within that call.
            if rng.random() < 0.7 and not self.stop.wait(2 * _LAG_US / 1e6):
                self._some(author, BASE, [key], rng)

    def _publish_on(self, number: int) -> None:
        turn = 0
        views = [kind.number for kind in KINDS if kind.imaged]
        while not self.stop.wait(PUBLISH_EVERY_S):
            try:
                self._publish(self._authors[number], views[turn % len(views)])
                if turn % 30 == 29:
                    for view in views:
                        self._clients[1].snapshot_store().gc(KINDS[view].name, keep=KEEP_IMAGES)
            except FeatureError:
                pass  # The bucket is away, or another image is newer: what was published before serves on.
            turn += 1

    def _publish(self, author: Author, view: int) -> None:
        """A complete image: of each key the newest row we wrote; of the keys never written online, a new one."""
        kind = KINDS[view]
        keys = [key for key in range(KEYS) if view != BASE or key not in MORTAL]
        fresh = author.times(len(keys), 0.0, Random(0))
        newest = [self._newest.get((view, key), (at, 1)) for key, at in zip(keys, fresh, strict=True)]
        times = [at for at, _ in newest]
        rows = [value(view, key, at, generation) for key, (at, generation) in zip(keys, newest, strict=True)]
        records = logged(view, keys, times, 1, IMAGE)
        records["began"] = now()
        try:
            self._clients[1].publish_snapshot(kind.name, table_of(view, keys, times, rows))
        finally:
            records["ended"] = now()
            author.log.add(records)

    def _backfill_on(self, number: int) -> None:
        rng = Random(f"{self._seed}/fill")
        while not self.stop.wait(0.05):
            if self._backfill.is_set():
                self._backfill.clear()
                self._write_all(self._authors[number], rng)

    def _write_all(self, author: Author, rng: Random) -> None:
        """Every row of every view, until every store has taken them: a store that has just come back may refuse one."""
        for kind in KINDS:
            if kind.name != "marker":
                while not self._some(author, kind.number, written_keys(kind.number), rng):
                    if self.stop.wait(_AGAIN_S):
                        return


def main(argument: str) -> None:
    job = json.loads(argument)
    clients = {int(generation): FeatureClient.from_config(config) for generation, config in job["configs"].items()}
    office = Office(Path(job["folder"]), clients, job["seed"])
    office.fill()
    threads = office.run()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = json.loads(line)
        if "generations" in order:
            office.generations = order["generations"]
        if "backfill" in order:
            office.backfill()
    office.stop.set()
    for thread in threads:
        thread.join()
    office.close()
    for client in clients.values():
        client.close()
    sys.stdout.write(json.dumps({"wrong": office.wrong}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
