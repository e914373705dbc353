"""What counting the effect of degraded features costs a prediction: ours, numpy by hand, and Prometheus counters.

The pairs of one response of 100 rows are counted at once. On the request path there is only `record`, which decides
whether a response is sampled; the counting is done on a thread beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Called, Contender, Options, Timing, alternate, main, pinned
from benchmarks.results import Plot, Result, Table
from benchmarks.worlds import KEY, PATIENT, VIEWS, features_of, references, values_of, view_of
from featurechaos import FeatureClient, Response
from featurechaos.clock import SystemClock
from featurechaos.impact import ImpactMonitor
from featurechaos.impact.attribution import attribute
from featurechaos.impact.counters import Block
from featurechaos.impact.kind import PROBABILITY
from featurechaos.impact.pairs import Ledger, Pairs, Scored

ABOUT = """CPU microseconds a prediction: the best of the rounds and their median, in batches of 100 unless told
otherwise. Ours counts bins of both scores and of their difference, decisions, sums and the largest change, in total
and by view, cause and origin, so that reports add up exactly. The others count less: `keeps` says what."""
OURS, MIXED, BLOCK = (
    "featurechaos, all counters",
    "the same, about half the rows expired",
    "of that, one block of counters",
)
NUMPY, PYTHON, PROMETHEUS = "numpy by hand", "a loop of Python", "prometheus_client, a histogram and two counters"
ROWS, EACH, LEVEL = 100, 8, 0.5
"""Rows a response, responses a timing, and where a score is an alert."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One response and its scores on served and on clean features."""

    response: Response
    scored: Scored


