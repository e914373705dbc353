"""Stop asking a source that keeps failing, and take it back with care.

States of a gate: *closed* (all pass), *open* (none pass for `open_s`), *probing* (one at a time, for `healthy_s`
in which no more fail than half of what opens it), *ramping* (a share that grows to all over `ramp_s`), closed again.
It opens at a rate of failed or of slow calls, and sooner where nothing but failures comes: a source that is gone.
One that opens again on its way back, or soon after, has to be healthy for twice as long the next time.

Probes are a keeper's, who reads off the request path what users last asked for; where none is at work, requests are.
No user waits for a keeper's probe, so it does not wait for `open_s` again after each that fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import IntEnum
from math import inf
from random import Random
from typing import Any

from featurechaos.clock import Clock
from featurechaos.effects import Next, Plan, note
from featurechaos.errors import BreakerOpen, NoTime, StoreEmpty, StoreError, StoreTimeout
from featurechaos.locks import Locked
from featurechaos.readings import Reading, Request

_BUCKETS = 10
_IN_A_ROW = 3
_PROBE_MOST_S = 5.0
_FAIR_SHARE = 0.9
_PROBES = 10
"""A keeper probes so often in `healthy_s`, but every quarter of a second at least."""
_PROBE_LEAST_S, _PROBE_EVERY_S = 0.01, 0.25
_AWAY_SHARE = 1 / 40
"""After a failed probe a keeper waits for so much of the time since the source answered, and `open_s` at most."""
_SPREAD = 0.2
"""Keepers wait up to so much longer than is said: those of a fleet lost their source in one moment."""
_RUN_SHARE = 1 / 20
"""Of `window_s`, that nothing but failures must come: reads of a process that stood still fail in one moment."""
_HELD_S = 1.0
"""How often a keeper looks whether a gate is still held."""
_MOST_RELAPSES = 3
"""A source that comes and goes is healthy after eight times `healthy_s` at most."""


class State(IntEnum):
    """What a gate is doing; the number is the metric `breaker_state`."""

    CLOSED = 0
    OPEN = 1
    PROBING = 2
    RAMPING = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """When a gate opens and how it closes; the config's `policy.breaker`."""

    window_s: float = 10.0
    failure_rate: float = 0.5
    slow_rate: float = 0.8
    slow_s: float = 0.010
    min_calls: int = 20
    open_s: float = 1.0
    healthy_s: float = 1.0
    ramp_s: float = 2.0


@dataclass(slots=True, eq=False)
class Permit:
    """The right to ask once. An outcome counts only for the generation it was given in."""

    generation: int
    is_probe: bool = False


