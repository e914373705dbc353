"""Scores responses, and scores a sample of them again on clean features to see what changed.

The second scoring runs on one daemon thread behind a bounded queue: the request path pays one hash
of the request id and two counters, and no failure there ever reaches the caller.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featurechaos.errors import RequestError
from featurechaos.impact.attribution import attribute
from featurechaos.impact.detectors import Cusum
from featurechaos.impact.kind import PROBABILITY, Kind
from featurechaos.impact.pairs import Ledger, PairKey, Pairs, Scored
from featurechaos.impact.prices import Prices
from featurechaos.impact.report import Report
from featurechaos.impact.scoring import Inputs, ResponseLike, Scores, Threshold, as_scores, decider, scorer
from featurechaos.impact.shadow import Shadow
from featurechaos.sampling import is_sampled

_log = logging.getLogger(__name__)

_MOST_QUEUED_ROWS = 10_000
_REFERENCE_S = 5.0
"""How long an async client may take for one reference."""


class ClientLike(Protocol):
    """What a monitor needs of a client; `FeatureClient` and `AsyncFeatureClient` are such.

    `reference(response)` gives the same request on clean features: `response` itself if what was
    served is clean, None if nothing clean can be had; for an async client an awaitable of it.
    Rows of it that are themselves `degraded` are no reference and count as unpaired.
    `settings.impact` has `sample_share` and `flip_budget`, or is None; read only when not given.
    """

    @property
    def settings(self) -> Any: ...
    def reference(self, response: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class _Job:
    response: ResponseLike
    served: Scores
    inputs: Inputs
    loop: asyncio.AbstractEventLoop | None


class ImpactMonitor:
    """Serves scores and counts how degraded features changed them.

    Args:
        client: where references come from, see `ClientLike`.
        predict: estimator or callable, see `scoring.scorer`.
        threshold: number, mapping or callable, see `scoring.decider`.
        sample_share: share of requests to pair, 0..1; None takes the client's config.
        model: the name counters carry.
        flip_budget: share of flips the alarm tolerates; None takes the client's config, where null
            means no alarm.
        kind: what sort of number a score is; a probability unless said otherwise.
        most_queued_rows: bound of the queue; rows past it are counted `dropped`.
        on_pairs: hears (response, scored, good) of each paired response on the shadow's thread, `good` bool (n,)
            the rows that were counted; for a drill's history.

    Thread-safe. Close it, or use it in a `with`: its thread keeps it alive. A forked child starts
    with empty counters and its own thread, so that reports of all processes add up without
    counting anything twice.
    """

    def __init__(
        self,
        client: ClientLike,
        predict: Any,
        *,
        threshold: Threshold = 0.5,
        sample_share: float | None = None,
        model: str = "default",
        flip_budget: float | None = None,
        kind: Kind = PROBABILITY,
        most_queued_rows: int = _MOST_QUEUED_ROWS,
        on_pairs: Callable[[Any, Scored, NDArray[np.bool_]], None] | None = None,
    ) -> None:
        if sample_share is None or flip_budget is None:
            spec = client.settings.impact
            sample_share = _share_of(spec) if sample_share is None else sample_share
            flip_budget = getattr(spec, "flip_budget", None) if flip_budget is None else flip_budget
        if not (isinstance(sample_share, int | float) and 0 <= sample_share <= 1):
            msg = f"sample_share is within 0..1, got {sample_share!r}"
            raise RequestError(msg)
        if not isinstance(model, str) or not isinstance(kind, Kind):
            msg = f"a monitor wants the model's name and a Kind of scores, got {model!r} and {kind!r}"
            raise RequestError(msg)
        self._client, self._score, self._decide = client, scorer(predict), decider(threshold)
        self._sample_share, self._flip_budget = sample_share, flip_budget
        self._model, self._kind, self._most_queued_rows = model, kind, most_queued_rows
        self._on_pairs = on_pairs
        self._begin(is_closed=False)
        _MONITORS.add(self)
        if hasattr(client, "count_pairs"):
            client.count_pairs(_told_while_alive(self))
        self._hears_tiers = False
        if hasattr(client, "on_shadow"):
            self._hears_tiers = True
            client.on_shadow(*_priced_while_alive(self))  # Without a shadow too: a reload may bring one.

    def _begin(self, *, is_closed: bool) -> None:
        """Start counting from nothing; again in a forked child, which has none of the parent's threads."""
        self._ledger = Ledger(self._kind)
        self._cusum = None if self._flip_budget is None else Cusum(self._flip_budget)
        self._prices = Prices(self._score, self._decide, self._kind)
        self._shadow = Shadow(self._pair, most_rows=self._most_queued_rows, is_closed=is_closed)
        self._logged: set[type[Exception]] = set()

    def predict(self, response: ResponseLike, **inputs: Any) -> Scores:
        """Score a response, (n,), and count it.

        `inputs` are request-time values that are not stored features; both scorings get the same.
        An empty response gives no scores and does not ask the model. The model's own errors fly;
        RequestError if it does not give one score a row.
        """
        if not len(response):
            return np.empty(0)
        scores = self._score(response, inputs)
        self._take(response, scores, inputs)
        return scores

    def record(self, response: ResponseLike, scores: Any, **inputs: Any) -> None:
        """Count scores (n,) that something else made from this response and these inputs."""
        self._take(response, as_scores(scores, len(response)), inputs)

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything sampled is counted; whether it was within `timeout_s`.

        With an async client call it off the event loop: `await asyncio.to_thread(monitor.flush)`.
        """
        return self._shadow.flush(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Flush, then stop the thread; rows not done by then are `dropped`. Reports stay readable."""
        self._ledger.count(dropped=self._shadow.close(timeout_s))

    def __enter__(self) -> ImpactMonitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def report(self) -> Report:
        """Everything counted since the start of this process; see `Report`."""
        alarm = None if self._cusum is None else self._cusum.alarm
        return Report(self._ledger.snapshot(), alarm, (self._model,))

    def tiers(self) -> dict[str, dict[str, Any]]:
        """What each tier behind the first source would do to decisions, as far as `policy.shadow` has drawn requests.

        tier -> `pairs` (rows scored as served and on the tier), `flips`, `flip_rate`, `mean_abs_delta`, `failed`.
        """
        return self._prices.told()

    def pairs_snapshot(self) -> Mapping[PairKey, tuple[int, int]]:
        """(pairs, flips) by (model, view, cause, origin), for a metrics collector.

        Over several degraded views a pair counts in each of them, see `attribution`.
        """
        keyed = self._ledger.snapshot().keyed
        return {key: (block.pairs, block.flips) for key, block in keyed.items()}

    def _take(self, response: ResponseLike, scores: Scores, inputs: Inputs) -> None:
        rows = len(scores)
        share = _shadow_share(self._client.settings) if self._hears_tiers else 0.0
        if share and is_sampled(response.request_id, share):
            self._prices.expect(response, scores.copy(), _kept(inputs))
        if not is_sampled(response.request_id, self._sample_share):
            self._ledger.count(predictions=rows)
            return
        self._ledger.count(predictions=rows, sampled=rows)  # First: no report has more pairs than samples.
        job = _Job(response, scores.copy(), _kept(inputs), _running_loop())
        if not self._shadow.submit(job, rows=rows):
            self._ledger.count(dropped=rows)

    def _pair(self, job: _Job) -> None:
        """Score one response again and count the pairs. Runs on the shadow's thread; never raises."""
        try:
            reference = self._reference(job)
            clean = None if reference is None else ~np.asarray(reference.degraded)
            if reference is None or clean is None or not clean.any():
                self._ledger.count(unpaired=len(job.served))
                return
            self._count(job, self._scored(job, reference), clean)
        except Exception as error:  # noqa: BLE001 - a model's own error, of any type, must not end the thread
            self._ledger.count(failed=len(job.served))
            self._log_once(error)

    def _reference(self, job: _Job) -> ResponseLike | None:
        given = self._client.reference(job.response)
        if not inspect.isawaitable(given):
            found: ResponseLike | None = given
            return found
        if job.loop is None:
            if inspect.iscoroutine(given):
                given.close()  # Else Python warns that nobody awaited it.
            msg = "with an async client predict and record are called within its event loop, got a call outside"
            raise RequestError(msg)
        future = asyncio.run_coroutine_threadsafe(_awaited(given), job.loop)
        try:
            awaited: ResponseLike | None = future.result(_REFERENCE_S)
        finally:
            future.cancel()
        return awaited

    def _scored(self, job: _Job, reference: ResponseLike) -> Scored:
        decided = self._decide(job.served, job.response, job.inputs)
        if reference is job.response:
            return Scored(job.served, job.served, decided, decided)
        scores = self._score(reference, job.inputs)
        return Scored(job.served, scores, decided, self._decide(scores, reference, job.inputs))

    def _count(self, job: _Job, scored: Scored, clean: NDArray[np.bool_]) -> None:
        good = clean & self._kind.covers(scored.served) & self._kind.covers(scored.reference)
        groups = attribute(job.response, keep=None if good.all() else good)
        pairs = Pairs.of(scored, groups, model=self._model, kind=self._kind)
        unpaired, failed = int((~clean).sum()), int((clean & ~good).sum())
        self._ledger.add(pairs)
        self._ledger.count(unpaired=unpaired, failed=failed)
        if self._cusum is not None:
            self._cusum.update(pairs.total.flips, pairs.total.pairs)
        if self._on_pairs is not None:
            self._on_pairs(job.response, scored, good)
        if failed:
            name, low, high = self._kind.name, self._kind.low, self._kind.high
            msg = f"a score of kind {name!r} is within {low:g}..{high:g}, got others in {failed} pairs"
            self._log_once(RequestError(msg))

    def _log_once(self, error: Exception) -> None:
        if type(error) not in self._logged:
            self._logged.add(type(error))
            _log.warning(
                "model %r: a pair could not be scored, counted as failed: %s",
                self._model,
                error,
                exc_info=error,
            )


