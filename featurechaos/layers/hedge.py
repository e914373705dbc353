"""Ask a replica too, once a source is slower than it usually is; the first good answer wins.

After Dean and Barroso, "The Tail at Scale", 2013: hedged after a high quantile of what the source took lately, the
extra calls are few, and a token bucket bounds them when everything is slow at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from featurechaos.clock import Clock
from featurechaos.effects import Next, Plan, fastest, note
from featurechaos.errors import StoreError, StoreTimeout, StoreUnavailable
from featurechaos.locks import Locked
from featurechaos.readings import Part, Reading, Request

_CALLS = 256
_EVERY = 32
_LEAST_S = 0.001
_CLOSED = 0


class Gate(Protocol):
    """What is looked at of a source's breaker: its state (0: closed), and since when."""

    @property
    def state(self) -> int: ...

    @property
    def since(self) -> float: ...


class Recent(Locked):
    """What the latest calls of one source took, at most 256, and how long to wait for it: a quantile of them.

    Looked at again every 32 calls, kept within its bounds, and at the upper one before there are as many. A call that
    was overtaken counts with the time it had taken by then.
    """

    def __init__(self, quantile: float, *, least_s: float, most_s: float) -> None:
        super().__init__()
        self._quantile, self._least_s, self._most_s = quantile, least_s, most_s
        self._seconds: deque[float] = deque(maxlen=_CALLS)
        self._new, self._since = 0, 0.0
        self._after_s = most_s

    def add(self, seconds: float, since: float) -> None:
        """Count a call; one of another state of the source (it began at `since`) begins anew."""
        with self._lock:
            if since != self._since:
                self._seconds.clear()
                self._new, self._since, self._after_s = 0, since, self._most_s
            self._seconds.append(seconds)
            self._new += 1
            if self._new >= _EVERY:
                self._new = 0
                ordered = sorted(self._seconds)
                usual_s = ordered[min(int(self._quantile * len(ordered)), len(ordered) - 1)]
                self._after_s = min(max(usual_s, self._least_s), self._most_s)

    def after_s(self, since: float) -> float:
        """How long to wait in the state that began at `since`."""
        return self._after_s if since == self._since else self._most_s


@dataclass(frozen=True, slots=True)
class Pair:
    """A source that is asked first, and the replica that is asked next."""

    source: str
    replica: str


@dataclass(slots=True, eq=False)
class _Race:
    """How both sides of one call fare: the source's failure, what the replica said or how it failed."""

    pair: Pair
    failure: Exception | None = None
    is_hedged: bool = False
    answer: Reading | None = None
    hedge_failure: StoreError | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Ahead:
    """What a replica has said of the views of a call before its turn came, or that it said nothing in its time."""

    source: str
    sizes: Mapping[str, int]
    said: Mapping[str, Part] | StoreTimeout

    def covers(self, request: Request) -> bool:
        """Whether it is about all the rows that are asked for, and no others of their views."""
        return request.source == self.source and all(
            self.sizes.get(ask.view.name) == len(ask.keys) for ask in request.asks
        )

    def told(self, request: Request) -> Plan[Reading]:
        """As if it were asked now."""
        yield from ()
        if isinstance(self.said, StoreTimeout):
            raise self.said
        return Reading([self.said[ask.view.name] for ask in request.asks])