class Gate(Locked):
    """One source's breaker: `admit` before a call, `settle` after it, whatever happened to the call.

    Rates are over all calls of the last `window_s`, kept in ten buckets: they judge a source that fails now and then.
    One that is gone is known by a run of `min_calls` failures without a success, over a twentieth of `window_s`. A slow
    success ends the run, too: somebody is there and answers, and whether too slowly is the slow rate's to say.
    A cancelled call is neither success nor failure, and gives a probe's place back.
    """

    def __init__(self, limits: Limits, *, rng: Random, now: float) -> None:
        super().__init__()
        self.limits, self._rng = limits, rng
        self.state, self.since = State.CLOSED, now
        self.held_at: float | None = None
        self._generation = 0
        self._probe: Permit | None = None
        self._probe_until = 0.0
        self._healthy_since: float | None = None
        self._kept_until = self._last_probe = -inf
        self._relapses, self._was_back = 0, False
        self._answered_at, self._wait_s, self._spread = now, inf, 1.0
        self._good = self._bad = self._bad_in_a_row = 0
        self._bad_until = now
        self._run, self._run_since = 0, now
        self.permit = Permit(0)
        self._buckets: deque[list[float]] = deque(maxlen=_BUCKETS)

    def hold(self, now: float) -> None:
        """Let outcomes change nothing from now on: closed stays closed, open stays open, a ramp stays where it is."""
        with self._lock:
            self.held_at = now if self.held_at is None else self.held_at

    def release(self, now: float) -> None:
        """Go on deciding, from where it was held."""
        with self._lock:
            if self.held_at is not None:
                self.since += now - self.held_at
            self.held_at = None

    def limit(self, limits: Limits, now: float) -> None:
        """Go by other limits from where it stands; who keeps the probes looks again when they are due."""
        with self._lock:
            if limits != self.limits:
                self.limits, self._bad_until, self._kept_until = limits, now + limits.window_s, -inf
                self._run = 0  # It may be over, and what ended it not looked at.

    @property
    def healthy_s(self) -> float:
        """How long probes must go well before a share is let through: longer for a source that comes and goes."""
        return self.limits.healthy_s * (1 << self._relapses)

    def keep(self, now: float, *, for_s: float) -> float | None:
        """Take over the probes for some seconds; how long until the next is due, or None if none is wanted."""
        with self._lock:
            if self.state is State.OPEN:
                wait_s = self._due_in_s(now)
            elif self.state is State.PROBING:
                every_s = min(max(self.healthy_s / _PROBES, _PROBE_LEAST_S), _PROBE_EVERY_S)
                wait_s = self._last_probe + every_s - now
            else:
                return None
            wait_s = max(wait_s, 0.0 if self.held_at is None else _HELD_S)
            self._kept_until = now + wait_s + for_s
            return wait_s

    def admit(self, now: float, *, is_keeper: bool = False) -> Permit | None:
        """A permit, or None while the source is not to be asked."""
        if self.state is State.CLOSED:
            return self.permit
        with self._lock:
            if self.state in (State.OPEN, State.PROBING) and now < self._kept_until and not is_keeper:
                return None
            if self.held_at is not None and self.state is not State.RAMPING:
                return None
            is_due = self._due_in_s(now) <= 0 if is_keeper else now - self.since >= self.limits.open_s
            if self.state is State.OPEN and is_due:
                self._become(State.PROBING, now)
                self._healthy_since = None
                self._good = self._bad = self._bad_in_a_row = 0
            if self.state is State.PROBING:
                if self._probe is not None and now < self._probe_until:
                    return None
                # A probe that never comes back (a fork, a killed thread) must not wedge the gate.
                self._probe_until = now + _PROBE_MOST_S
                self._last_probe = now
                self._probe = Permit(self._generation, is_probe=True)
                return self._probe
            if self.state is State.RAMPING:
                at = now if self.held_at is None else self.held_at
                share = (at - self.since) / self.limits.ramp_s if self.limits.ramp_s else 1.0
                return self.permit if self._rng.random() < share else None
            return None if self.state is State.OPEN else self.permit

    def is_shut(self, now: float) -> bool:
        """Whether `admit` would give a request no permit and change nothing; False where only it can say."""
        state = self.state
        if state is not State.OPEN and state is not State.PROBING:
            return False
        if now < self._kept_until or self.held_at is not None:
            return True
        return state is State.OPEN and now - self.since < self.limits.open_s

    def settle(self, permit: Permit, now: float, *, succeeded: bool | None, seconds: float) -> State | None:
        """Count an outcome (None: cancelled, counts for nothing); the new state if it changed."""
        with self._lock:
            if permit.generation != self._generation:
                return None
            if permit.is_probe:
                if permit is not self._probe:  # Given up long ago: the place is another's now.
                    return None
                self._probe = None
            if succeeded is None or self.held_at is not None:
                return None
            if self.state is State.PROBING:
                return self._after_probe(now, succeeded=succeeded, slow=seconds >= self.limits.slow_s)
            if succeeded:
                self._run = 0
            elif self._run and now <= self._bad_until:
                self._run += 1
            else:  # What has passed since the last one was bad was not looked at.
                self._run, self._run_since = 1, now
            self._count(now, failed=not succeeded, slow=seconds >= self.limits.slow_s)
            if self._bad_until >= now and (self._is_gone(now) or self._is_failing(now)):
                return self._become(State.OPEN, now)
            if self.state is State.RAMPING and now - self.since >= self.limits.ramp_s:
                return self._become(State.CLOSED, now)
            return None

    def passed(self, permit: Permit, now: float) -> bool:
        """Count a quick and good call through a closed gate; False, and not counted, if that is for `settle` to do.

        It may be the one that fills the least number of calls, of which enough have failed.
        """
        with self._lock:
            if permit.generation == self._generation and self.held_at is None:
                if self._bad_until >= now:
                    if self._is_failing(now, more=1):
                        return False
                    self._run = 0
                buckets = self._buckets
                if buckets and now - buckets[-1][0] < self.limits.window_s / _BUCKETS:  # as `_count`
                    buckets[-1][1] += 1
                else:
                    self._count(now, failed=False, slow=False)
            return True

    def _after_probe(self, now: float, *, succeeded: bool, slow: bool) -> State | None:
        self._good, self._bad = self._good + succeeded, self._bad + (not succeeded)
        self._bad_in_a_row = 0 if succeeded else self._bad_in_a_row + 1
        if not succeeded:
            # One flaky probe among many must not open the gate again: a closed one shrugs off far more, since calls
            # are retried, and a process that collects its garbage every second would never get its source back.
            most = self.limits.failure_rate / 2 * (self._good + self._bad)
            lost = self._bad > most or self._bad_in_a_row >= _IN_A_ROW
            return self._become(State.OPEN, now) if lost else None
        self._answered_at = now
        if slow:  # It says nothing yet.
            return None
        if self._healthy_since is None:
            self._healthy_since = now
        if now - self._healthy_since >= self.healthy_s:
            return self._become(State.RAMPING, now)
        return None

    def _become(self, state: State, now: float) -> State:
        """Enter a state: a new generation, so that outcomes of the old one are dropped."""
        if state is State.OPEN and self.state is not State.PROBING:
            is_soon = self.state is State.RAMPING or (self._was_back and now - self.since < self.limits.window_s)
            self._relapses = min(self._relapses + 1, _MOST_RELAPSES) if is_soon else 0
        if state is State.OPEN:
            self._spread = 1 + _SPREAD * self._rng.random()
            if self.state is State.PROBING:
                self._wait_s = max(_PROBE_EVERY_S, (now - self._answered_at) * _AWAY_SHARE)
            else:
                self._answered_at, self._wait_s = now, inf
        self._was_back |= state is State.CLOSED
        self.state, self.since = state, now
        self._generation += 1
        self.permit = Permit(self._generation)
        self._probe = None
        self._buckets.clear()
        self._run = 0
        return state

    def _due_in_s(self, now: float) -> float:
        """How long until a keeper may probe an open gate: `open_s` at first, then sooner.

        So a return is noticed within a quarter of a second, or a fortieth of the time away; a source that is silent for
        long is asked no more often than requests would.
        """
        return self.since + min(self._wait_s, self.limits.open_s) * self._spread - now

    def _count(self, now: float, *, failed: bool, slow: bool) -> None:
        width = self.limits.window_s / _BUCKETS
        if not self._buckets or now - self._buckets[-1][0] >= width:
            self._buckets.append([now, 0, 0, 0])
        bucket = self._buckets[-1]
        bucket[1] += 1
        if failed or slow:
            bucket[2] += failed
            bucket[3] += 1
            self._bad_until = now + self.limits.window_s  # till then a bucket may hold it

    def _is_failing(self, now: float, *, more: int = 0) -> bool:
        recent = [bucket for bucket in self._buckets if now - bucket[0] <= self.limits.window_s]
        calls = sum(bucket[1] for bucket in recent) + more
        if calls < self.limits.min_calls:
            return False
        failed, slow = sum(bucket[2] for bucket in recent), sum(bucket[3] for bucket in recent)
        return failed / calls >= self.limits.failure_rate or slow / calls >= self.limits.slow_rate

    def _is_gone(self, now: float) -> bool:
        """Whether nothing but failures has come for a while."""
        limits = self.limits
        return self._run >= limits.min_calls and now - self._run_since >= limits.window_s * _RUN_SHARE

    def __repr__(self) -> str:
        return f"Gate({self.state.name.lower()})"


