"""The breaker beside a model of it: calls that begin and end in any order, on a clock turned by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from featurechaos.effects import Note, Plan, Sleep, sleep
from featurechaos.errors import (
    BreakerOpen,
    FeatureError,
    NoTime,
    StoreEmpty,
    StoreRefused,
    StoreTimeout,
    StoreUnavailable,
)
from featurechaos.layers.breaker import Breaker, Limits, State
from featurechaos.readings import Reading, Request
from featurechaos.testing import ManualClock
from tests.layers.kit import Dice, request_of

LIMITS = Limits(window_s=2, min_calls=4, slow_s=0.010, open_s=1, healthy_s=0.5, ramp_s=1.0)
TIMEOUT_S = 0.015
LOST_S = 5.0
OUTCOMES = ["answer", "answer", "gone", "gone", "late", "refused", "empty", "no time", "cancelled", "alien"]
ERRORS = {
    "gone": StoreUnavailable("gone"),
    "late": StoreTimeout("late"),
    "refused": StoreRefused("no"),
    "empty": StoreEmpty("flushed"),
    "no time": NoTime("none left"),
    "alien": ZeroDivisionError("odd"),
}


@dataclass(eq=False)
class Call:
    """One attempt under way."""

    plan: Plan[Reading]
    begun: float
    generation: int
    is_probe: bool


@dataclass
class Model:
    """What the breaker should do, said with lists instead of buckets."""

    state: State = State.CLOSED
    since: float = 0.0
    generation: int = 0
    probe: Call | None = None
    kept_until: float = -9.0
    healthy_since: float | None = None
    good: int = 0
    bad: list[bool] = field(default_factory=list)
    told: list[tuple[float, bool, bool]] = field(default_factory=list)
    relapses: int = 0
    was_closed: bool = False
    wait_s: float = LIMITS.open_s
    answered_at: float = 0.0

    def enter(self, state: State, now: float, draw: float = 0.0) -> None:
        if state is State.OPEN and self.state is not State.PROBING:
            soon = self.state is State.RAMPING or (self.was_closed and now - self.since < LIMITS.window_s)
            self.relapses = min(self.relapses + 1, 3) if soon else 0
        if state is State.OPEN:
            self.answered_at = self.answered_at if self.state is State.PROBING else now
            least_s = 0.25 if self.state is State.PROBING else LIMITS.open_s
            self.wait_s = min(max(least_s, (now - self.answered_at) / 40), LIMITS.open_s) * (1 + 0.2 * draw)
        self.was_closed |= state is State.CLOSED
        self.state, self.since, self.generation = state, now, self.generation + 1
        self.probe, self.told = None, []
        if state is State.PROBING:
            self.healthy_since, self.good, self.bad = None, 0, []

    def kept_in_s(self, now: float) -> float:
        """How long until a keeper may probe it while it is open."""
        return self.since + self.wait_s - now

    def lets_through(self, now: float, draw: float, *, is_keeper: bool) -> bool:
        """Whether a call passes, apart from the place of the one probe."""
        if self.state in (State.OPEN, State.PROBING) and now < self.kept_until and not is_keeper:
            return False
        is_due = self.kept_in_s(now) <= 0 if is_keeper else now - self.since >= LIMITS.open_s
        if self.state is State.OPEN and is_due:
            self.enter(State.PROBING, now)
        if self.state is State.PROBING:
            return self.probe is None or now - self.probe.begun >= LOST_S
        if self.state is State.RAMPING:
            return draw < (now - self.since) / LIMITS.ramp_s
        return self.state is State.CLOSED

    def is_gone(self) -> bool:
        """Whether nothing but failures came for a twentieth of the window, none a window after another."""
        run: list[float] = []
        for at, failed, _ in self.told:
            is_more = failed and run and at <= run[-1] + LIMITS.window_s
            run = [*run, at] if is_more else [at] if failed else []
        return len(run) >= LIMITS.min_calls and run[-1] - run[0] >= LIMITS.window_s / 20

    def verdicts(self, now: float) -> set[bool]:
        """Whether the source is failing, over every window that ten buckets may stand for."""
        width = LIMITS.window_s / 10
        found = set()
        for begin in [now - LIMITS.window_s, *(at for at, _, _ in self.told), now - LIMITS.window_s + width]:
            if now - LIMITS.window_s <= begin <= now - LIMITS.window_s + width + 1e-9:
                seen = [(failed, slow) for at, failed, slow in self.told if at >= begin]
                failed = sum(one for one, _ in seen)
                slow = sum(one or other for one, other in seen)
                enough = len(seen) >= LIMITS.min_calls
                found.add(
                    enough and (failed >= LIMITS.failure_rate * len(seen) or slow >= LIMITS.slow_rate * len(seen))
                )
        return {True} if self.is_gone() else found


class Breakers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.dice = Dice(0.5)
        self.breaker = Breaker(self.clock, LIMITS, timeouts={"primary": TIMEOUT_S}, rng=self.dice)
        self.gate = self.breaker.gates["primary"]
        self.model = Model(since=self.clock.monotonic())
        self.out: list[Call] = []
        self.request = request_of(self.clock, left_s=1e9)

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.005, 0.015, 0.1, 0.5, 1.0, 2.5, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(for_s=st.sampled_from([0.1, 1.0]))
    def a_keeper_takes_over(self, for_s: float) -> None:
        wait_s = self.gate.keep(self.now, for_s=for_s)

        assert (wait_s is None) == (self.model.state in (State.CLOSED, State.RAMPING))
        if wait_s is not None:
            assert 0 <= wait_s <= 1.2 * LIMITS.open_s
            if self.model.state is State.OPEN:
                assert wait_s == max(0.0, self.model.kept_in_s(self.now))
            self.model.kept_until = self.now + wait_s + for_s

    @rule(draw=st.sampled_from([0.0, 0.3, 0.7, 0.99]), is_keeper=st.booleans())
    def a_call_begins(self, draw: float, is_keeper: bool) -> None:
        self.dice.value = draw
        passes = self.model.lets_through(self.now, draw, is_keeper=is_keeper)
        plan = self.breaker(self.request, self._inner, is_keeper=is_keeper)
        try:
            effect: Any = next(plan)
            while isinstance(effect, Note):
                effect = plan.send(None)
        except (BreakerOpen, StoreEmpty):
            assert not passes
            assert "primary" in self.breaker.wanted
            return
        assert isinstance(effect, Sleep)
        assert passes
        call = Call(plan, self.now, self.model.generation, self.model.state is State.PROBING)
        if call.is_probe:
            self.model.probe = call
        self.out.append(call)

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 99), outcome=st.sampled_from(OUTCOMES))
    def a_call_ends(self, which: int, outcome: str) -> None:
        call = self.out.pop(which % len(self.out))
        told = self._end(call, outcome)
        before, model, now = self.model.state, self.model, self.now
        took = now - call.begun
        slow, failed = took >= LIMITS.slow_s, outcome in ("gone", "late", "refused", "empty")
        counts = outcome == "answer" or failed
        if outcome == "late" and took < 0.9 * TIMEOUT_S:
            counts = False
        if call.generation == model.generation:
            is_given_up = call.is_probe and call is not model.probe
            if call is model.probe:
                model.probe = None
            if counts and not is_given_up:
                self._count(failed=failed, slow=slow)
        assert [name for name in told if name != "breaker.probed"] == _TOLD[before, model.state]

    @rule(outcome=st.sampled_from(["answer", "gone"]), every_s=st.sampled_from([0.0, 0.2]), times=st.integers(2, 6))
    def some_calls_in_a_row(self, outcome: str, every_s: float, times: int) -> None:
        for _ in range(times):
            had = len(self.out)
            self.a_call_begins(0.0, is_keeper=True)
            if len(self.out) > had:
                self.a_call_ends(had, outcome)
            self.it_is_in_the_state_that_the_model_is_in()
            self.time_passes(every_s)

    def _count(self, *, failed: bool, slow: bool) -> None:
        model, now = self.model, self.now
        if model.state is State.PROBING:
            model.good, model.bad = model.good + (not failed), [*model.bad, failed]
            model.answered_at = model.answered_at if failed else now
            if failed:
                if sum(model.bad) > LIMITS.failure_rate / 2 * len(model.bad) or model.bad[-3:] == [True] * 3:
                    model.enter(State.OPEN, now, self.dice.value)
            elif not slow:
                model.healthy_since = now if model.healthy_since is None else model.healthy_since
                if now - model.healthy_since >= LIMITS.healthy_s * 2**model.relapses:
                    model.enter(State.RAMPING, now)
            return
        model.told.append((now, failed, slow))
        verdicts = model.verdicts(now)
        if self.gate.state is State.OPEN:
            assert True in verdicts
            model.enter(State.OPEN, now, self.dice.value)
        else:
            assert False in verdicts
            if model.state is State.RAMPING and now - model.since >= LIMITS.ramp_s:
                model.enter(State.CLOSED, now)

    def _inner(self, request: Request) -> Plan[Reading]:
        yield from sleep(0.0)
        return Reading([])

    def _end(self, call: Call, outcome: str) -> list[str]:
        """Play the call's last step; the notes it told."""
        if outcome == "cancelled":
            call.plan.close()
            return []
        return list(self._told(call.plan, ERRORS.get(outcome)))

    @staticmethod
    def _told(plan: Plan[Reading], error: Exception | None) -> Iterator[str]:
        try:
            effect: Any = plan.send(None) if error is None else plan.throw(error)
            while True:
                assert isinstance(effect, Note)
                yield effect.name
                effect = plan.send(None)
        except StopIteration:
            assert error is None
        except (FeatureError, ZeroDivisionError) as raised:
            if raised is not error:
                raise

    @invariant()
    def it_is_in_the_state_that_the_model_is_in(self) -> None:
        assert (self.gate.state, self.gate.since) == (self.model.state, self.model.since)
        assert self.gate.healthy_s == LIMITS.healthy_s * 2**self.model.relapses

    @invariant()
    def at_most_one_probe_that_is_not_lost_is_out(self) -> None:
        mine = [call for call in self.out if call.is_probe and call.generation == self.model.generation]
        assert len([call for call in mine if self.now - call.begun < LOST_S]) <= 1

    def teardown(self) -> None:
        """However it went, no permit is lost: a source that is well again gets all of its share back."""
        for call in self.out:
            call.plan.close()
        until = self.now + 8 * LIMITS.healthy_s + LIMITS.open_s + LIMITS.ramp_s + LOST_S + 3.0
        while self.now < until:
            plan = self.breaker(self.request, self._inner)
            try:
                for effect in plan:
                    assert isinstance(effect, Note | Sleep)
            except (BreakerOpen, StoreEmpty):
                pass
            self.clock.advance(0.05)
        assert self.gate.state is State.CLOSED


_TOLD = {
    **{(state, state): [] for state in State},
    (State.CLOSED, State.OPEN): ["breaker.opened"],
    (State.PROBING, State.OPEN): ["breaker.opened"],
    (State.RAMPING, State.OPEN): ["breaker.opened"],
    (State.PROBING, State.RAMPING): ["breaker.ramping"],
    (State.RAMPING, State.CLOSED): ["breaker.closed"],
}

TestBreakers = Breakers.TestCase
TestBreakers.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
