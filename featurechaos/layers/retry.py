"""Ask again, tenacity judging when and how often, a budget judging whether.

The first attempt never enters tenacity: entering it costs 12 to 36 us, paid when nothing is wrong.
Full jitter, after Brooker, "Exponential Backoff and Jitter", 2015; the token bucket after gRFC A6.
"""

from __future__ import annotations

import sys
from random import Random

import numpy as np
from tenacity import DoAttempt, DoSleep, RetryCallState, Retrying

from featurechaos.clock import Clock
from featurechaos.effects import Next, Plan, note, sleep
from featurechaos.errors import BreakerOpen, NoTime, StoreEmpty, StoreError, StoreUnavailable
from featurechaos.locks import Locked
from featurechaos.model import Cause
from featurechaos.readings import Flags, Part, Reading, Request, spread

_TIMEOUT, _REFUSED = int(Cause.TIMEOUT), int(Cause.REFUSED)


class Budget(Locked):
    """Tokens that retries and hedges of all requests share.

    It starts with `burst`; each first attempt adds `ratio`, each retry or hedge takes 1. So both together are at
    most ratio x first attempts + burst, over any run. Never more than `burst`, or one, are saved up.
    """

    def __init__(self, *, ratio: float = 0.1, burst: float = 3.0) -> None:
        super().__init__()
        self.ratio, self._most = ratio, max(burst, 1.0)
        self._tokens = burst

    def limit(self, *, ratio: float = 0.1, burst: float = 3.0) -> None:
        """Go by other limits with the tokens there are."""
        with self._lock:
            self.ratio, self._most = ratio, max(burst, 1.0)
            self._tokens = min(self._tokens, self._most)

    @property
    def tokens(self) -> float:
        """What is there to take; for whoever looks."""
        return self._tokens

    def earn(self) -> None:
        """Count a first attempt that was made; a source that was not asked earns nothing."""
        if self._tokens >= self._most:  # full, nearly always: a token taken meanwhile is made good by the next request
            return
        with self._lock:
            self._tokens = min(self._tokens + self.ratio, self._most)

    def take(self) -> bool:
        """Whether one more retry or hedge may be made; takes its token."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


def _may_pass(part: Part) -> Flags:
    """Rows that nobody answered for, and not for want of asking."""
    cause = spread(part.cause, len(part))
    return np.asarray((cause == _TIMEOUT) | (cause == _REFUSED))


class Retry:
    """Ask the same source again after a failure that may pass.

    Never after an open breaker, a refused credential, for want of time or of the source's data, and never when the
    wait about to start would end past the deadline.
    """

    def __init__(self, clock: Clock, *, attempts: int, wait_first_s: float, budget: Budget, rng: Random) -> None:
        self._clock, self._attempts, self._wait_first_s = clock, attempts, wait_first_s
        self.budget, self._rng = budget, rng

    def __call__(self, request: Request, inner: Next) -> Plan[Reading]:
        was_asked = True
        try:
            reading = yield from inner(request)
        except (BreakerOpen, NoTime, StoreEmpty):
            was_asked = False
            raise
        except StoreUnavailable as error:
            state, first = self._judged(request), error
            state.set_exception(sys.exc_info())  # type: ignore[arg-type]
        else:
            return (yield from self._rest(request, inner, reading)) if reading.is_partial else reading
        finally:
            if was_asked:
                self.budget.earn()
        return (yield from self._again(request, inner, state, first))

    def _rest(self, request: Request, inner: Next, reading: Reading) -> Plan[Reading]:
        """Ask again for the rows of shards that did not answer, as for a whole source; the others are kept."""
        for attempt in range(1, self._attempts):
            wants = {i: rows for i, part in enumerate(reading.parts) if len(rows := np.flatnonzero(_may_pass(part)))}
            wait_s = self._wait_first_s * 2 ** (attempt - 1) * self._rng.random()
            if not wants or self._clock.monotonic() + wait_s >= request.until:
                break
            if not self.budget.take():
                yield from note("retry.denied", request.source)
                break
            yield from note("retry.scheduled", request.source, attempt=attempt, wait_s=wait_s)
            yield from sleep(wait_s)
            asks, rules = [request.asks[i].only(rows) for i, rows in wants.items()], [request.rules[i] for i in wants]
            try:
                more = yield from inner(request.of(asks, rules))
            except StoreError:
                continue
            for (i, rows), part in zip(wants.items(), more.parts, strict=True):
                reading.parts[i].fill(rows, part)
            reading.is_partial = any(not isinstance(part.cause, int) for part in reading.parts)
        return reading

    def _judged(self, request: Request) -> RetryCallState:
        """A tenacity state for the attempt that has just failed; waits and stops are ours, time is the clock's."""

        waits: dict[int, float] = {}  # tenacity asks `wait` and `stop` in an order that differs by release

        def wait(state: RetryCallState) -> float:
            longest = self._wait_first_s * 2 ** (state.attempt_number - 1)
            return waits.setdefault(state.attempt_number, longest * self._rng.random())

        def stop(state: RetryCallState) -> bool:
            if state.attempt_number >= self._attempts:
                return True
            return self._clock.monotonic() + wait(state) >= request.until

        def worth_it(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            return isinstance(error, StoreUnavailable) and not isinstance(error, BreakerOpen | NoTime | StoreEmpty)

        judge = Retrying(wait=wait, stop=stop, retry=worth_it, reraise=True)
        judge.begin()
        return RetryCallState(judge, None, (), {})

    def _again(self, request: Request, inner: Next, state: RetryCallState, failure: StoreUnavailable) -> Plan[Reading]:
        """Play tenacity's verdicts; bounded by its stop. `failure` is what the source last did."""
        while True:
            step = state.retry_object.iter(state)
            if isinstance(step, DoSleep):
                if not self.budget.take():
                    yield from note("retry.denied", request.source)
                    raise state.outcome.exception()  # type: ignore[union-attr, misc]
                yield from note("retry.scheduled", request.source, attempt=state.attempt_number, wait_s=float(step))
                state.prepare_for_next_attempt()
                yield from sleep(float(step))
            elif isinstance(step, DoAttempt):
                try:
                    reading = yield from inner(request)
                    yield from note("retry.answered", request.source)
                    return reading
                except (NoTime, BreakerOpen):  # It was not asked. Why the rows are not its own is what it did before.
                    raise failure from None
                except StoreUnavailable as error:
                    failure = error
                    state.set_exception(sys.exc_info())  # type: ignore[arg-type]
            else:
                return step  # type: ignore[no-any-return]