def _share_of(spec: Any) -> float:
    return 0.0 if spec is None else float(spec.sample_share)


def _shadow_share(settings: Any) -> float:
    """The share under the policy in force: by it requests are drawn by their ids, here as by the client."""
    shadow = getattr(getattr(settings, "policy", None), "shadow", None)
    return 0.0 if shadow is None else float(shadow.share)


def _kept(inputs: Inputs) -> Inputs:
    """Inputs as they are now, since the caller may reuse its arrays; what is no array is kept as it is."""
    return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in inputs.items()}


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _awaited(given: Any) -> Any:
    return await given


def _told_while_alive(monitor: ImpactMonitor) -> Callable[[], Mapping[PairKey, tuple[int, int]]]:
    """A monitor's pairs for its client's metrics; the client must not keep the monitor alive."""
    known = weakref.ref(monitor)

    def pairs() -> Mapping[PairKey, tuple[int, int]]:
        alive = known()
        return {} if alive is None else alive.pairs_snapshot()

    return pairs


def _priced_while_alive(monitor: ImpactMonitor) -> tuple[Callable[..., None], Callable[[], Mapping[str, Any]]]:
    """What hears of tiers for a monitor, and what tells of it; the client must not keep the monitor alive."""
    known, model = weakref.ref(monitor), monitor._model  # noqa: SLF001 - the same file

    def hear(request_id: str, priced: Any) -> None:
        if (alive := known()) is not None:
            alive._prices.hear(request_id, priced)  # noqa: SLF001 - the same file

    def told() -> Mapping[str, Any]:
        alive = known()
        return {} if alive is None else {model: alive.tiers()}

    return hear, told


_MONITORS: weakref.WeakSet[ImpactMonitor] = weakref.WeakSet()


def _begin_again() -> None:
    for monitor in list(_MONITORS):
        monitor._begin(is_closed=monitor._shadow.is_closed)  # noqa: SLF001 - the same file


os.register_at_fork(after_in_child=_begin_again)
