"""An open-loop load: requests are due when they are due, however slow the answers are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from math import ceil
from random import Random
from typing import Any

import numpy as np

from featurechaos.clock import SystemClock
from featurechaos.drills.history import HistoryWriter, Note, Pair, Request
from featurechaos.drills.script import Load
from featurechaos.drills.stage import Asked, Stage
from featurechaos.impact import ImpactMonitor
from featurechaos.impact.counters import BINS
from featurechaos.impact.pairs import Scored
from featurechaos.model import Cause, Origin, Status
from featurechaos.response import Response

LEAST_WORKERS, MOST_WORKERS = 2, 32
GRACE_S = 0.010
"""An answer this long after the deadline is still in time; the contract's number."""


class Generator:
    """Asks the stage's client at the script's rate from `workers_of` threads until it is stopped.

    A worker takes the next arrival and sleeps until it is due; when all are held up by slow answers the
    arrivals they are late for are asked at once, and their `t` still says when they were due. No
    arrival vanishes: a request that got no score is recorded as failed, whatever was raised, and
    those that were due and could not be asked are told by `drill.unasked`.
    """

    def __init__(
        self,
        stage: Stage,
        load: Load,
        *,
        seed: int,
        writer: HistoryWriter,
        began: float,
        on_record: Callable[[Request | Pair], None],
    ) -> None:
        self._stage, self._load, self._writer, self._began = stage, load, writer, began
        self._on_record = on_record
        self._clock = SystemClock()
        self._rng = Random(seed)
        self._next, self._number, self._unasked, self._why = 0.0, 0, 0, "the load fell behind"
        self._under_way: dict[int, float] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._late_s = stage.client.settings.policy.deadline_s + GRACE_S
        self.monitor: ImpactMonitor | None = None
        if stage.predict is not None:
            self.monitor = ImpactMonitor(
                stage.client,
                predict=stage.predict,
                threshold=stage.threshold,
                sample_share=1.0,
                most_queued_rows=100_000,
                on_pairs=self._paired,
            )
        workers = workers_of(load.rate_per_s, stage.client.settings.policy.deadline_s)
        self._threads = [threading.Thread(target=self._work, daemon=True, name=f"load-{i}") for i in range(workers)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, within_s: float = 10.0) -> None:
        """No more requests; those under way end within that, pairs are counted, what was missed is told."""
        ended = self._now()
        if self._stopped.is_set():
            return
        self._stopped.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, ended + within_s - self._now()))
        self._give_up()
        self._tell_unasked(ended)
        if self.monitor is not None:
            self.monitor.flush(within_s)
            self.monitor.close()

    def _work(self) -> None:
        while (arrival := self._arrival()) is not None:
            due, number, asked = arrival
            wait_s = due - self._now()
            if wait_s > 0 and self._stopped.wait(wait_s):
                return
            if asked is not None:
                with self._lock:
                    self._under_way[number] = due
                self._keep(number, self._ask(due, number, asked))
            else:
                with self._lock:
                    self._unasked += 1

    def _arrival(self) -> tuple[float, int, Asked | None] | None:
        """When the next request is due, its number, and what it asks: None where none could be made."""
        if self._stopped.is_set():
            return None
        with self._lock:
            self._number += 1
            self._next += self._gap()
            try:
                asked = self._stage.draw(self._rng, self._stage.client.clock.wall())
            except Exception as error:  # noqa: BLE001 - a callable of the user's own may raise anything
                self._why = f"a request could not be made: {told_error(error)}"
                return self._next, self._number, None
            return self._next, self._number, asked

    def _gap(self) -> float:
        rate = self._load.rate_per_s
        return self._rng.expovariate(rate) if self._load.arrivals == "poisson" else 1 / rate

    def _ask(self, due: float, number: int, asked: Asked) -> Request:
        request_id = f"drill-{number}"
        begun = self._clock.monotonic()
        try:
            response = self._stage.client.get_online_features(
                self._stage.features, asked.entity_rows, request_id=request_id
            )
        except Exception as error:  # noqa: BLE001 - whatever was raised, the caller got no score
            took = self._clock.monotonic() - begun
            return _failed(due, self._now(), request_id, took, told_error(error))
        took = self._clock.monotonic() - begun
        record = _told(response, due=due, done=self._now(), took=took, late=took > self._late_s)
        try:
            if self.monitor is not None:
                self.monitor.predict(response, **asked.inputs)
        except Exception as error:  # noqa: BLE001 - a model's own error may be of any type
            return replace(record, t_done=self._now(), ok=False, error=told_error(error))
        return record

    def _keep(self, number: int, record: Request) -> None:
        """Write a request down, unless it was given up before it came back."""
        with self._lock:
            if self._under_way.pop(number, None) is None:
                return
        self._writer.add(record)
        self._on_record(record)

    def _give_up(self) -> None:
        """What has no answer by now failed."""
        with self._lock:
            left, now = dict(self._under_way), self._now()
        for number, due in left.items():
            took = now - due
            self._keep(number, _failed(due, now, f"drill-{number}", took, "no answer by the end of the drill"))

    def _tell_unasked(self, ended: float) -> None:
        with self._lock:
            while (due := self._next + self._gap()) <= ended:
                self._next = due
                self._unasked += 1
            if not self._unasked:
                return
        detail = f"{self._unasked} requests were due and never asked: {self._why}"
        self._writer.add(Note(t=self._now(), event="drill.unasked", detail=detail, count=self._unasked))

    def _paired(self, response: Response, scored: Scored, good: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        records = _pairs(response, scored, good, t=self._now())
        self._writer.add(*records)
        for record in records:
            self._on_record(record)

    def _now(self) -> float:
        return self._clock.monotonic() - self._began


def workers_of(rate_per_s: float, deadline_s: float) -> int:
    """How many requests are under way when every answer takes the whole deadline (Little's law), within bounds.

    No more than that: after a stall the arrivals it held up are asked at once, and each further
    thread that waits for the interpreter's lock makes every one of those answers later.
    """
    return min(max(ceil(rate_per_s * deadline_s), LEAST_WORKERS), MOST_WORKERS)


def _failed(due: float, done: float, request_id: str, took: float, error: str) -> Request:
    return Request(t=due, t_done=done, request_id=request_id, latency_s=took, ok=False, error=error)


def told_error(error: Exception) -> str:
    """An error as a record keeps it."""
    return f"{type(error).__name__}: {error}"


def _told(response: Response, *, due: float, done: float, took: float, late: bool) -> Request:
    """An answer as a record: rows are (view, entity row) cells of provenance."""
    origins, statuses = np.zeros(len(Origin), int), np.zeros(max(Status) + 1, int)
    injected, oldest = 0, -1.0
    for view, answer in response.answers.items():
        truth = response.provenance(view)
        origins += np.bincount(truth.origin, minlength=len(origins))
        statuses += np.bincount(truth.status, minlength=len(statuses))
        injected += int(truth.injected.sum())
        if answer.view.ttl_s is not None:  # what never expires is as old as the world, and says nothing
            oldest = max(oldest, float(np.fmax.reduce(truth.age_s, initial=-1.0)))
    return Request(
        t=due,
        t_done=done,
        request_id=response.request_id,
        latency_s=took,
        late=late,
        rows=len(response) * len(response.views),
        origins={Origin(code).name: int(n) for code, n in enumerate(origins) if n},
        statuses={Status(code).name: int(n) for code, n in enumerate(statuses) if n},
        degraded=sum(int(answer.degraded.sum()) for answer in response.answers.values()),
        injected=injected,
        max_age_s=oldest if oldest >= 0 else None,
    )


def _pairs(response: Response, scored: Scored, good: Any, *, t: float) -> list[Pair]:
    """The predictions of one response, grouped by the worst origin and first cause among their views."""
    truths = [response.provenance(view) for view in response.views]
    origin = np.max([truth.origin for truth in truths], axis=0)
    cause = np.max([truth.cause for truth in truths], axis=0)
    flips = scored.decided_served != scored.decided_reference
    delta = scored.served - scored.reference
    records = []
    for group in np.unique(np.stack([origin, cause])[:, good], axis=1).T:
        rows = good & (origin == group[0]) & (cause == group[1])
        records.append(
            Pair(
                t=t,
                request_id=response.request_id,
                origin=Origin(int(group[0])).name,
                cause=Cause(int(group[1])).name,
                rows=int(rows.sum()),
                flips=int(flips[rows].sum()),
                sum_abs_delta=float(np.abs(delta[rows]).sum()),
                sum_delta=float(delta[rows].sum()),
                alerts=int(scored.decided_served[rows].sum()),
                reference_alerts=int(scored.decided_reference[rows].sum()),
                served=_bins(scored.served[rows]),
                reference=_bins(scored.reference[rows]),
            )
        )
    return records


def _bins(scores: Any) -> dict[str, int]:
    bins, counts = np.unique(np.clip((scores * BINS).astype(int), 0, BINS - 1), return_counts=True)
    return {str(b): int(n) for b, n in zip(bins.tolist(), counts.tolist(), strict=True)}