class Breaker:
    """A gate for each source, around every attempt.

    A timeout counts against a source only if it had its fair time: a caller in a hurry must not shut
    the gate for everybody.
    """

    def __init__(self, clock: Clock, limits: Limits, *, timeouts: Mapping[str, float], rng: Random) -> None:
        self._clock, self._timeouts = clock, timeouts
        now = clock.monotonic()
        self.gates = {source: Gate(limits, rng=rng, now=now) for source in timeouts}
        self._emptied: set[str] = set()
        """Sources whose gates opened for want of their data: that is why they are not asked."""
        self.wanted: dict[str, Request] = {}
        """What users last asked of a source that was not asked: what a keeper reads of it."""

    def limit(self, limits: Limits, *, timeouts: Mapping[str, float]) -> None:
        """Go by other limits, and other times that are fair; what is open stays open."""
        self._timeouts = timeouts
        for gate in self.gates.values():
            gate.limit(limits, self._clock.monotonic())

    def __call__(self, request: Request, inner: Next, *, is_keeper: bool = False) -> Plan[Reading]:
        gate, source = self.gates[request.source], request.source
        permit: Permit | None
        if (head := request.head) is not None:
            begun, permit = head.begun, head.permit
        else:
            begun = self._clock.monotonic()
            permit = gate.admit(begun, is_keeper=is_keeper)
        if permit is None:
            self.wanted[source] = request
            raise self.refusal(source)
        begun_as_probe, is_partial = permit.is_probe, False
        succeeded: bool | None = None
        changed: State | None = None
        try:
            if begun_as_probe:  # Within the `try`: left here, too, a probe gives its place back.
                yield from note("breaker.probed", source)
            reading = yield from inner(request)
            succeeded, is_partial = True, reading.is_partial
        except NoTime:
            raise
        except StoreError as error:
            fair = self._clock.monotonic() - begun >= _FAIR_SHARE * self._timeouts[source]
            # What a shard's own gate has counted must not shut out the other shards.
            succeeded = None if error.shard or (isinstance(error, StoreTimeout) and not fair) else False
            changed = self._settle(gate, permit, begun, succeeded=succeeded)
            permit = None
            if changed is not None:
                (self._emptied.add if isinstance(error, StoreEmpty) else self._emptied.discard)(source)
                self.wanted[source] = request
                yield from note(_TOLD[changed], source, reason=str(error), again=begun_as_probe)
            raise
        finally:
            if permit is not None:
                # Waiting for one shard does not make the source slow.
                since = self._clock.monotonic() if is_partial else begun
                changed = self._settle(gate, permit, since, succeeded=succeeded)
        if changed is State.OPEN:
            self.wanted[source] = request
            yield from note(_TOLD[changed], source, reason="most calls are slow or fail", again=begun_as_probe)
        elif changed is not None:
            yield from note(_TOLD[changed], source, reason="probes answered")
        return reading

    def refusal(self, source: str) -> StoreError:
        """What a source that is not asked fails with."""
        if source in self._emptied:
            return StoreEmpty(f"source {source!r} was not asked: it has been without its data")
        return BreakerOpen(f"source {source!r} was not asked: it has been failing")

    def _settle(self, gate: Gate, permit: Permit, begun: float, *, succeeded: bool | None) -> State | None:
        now = self._clock.monotonic()
        return gate.settle(permit, now, succeeded=succeeded, seconds=now - begun)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One call of a shard; without a gate it is not counted."""

    name: str
    gate: Gate | None
    permit: Permit
    begun: float


class ShardGates(Locked):
    """A gate for each shard of one source, told as `source/shard`; a store of several servers asks it.

    Bounded by what `keep` is told. `tell` hears notes; `watch` each gate by its name, and None once it is forgotten.
    Without limits all shards are asked.
    """

    def __init__(
        self,
        source: str,
        clock: Clock,
        limits: Limits | None,
        *,
        timeout_s: float,
        rng: Random,
        tell: Callable[[str, str, Mapping[str, Any]], None],
        watch: Callable[[str, Gate | None], None],
    ) -> None:
        super().__init__()
        self._source, self._clock, self._limits, self._timeout_s = source, clock, limits, timeout_s
        self._rng, self._tell, self._watch = rng, tell, watch
        self.gates: dict[str, Gate] = {}

    def admit(self, shard: str) -> _Asked | None:
        """The right to ask a shard once, or None while it is not to be asked; each is settled."""
        now, name = self._clock.monotonic(), f"{self._source}/{shard}"
        gate = self.gates.get(name) or self._made(name, now)
        if gate is None:
            return _Asked(name, None, _UNCOUNTED, now)
        permit = gate.admit(now)
        if permit is None:
            return None
        if permit.is_probe:
            self._tell("breaker.probed", name, {})
        return _Asked(name, gate, permit, now)

    def settle(self, asked: _Asked, *, error: StoreError | None = None, is_left: bool = False) -> None:
        """Count what came of it; a call that was left counts for nothing, and so does a timeout before its time."""
        now = self._clock.monotonic()
        seconds = now - asked.begun
        is_hurried = isinstance(error, StoreTimeout) and seconds < _FAIR_SHARE * self._timeout_s
        succeeded = None if is_left or is_hurried else error is None
        if asked.gate is None:
            return
        changed = asked.gate.settle(asked.permit, now, succeeded=succeeded, seconds=seconds)
        if changed is not None:
            reason = str(error) if error is not None else _WHY[changed]
            self._tell(_TOLD[changed], asked.name, {"reason": reason, "again": asked.permit.is_probe})

    def keep(self, shards: Sequence[str]) -> None:
        """Forget every shard but these."""
        self._forget({f"{self._source}/{shard}" for shard in shards}, why="it is no shard any more")

    def limit(self, limits: Limits | None, *, timeout_s: float) -> None:
        """Go by other limits, and another time that is fair; what is open stays open, unless there are none."""
        with self._lock:
            self._limits, self._timeout_s, gates = limits, timeout_s, list(self.gates.values())
        if limits is None:
            self._forget(frozenset(), why=OFF)
            return
        for gate in gates:
            gate.limit(limits, self._clock.monotonic())

    def _forget(self, but: Set[str], *, why: str) -> None:
        with self._lock:
            gone = {name: self.gates.pop(name) for name in list(self.gates) if name not in but}
        for name, gate in gone.items():
            gate.hold(self._clock.monotonic())  # calls under way change nothing
            self._watch(name, None)
            if gate.state is not State.CLOSED:
                self._tell(_TOLD[State.CLOSED], name, {"reason": why})

    def _made(self, name: str, now: float) -> Gate | None:
        with self._lock:
            gate = self.gates.get(name)
            if gate is None and self._limits is not None:
                gate = self.gates[name] = Gate(self._limits, rng=self._rng, now=now)
                self._watch(name, gate)
            return gate


_UNCOUNTED = Permit(0)
OFF = "the breaker is off"
_WHY = {
    State.OPEN: "most calls are slow or fail",
    State.PROBING: "",
    State.RAMPING: "probes answered",
    State.CLOSED: "probes answered",
}
_TOLD = {
    State.OPEN: "breaker.opened",
    State.PROBING: "breaker.probed",
    State.RAMPING: "breaker.ramping",
    State.CLOSED: "breaker.closed",
}