@dataclass(slots=True)
class Source:
    """Responses of a client over memory, in which every second entity's rows are older than they may be."""

    client: FeatureClient
    rng: np.random.Generator
    rows: int = ROWS

    def clean(self, _: Any) -> list[Sample]:
        return [self.sample(2 * self.rng.choice(ENTITIES // 2, self.rows, replace=False)) for _ in range(EACH)]

    def mixed(self, _: Any) -> list[Sample]:
        return [self.sample(self.rng.choice(ENTITIES, self.rows, replace=False)) for _ in range(EACH)]

    def sample(self, ids: NDArray[np.int64]) -> Sample:
        response = self.client.get_online_features(references(VIEWS), {KEY: ids})
        for view in VIEWS:
            response.provenance(view)  # Scored rows were looked at; that is a read's cost, see bench_read.
        served = self.rng.random(len(ids))
        clean = np.clip(served + self.rng.normal(0, 0.02, len(ids)), 0, 1)
        return Sample(response, Scored(served, clean, served >= LEVEL, clean >= LEVEL))


ENTITIES = 2000


def config() -> dict[str, Any]:
    return {
        "project": "bench",
        "sources": {"primary": {"type": "memory", "timeout_s": 10.0}},
        "views": [view_of(view) for view in VIEWS],
        "policy": {**PATIENT, "last_known": None},
    }


def table(view: str, rng: np.random.Generator) -> dict[str, Any]:
    now = datetime.fromtimestamp(SystemClock().wall(), UTC)
    when = [now - timedelta(hours=1), now - timedelta(days=2)] * (ENTITIES // 2)
    columns: dict[str, Any] = {KEY: np.arange(ENTITIES), "event_timestamp": when}
    for name in features_of(view):
        values = values_of(name, ENTITIES, rng)
        columns[name] = list(values) if values.ndim == 2 else values
    return columns


class Counted:
    """The whole of ours, as the monitor's thread does it."""

    def __init__(self) -> None:
        self._ledger = Ledger()

    def __call__(self, samples: Sequence[Sample]) -> None:
        for one in samples:
            self._ledger.add(Pairs.of(one.scored, attribute(one.response), model="m"))


def blocks(samples: Sequence[Sample]) -> None:
    for one in samples:
        Block.of(
            one.scored.served,
            one.scored.reference,
            one.scored.decided_served,
            one.scored.decided_reference,
            kind=PROBABILITY,
        )


class ByNumpy:
    """Flips, two histograms and the mean change, for all rows together; floats, whose sums depend on their order."""

    def __init__(self) -> None:
        self._bins = np.linspace(0, 1, 65)
        self._served, self._reference = np.zeros(64, np.int64), np.zeros(64, np.int64)
        self._flips, self._delta, self._rows = 0, 0.0, 0

    def __call__(self, samples: Sequence[Sample]) -> None:
        for one in samples:
            scored = one.scored
            self._served += np.histogram(scored.served, self._bins)[0]
            self._reference += np.histogram(scored.reference, self._bins)[0]
            self._flips += int((scored.decided_served != scored.decided_reference).sum())
            self._delta += float(np.abs(scored.served - scored.reference).sum())
            self._rows += len(scored.served)


class ByLoop:
    """The same, one pair after another."""

    def __init__(self) -> None:
        self._served, self._reference = [0] * 65, [0] * 65
        self._flips, self._delta, self._rows = 0, 0.0, 0

    def __call__(self, samples: Sequence[Sample]) -> None:
        for one in samples:
            for served, clean in zip(one.scored.served.tolist(), one.scored.reference.tolist(), strict=True):
                self._served[int(served * 64)] += 1
                self._reference[int(clean * 64)] += 1
                self._flips += (served >= LEVEL) != (clean >= LEVEL)
                self._delta += abs(served - clean)
                self._rows += 1


class ByPrometheus:
    """The change as a histogram, pairs and flips as counters of one label set."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        registry = CollectorRegistry()
        self._delta = Histogram("delta", "change", registry=registry, buckets=[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
        self._pairs = Counter("pairs", "pairs", ["view"], registry=registry).labels("all")
        self._flips = Counter("flips", "flips", ["view"], registry=registry).labels("all")

    def __call__(self, samples: Sequence[Sample]) -> None:
        for one in samples:
            scored = one.scored
            for delta in np.abs(scored.served - scored.reference).tolist():
                self._delta.observe(delta)
            self._pairs.inc(len(scored.served))
            self._flips.inc(int((scored.decided_served != scored.decided_reference).sum()))


def counting(options: Options, source: Source) -> dict[str, Timing]:
    per, keeps = ROWS * EACH, source.clean
    contenders: list[Contender] = [
        Called(OURS, Counted(), keeps, per=per),
        Called(MIXED, Counted(), source.mixed, per=per),
        Called(BLOCK, blocks, keeps, per=per),
        Called(NUMPY, ByNumpy(), keeps, per=per),
        Called(PYTHON, ByLoop(), keeps, per=per),
        Called(PROMETHEUS, ByPrometheus(), keeps, per=per),
    ]
    return alternate(contenders, rounds=options.rounds, calls=options.pick(5, 2))


def growing(options: Options, source: Source) -> dict[int, float]:
    """CPU a prediction as a response grows."""
    sizes = options.pick((1, 3, 10, 30, 100, 300, 1000), (1, 100))
    contenders: list[Contender] = [
        Called(str(size), Counted(), Source(source.client, source.rng, size).clean, per=size * EACH) for size in sizes
    ]
    timings = alternate(contenders, rounds=options.rounds, calls=3)
    return {size: timings[str(size)].cpu_best_us for size in sizes}


def recording(options: Options, source: Source, stack: ExitStack) -> dict[str, Timing]:
    """What the request path pays: `record` of a response with a share of responses sampled."""
    contenders: list[Contender] = []
    for share in (0.0, 0.02, 1.0):
        monitor = ImpactMonitor(source.client, predict=scores_of, threshold=LEVEL, sample_share=share)
        stack.callback(monitor.close)
        contenders.append(Called(f"sample_share {share:g}", recorder(monitor), source.clean, per=EACH))
    return alternate(contenders, rounds=options.rounds, calls=options.pick(5, 2))


def scores_of(response: Response) -> NDArray[np.float64]:
    return np.asarray(response.columns["b_f00"], np.float64)


def recorder(monitor: ImpactMonitor) -> Callable[[Sequence[Sample]], None]:
    def record(samples: Sequence[Sample]) -> None:
        for one in samples:
            monitor.record(one.response, one.scored.served)

    return record


def measure(options: Options) -> Result:
    result = Result("impact", ABOUT, options.seed, options.is_quick)
    rng = np.random.default_rng(options.seed)
    with ExitStack() as stack:
        stack.enter_context(pinned())
        client = stack.enter_context(FeatureClient.from_config(config()))
        for view in VIEWS:
            client.write_to_online_store(view, table(view, rng))
        source = Source(client, rng)
        counted, grown = counting(options, source), growing(options, source)
        recorded = recording(options, source, stack)
    result.tables = [count_table(counted), record_table(recorded)]
    result.plots = [
        Plot(
            "impact-batch",
            "Counting a pair, by the size of the response",
            "rows a response",
            "CPU us a prediction",
            {"featurechaos": list(grown.items())},
        )
    ]
    result.measured = {"impact": counted[OURS].cpu_best_us}
    return result


KEEPS = {
    OURS: "everything",
    MIXED: "everything",
    BLOCK: "everything, for one group of rows",
    NUMPY: "flips, two histograms, mean change; no view, cause, origin",
    PYTHON: "the same",
    PROMETHEUS: "pairs, flips, a histogram of the change; no view, cause, origin",
}


def count_table(timings: dict[str, Timing]) -> Table:
    made = Table("Counting pairs", ["how", "keeps", "CPU us", "median", "x ours"])
    for name, timing in timings.items():
        ratio = timing.cpu_best_us / timings[OURS].cpu_best_us
        made.rows.append([name, KEEPS[name], timing.cpu_best_us, timing.cpu_median_us, round(ratio, 2)])
    return made


def record_table(timings: dict[str, Timing]) -> Table:
    made = Table(
        "What a request of 100 rows pays: `record`",
        ["monitor", "CPU us a request", "median"],
        note="The scoring on clean features is left to a thread of its own, so it is not in these.",
    )
    for name, timing in timings.items():
        made.rows.append([name, timing.cpu_best_us, timing.cpu_median_us])
    return made


if __name__ == "__main__":
    main(measure, __doc__)