class Hedge:
    """Race the first source of an order with the replica that follows it.

    The replica is asked if the source has not answered after its usual time, both breakers are closed, and the budget
    gives a token. Its answer wins at once if every row of it is fresh: only then can the source not say more. Any other
    is kept until the source has failed. Either way the source then counts as late (it failed with a `StoreTimeout`, or
    with its own error), and whoever walks the sources finds the replica's answer there already, so that what becomes
    of a row is what it would be without a hedge. The loser is left: its connection is closed.

    Args:
        pairs: for each order of online sources that is hedged, whom.
        recent: what each first source took lately.
        gates: the breakers; without one a source counts as closed.
        take: takes a token of the budget that retries use; False if there is none.
        once: asks one source once, past the retries: a hedge is not retried and earns nothing.
        is_drained: whether an operator wants a source not to be asked.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        pairs: Mapping[tuple[str, ...], Pair],
        recent: Mapping[str, Recent],
        gates: Mapping[str, Gate],
        take: Callable[[], bool],
        once: Next,
        is_drained: Callable[[str], bool] = lambda source: False,
    ) -> None:
        self._clock, self.pairs, self.recent, self._gates = clock, pairs, recent, gates
        self._take, self._once, self._is_drained = take, once, is_drained

    def __call__(self, request: Request, inner: Next) -> Plan[Reading]:
        pair = self.pairs.get(request.rules[0].online)
        if pair is None or (request.source != pair.source and not request.met):
            return inner(request)
        if request.source == pair.source:
            return self._first(request, inner, pair)
        return self._given(request) or inner(request)

    def after_s(self, source: str) -> float:
        """How long a source is waited for now before its replica is asked too."""
        return self.recent[source].after_s(self._since(source))

    def told(self, order: tuple[str, ...]) -> dict[str, Any]:
        """How an order is hedged now, as plain values."""
        pair = self.pairs[order]
        return {"source": pair.source, "to": pair.replica, "after_s": self.after_s(pair.source)}

    def _first(self, request: Request, inner: Next, pair: Pair) -> Plan[Reading]:
        race, after_s = _Race(pair), self.after_s(pair.source)
        if not self._is_closed(pair) or request.until - self._clock.monotonic() < after_s + _LEAST_S:
            return self._own(request, inner, race)
        return self._raced(request, inner, race, after_s)

    def _raced(self, request: Request, inner: Next, race: _Race, after_s: float) -> Plan[Reading]:
        begun, pair, reading = self._clock.monotonic(), race.pair, None
        sides = [self._side(request, inner, race), self._hedged(request.to(pair.replica), race)]
        try:
            reading = yield from fastest(sides, after_s=after_s)
        except StoreError:  # Neither answered; the race knows how each failed.
            assert race.failure is not None
        if reading is not None:
            return reading
        failure = race.failure
        if failure is None:
            self._count(pair.source, self._clock.monotonic() - begun)
            failure = StoreTimeout(f"source {pair.source!r} was slower than its replica {pair.replica!r}")
            failure.injected = pair.source in request.met
        yield from self._kept(request, race)
        raise failure

    def _side(self, request: Request, inner: Next, race: _Race) -> Plan[Reading | None]:
        """The source's side. It ends the race by answering, or by failing while nobody else is asked."""
        try:
            return (yield from self._own(request, inner, race))
        except Exception as error:  # An error of another kind, too, flies as it would without a race.
            race.failure = error
            if race.is_hedged and isinstance(error, StoreError):
                raise
            return None

    def _own(self, request: Request, inner: Next, race: _Race) -> Plan[Reading]:
        """Ask the source, and count how long it took."""
        begun = self._clock.monotonic()
        try:
            reading = yield from inner(request)
        except StoreTimeout:
            self._count(race.pair.source, self._clock.monotonic() - begun)
            raise
        self._count(race.pair.source, self._clock.monotonic() - begun)
        return reading

    def _hedged(self, request: Request, race: _Race) -> Plan[None]:
        """The replica's side. It ends the race by answering wholly, or with anything once the source has failed."""
        source, replica = race.pair.source, race.pair.replica
        if not self._is_closed(race.pair) or request.until - self._clock.monotonic() < _LEAST_S:
            raise StoreUnavailable(f"source {replica!r} was not asked: it has been failing, or no time is left")
        if not self._take():
            yield from note("hedge.denied", source)
            raise StoreUnavailable(f"source {replica!r} was not asked: the budget had no token left")
        race.is_hedged = True
        yield from note("hedge.started", replica, source=source)
        try:
            race.answer = yield from self._once(request)
        except StoreError as error:
            race.hedge_failure = error
            raise
        finally:
            race.is_hedged = False
        if race.failure is None and not all(part.is_fresh for part in race.answer.parts):
            raise StoreUnavailable(f"source {replica!r} has not all of it: {source!r} may")

    def _kept(self, request: Request, race: _Race) -> Plan[None]:
        """Leave what the replica said where its turn will find it."""
        replica, sizes = race.pair.replica, {ask.view.name: len(ask.keys) for ask in request.asks}
        if race.answer is not None:
            request.met.add(_Ahead(replica, sizes, dict(zip(sizes, race.answer.parts, strict=True))))
            yield from note("hedge.used", replica, source=race.pair.source)
        elif isinstance(race.hedge_failure, StoreTimeout):  # It had its time: asking it again would take as much.
            request.met.add(_Ahead(replica, sizes, race.hedge_failure))

    def _given(self, request: Request) -> Plan[Reading] | None:
        """What the replica has said already of these rows."""
        for ahead in request.met:
            if isinstance(ahead, _Ahead) and ahead.covers(request):
                request.met.discard(ahead)
                return ahead.told(request)
        return None

    def _is_closed(self, pair: Pair) -> bool:
        """Whether nobody has anything against either: what is probed, too, must be let answer."""
        gates = self._gates
        return not self._is_drained(pair.replica) and all(
            source not in gates or gates[source].state == _CLOSED for source in (pair.source, pair.replica)
        )

    def _since(self, source: str) -> float:
        return self._gates[source].since if source in self._gates else 0.0

    def _count(self, source: str, seconds: float) -> None:
        self.recent[source].add(seconds, self._since(source))
