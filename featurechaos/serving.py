"""What sync and async clients share: a call compiled to a request, the layers put together, the answer made.

Nothing here does I/O; the clients run the plans.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Real
from random import Random, SystemRandom
from typing import Any

import numpy as np

from featurechaos.clock import Clock
from featurechaos.codec import Keys, Layout, Rows, encode_key, encode_keys
from featurechaos.config import Settings
from featurechaos.config.settings import hedged_orders
from featurechaos.detour import Detour, Refusals, Way
from featurechaos.effects import Next, Note, Plan, stack
from featurechaos.entities import Entities, EntityRows
from featurechaos.errors import Exhausted, RequestError, StoreError
from featurechaos.events import Listener
from featurechaos.faults.board import Board
from featurechaos.faults.exercise import Exercise
from featurechaos.layers.breaker import OFF, Breaker, Gate, Limits, ShardGates, State
from featurechaos.layers.deadline import Attempt, Deadline, Meter
from featurechaos.layers.empty import Emptiness, Empty
from featurechaos.layers.failover import Failover
from featurechaos.layers.fallback import Fallback
from featurechaos.layers.fetch import Fetch
from featurechaos.layers.hedge import Hedge, Pair, Recent
from featurechaos.layers.remember import Remember
from featurechaos.layers.retry import Budget, Retry
from featurechaos.layers.steer import Steer
from featurechaos.memory import GENERATIONS, Keep, LastKnown
from featurechaos.model import Cause, JoinKey, Origin, Verdict, View
from featurechaos.readings import Part, Reading, Request, Rules, Started, tightened
from featurechaos.response import Fan, Response, ViewAnswer, Wanted, Wants
from featurechaos.shadow import Shadow
from featurechaos.shortcut import Groups, Shortcut
from featurechaos.stores import Answer, Ask

RESERVE_S = 0.005
_IDS = Random()  # as random as ids need to be, and a tenth of what asking the system costs
_some_bits, _new = _IDS.getrandbits, object.__new__
os.register_at_fork(after_in_child=_IDS.seed)
_PROBED_ROWS = 32
_KEPT_S = 1.0
"""A keeper that is so late has lost its place: requests probe for themselves."""
_PROBE_LEAST_S = 0.005
_MOST_COMPILED = 1024
_ONE = Fan(1, 1)


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a list of features means: made once and kept."""

    wants: Wants
    views: tuple[View, ...]
    layouts: tuple[Layout, ...]
    rules: tuple[Rules, ...]
    key_of: tuple[int, ...]
    """For each view the first that has the same join keys: they share encoded keys."""
    defaults: frozenset[str]
    source: str | None
    """Whom all of the views ask first, if that is one source and nothing but a plan asks it."""
    way: Way | None
    """Whom all of the views ask where that is the same and nothing but a plan asks them."""
    remembered: Groups
    one: JoinKey | None
    """The key of all views, if they have but one and the same: one entity is then looked up without numpy."""
    ones: tuple[Fan, ...]
    """How one entity spreads over one row, for each view."""


class Call(Request):
    """One call under way: a request, and how its distinct keys spread over the caller's rows."""

    __slots__ = ("begun", "compiled", "entities", "fans")

    compiled: Compiled
    entities: Entities
    fans: Sequence[Fan]
    begun: float


@dataclass(frozen=True, slots=True)
class Ground:
    """What every policy of a client stands on: nothing of it is any policy's.

    The layouts of its views and those met since, the faults that are on, what operators have ordered, the breakers of
    shards.
    """

    layouts: Mapping[str, Layout]
    known: dict[int, Layout]
    fetch: Fetch
    board: Board
    steer: Steer
    shards: dict[str, ShardGates]

    @classmethod
    def of(cls, settings: Settings, clock: Clock, prepare: Any) -> Ground:
        layouts = {name: Layout.of(view) for name, view in settings.views.items()}
        known = {layout.hash: layout for layout in layouts.values()}
        board = Board(
            clock,
            max_share=settings.chaos.max_share,
            refusal=lambda: refusal(settings),
            prepare=prepare,
            sources=tuple(settings.sources),
            views=tuple(settings.views),
        )
        fetch = Fetch(clock, {name: source.role for name, source in settings.sources.items()}, known)
        online = tuple(name for name, source in settings.sources.items() if source.is_online)
        return cls(layouts, known, fetch, board, Steer(clock, online, {}), {})


class Serving:
    """The brain of a client under one policy: pure but for its counters and caches, each of which holds its own lock.

    What is known of the sources outlives the policy: `since` is who served before. It goes on unharmed; only `enforce`
    lays this policy's limits on what both hold.
    """

    def __init__(
        self, settings: Settings, clock: Clock, meter: Meter, *, prepare: Any, since: Serving | None = None
    ) -> None:
        self.settings, self.clock, self.loaded_at = settings, clock, clock.wall()
        self._monotonic, self._wall, self._deadline_s = clock.monotonic, clock.wall, settings.policy.deadline_s
        self._compiled: dict[tuple[Any, ...], Compiled] = {}
        self.ground: Ground = Ground.of(settings, clock, prepare) if since is None else since.ground
        ground = self.ground
        self.layouts, self.known, self.fetch = ground.layouts, ground.known, ground.fetch
        self.board, self.steer, self.shards = ground.board, ground.steer, ground.shards
        self.rules = {name: rules_of(settings, view) for name, view in settings.views.items()}
        online = {name: source for name, source in settings.sources.items() if source.is_online}
        self.timeouts = {name: source.timeout_s or settings.policy.deadline_s for name, source in online.items()}
        self.memory = self._memory(since)
        self.breaker = self._breaker(since)
        self.empty = self._empty(tuple(online), since)
        self.budget = self._budget(since)
        self.hedge: Hedge | None = None
        self._meter = meter
        self.plan = self._stack(frozenset(online), since)
        self.shortcut = Shortcut(
            clock,
            origins={name: source.role for name, source in online.items()},
            timeouts=self.timeouts,
            reserve_s=RESERVE_S,
            board=self.board,
            steer=self.steer,
            breaker=self.breaker,
            empty=self.empty,
            budget=self.budget,
            memory=self.memory,
            meter=meter,
        )
        self.detour = Detour(clock, board=self.board, steer=self.steer, breaker=self.breaker, memory=self.memory)
        self.shadow = self._shadow(since)
        if since is None:
            self.enforce()

    def enforce(self) -> None:
        """Lay this policy's limits on what outlives it: all at once, and as often as one likes."""
        policy, limits = self.settings.policy, self.limits
        self.board.max_share = self.settings.chaos.max_share
        if self.breaker is not None and limits is not None:
            self.breaker.limit(limits, timeouts=self.timeouts)
        for source, gates in self.shards.items():
            gates.limit(limits, timeout_s=self.timeouts[source])
        self.steer.guard({} if self.breaker is None else self.breaker.gates)
        if self.empty is not None and policy.empty is not None:
            for watch in self.empty.watches.values():
                watch.limits = Emptiness(**policy.empty.model_dump())
        if self.budget is not None:
            self.budget.limit(**budget_of(self.settings))
        if self.shadow is not None and policy.shadow is not None:
            want = policy.shadow
            self.shadow.follow(
                self.memory, share=want.share, max_per_s=want.max_per_s, timeouts=self.timeouts, may_ask=self._is_calm
            )

    def retire(self, successor: Serving, tell: Listener) -> None:
        """Let go of what the policy that follows has not: a trouble that nobody looks at any more is over."""
        if self.breaker is not None and successor.breaker is None:
            for source, gate in self.breaker.gates.items():
                gate.hold(self.clock.monotonic())  # calls under way change nothing
                if gate.state is not State.CLOSED:
                    tell("breaker.closed", source, {"reason": OFF})
        if self.empty is not None and successor.empty is None:
            for source, watch in self.empty.watches.items():
                if watch.is_empty:
                    tell("source.refilled", source, {"reason": "nobody looks any more"})

    @property
    def limits(self) -> Limits | None:
        """When breakers open and how they close; None where there are none."""
        limits = self.settings.policy.breaker
        return None if limits is None else Limits(**limits.model_dump())

    def _memory(self, since: Serving | None) -> LastKnown:
        emptiness, keeps = self.settings.policy.empty, keeps_of(self.settings, self.layouts)
        aside_s = emptiness.window_s if emptiness else 0.0
        if since is not None:
            return since.memory.under(keeps, aside_s=aside_s)
        return LastKnown(self.clock, keeps, aside_s=aside_s)

    def _breaker(self, since: Serving | None) -> Breaker | None:
        if self.limits is None:
            return None
        if since is not None and since.breaker is not None:
            return since.breaker
        return Breaker(self.clock, self.limits, timeouts=self.timeouts, rng=SystemRandom())

    def gates(self, source: str, *, tell: Listener, watch: Callable[[str, Gate | None], None]) -> ShardGates | None:
        """The breakers of a source's shards, for a store of several servers; by the config's limits."""
        if source not in self.timeouts:
            return None
        gates = self.shards[source] = ShardGates(
            source, self.clock, self.limits, timeout_s=self.timeouts[source], rng=SystemRandom(), tell=tell, watch=watch
        )
        return gates

    def _empty(self, online: Sequence[str], since: Serving | None) -> Empty | None:
        """What doubts a source that has lost its data, where something local could contradict it."""
        limits = self.settings.policy.empty
        if limits is None or not any(rules.remembers or rules.local for rules in self.rules.values()):
            return None
        expire_s = {name: getattr(self.settings.sources[name].spec, "expire_s", None) for name in online}
        return Empty(
            self.clock,
            Emptiness(**limits.model_dump()),
            sources=online,
            memory=self.memory,
            local=self.fetch,
            expire_us={name: int(seconds * 1e6) for name, seconds in expire_s.items() if seconds},
            watches=None if since is None or since.empty is None else since.empty.watches,
        )

    def _stack(self, online: frozenset[str], since: Serving | None) -> Next:
        """The layers as the config wants them, outermost first."""
        policy, clock = self.settings.policy, self.clock
        exercise = Exercise(self.board, clock, history=history_of(self.rules), online=online, known=self.known)
        local = stack([exercise], self.fetch)
        attempt: list[Any] = [] if self.empty is None else [self.empty]
        attempt.append(Attempt(clock, self.timeouts, self._meter))
        if any(rules.remembers for rules in self.rules.values()):
            attempt.append(Remember(self.memory))
        self._attempt = stack([*attempt, exercise], self.fetch)
        ask = stack([layer for layer in (self.steer, self.breaker) if layer is not None], self._attempt)
        layers: list[Any] = [Fallback(self.memory, local), Deadline(clock, reserve_s=RESERVE_S), Failover()]
        if policy.hedge is not None:
            self.hedge = self._hedge(ask, since)
            layers.append(self.hedge)
        if self.budget is not None:
            retry = policy.retry
            layers.append(
                Retry(
                    clock,
                    attempts=retry.attempts if retry else 1,  # what is not asked again still earns what hedges take
                    wait_first_s=retry.wait_first_s if retry else 0.0,
                    budget=self.budget,
                    rng=SystemRandom(),
                )
            )
        return stack(layers, ask)

    def _budget(self, since: Serving | None) -> Budget | None:
        """What retries and hedges share."""
        policy = self.settings.policy
        if policy.retry is None and policy.hedge is None:
            return None
        if since is not None and since.budget is not None:
            return since.budget
        return Budget(**budget_of(self.settings))

    def _hedge(self, ask: Next, since: Serving | None) -> Hedge:
        want, budget = self.settings.policy.hedge, self.budget
        assert want is not None
        assert budget is not None
        pairs = {
            order: Pair(*pair) for order, pair in hedged_orders(self.settings.policies, self.settings.sources).items()
        }
        is_as_before = since is not None and since.hedge is not None and since.settings.policy.hedge == want
        recent = dict(since.hedge.recent) if is_as_before else {}  # type: ignore[union-attr]
        for pair in pairs.values():
            if pair.source in recent:
                continue
            most_s = want.after_max_s or max(want.after_min_s, self.timeouts[pair.source] / 2)
            recent[pair.source] = Recent(want.quantile, least_s=want.after_min_s, most_s=most_s)
        gates, steer = {} if self.breaker is None else self.breaker.gates, self.steer
        return Hedge(
            self.clock,
            pairs=pairs,
            recent=recent,
            gates=gates,
            take=budget.take,
            once=ask,
            is_drained=lambda source: source in steer.drained,
        )

    def _shadow(self, since: Serving | None) -> Shadow | None:
        """What reads some answers again from the tiers behind them, if the config wants that."""
        want = self.settings.policy.shadow
        if want is None or not want.share:
            return None
        if since is not None and since.shadow is not None:
            return since.shadow
        return Shadow(
            self.clock,
            share=want.share,
            max_per_s=want.max_per_s,
            fetch=self.fetch,
            memory=self.memory,
            origins={name: source.role for name, source in self.settings.sources.items()},
            timeouts=self.timeouts,
            may_ask=self._is_calm,
        )

    def _is_calm(self, source: str) -> bool:
        """Whether a source can bear reads that nobody waits for: every breaker is closed, and it is not drained."""
        gates = [] if self.breaker is None else [*self.breaker.gates.values()]
        gates += [gate for shards in self.shards.values() for gate in list(shards.gates.values())]
        return source not in self.steer.drained and all(gate.state is State.CLOSED for gate in gates)

    def to_probe(self) -> list[str]:
        """Sources that are due to be probed off the request path."""
        gates = {} if self.breaker is None else self.breaker.gates
        now = self.clock.monotonic()
        return [source for source, gate in gates.items() if gate.keep(now, for_s=_KEPT_S) == 0]

    def probe_in_s(self) -> float | None:
        """How long until a source is due; None when none is away."""
        gates = {} if self.breaker is None else self.breaker.gates
        now = self.clock.monotonic()
        waits = [wait_s for gate in gates.values() if (wait_s := gate.keep(now, for_s=_KEPT_S)) is not None]
        return max(_PROBE_LEAST_S, min(waits)) if waits else None

    def probe(self, source: str) -> Plan[None]:
        """Read a few rows that users last wanted of a source that is away; its gate hears what comes of it."""
        assert self.breaker is not None
        wanted, now = self.breaker.wanted.get(source), self.clock.monotonic()
        if wanted is None:
            return
        some = [i for i, ask in enumerate(wanted.asks) if len(ask.keys)]
        request = Request(
            [wanted.asks[i].only(np.arange(min(_PROBED_ROWS, len(wanted.asks[i].keys)))) for i in some],
            [wanted.rules[i] for i in some],
            until=now + self.timeouts[source],
            wall_us=int(self.clock.wall() * 1e6),
            id=f"probe-{some_id()}",
            source=source,
        )
        with suppress(StoreError):
            yield from self.breaker(request, self._attempt, is_keeper=True)

    def call(
        self,
        features: Sequence[str] | str,
        entity_rows: EntityRows,
        *,
        full_feature_names: bool,
        deadline_s: float | None,
        max_age_s: float | None,
        on_exhausted: str | None,
        request_id: str | None,
    ) -> Call:
        """Check a call and turn it into a request; RequestError is the caller's mistake."""
        call = _new(Call)  # and its fields one by one: keywords cost as much as the rest
        begun = call.begun = self._monotonic()
        compiled = call.compiled = self._compile(features, full_feature_names)
        entities = call.entities = Entities(entity_rows)
        one = compiled.one
        if (
            one is not None
            and entities.n == 1
            and ((key := encode_key(one, entities.only(one.column, compiled.views[0]))) is not None)
        ):
            keys: Sequence[Keys] = (key,) * len(compiled.views)
            call.fans = compiled.ones
        else:
            keys, call.fans = self._keys(compiled, entities)
        call.asks = list(map(Ask, compiled.views, compiled.layouts, keys))
        call.rules = compiled.rules
        if max_age_s is not None or on_exhausted is not None:
            call.rules = _overridden(compiled.rules, max_age_s, on_exhausted)
        call.until = begun + (self._deadline_s if deadline_s is None else _seconds("deadline_s", deadline_s))
        call.wall_us = int(self._wall() * 1e6)
        call.drawn = _some_bits(128) if request_id is None else str(request_id)
        call.source, call.defaults, call.met, call.started = "", compiled.defaults, set(), None
        return call

    def end(self, call: Call, started: Started) -> Response | None:
        """The answer, where what came is whole and fresh; else the plan is to be played."""
        parts = self.shortcut.end(call, started, call.compiled.remembered)
        return None if parts is None else self._answer(call, parts, is_plain=True)

    def refusals(self, call: Call) -> Refusals | None:
        """The sources that will not be asked, where only local tiers are left; None if that is for the plan to say."""
        return self.detour.begin(call, call.compiled.way)

    def end_local(
        self, call: Call, answers: Sequence[Answer] | None, refusals: Refusals, tell: Callable[[Note], None]
    ) -> Response | None:
        """The answer of the local tiers, where each row is whole and fresh; else the plan is to be played."""
        parts = self.detour.end(call, answers, refusals, tell)
        return None if parts is None else self._answer(call, parts, is_plain=False)

    def asked(self, request: Request) -> Plan[Reading]:
        """The plan of a request; one that has no key to read asks nobody."""
        for ask in request.asks:
            if ask.keys.ids:
                return self.plan(request)
        return _nothing(request)

    def response(self, call: Call, reading: Reading) -> Response:
        """Make the answer."""
        return self._answer(call, reading.parts, is_plain=False)

    def _answer(self, call: Call, parts: Sequence[Part], *, is_plain: bool) -> Response:
        """`is_plain`: every row of every part is known to be fresh."""
        answers, wall_us, all_plain, fans, rules = {}, call.wall_us, is_plain, call.fans, call.rules
        for at, ask in enumerate(call.asks):
            fan = fans[at]
            answer = answers[ask.view.name] = ViewAnswer(ask, parts[at], fan, wall_us, rules[at])
            if fan.inverse is not None:
                all_plain = False
            elif is_plain:
                answer.is_plain = True
        response = Response(call.compiled.wants, answers, call.entities, call, is_plain=all_plain)
        response.elapsed_s = self._monotonic() - call.begun
        return response

    def exhausted(self, call: Call, response: Response) -> Exhausted | None:
        """The error to raise, if the caller wants to be told of rows nobody could serve."""
        if all(rules.on_exhausted != "raise" for rules in call.rules):
            return None
        lost: dict[str, str] = {}
        for rules, answer in zip(call.rules, response.answers.values(), strict=True):
            rows = answer.part.exhausted
            if rules.on_exhausted == "raise" and rows is not None and rows.any():
                cause = (
                    Cause(int(answer.part.cause[rows][0]))
                    if not isinstance(answer.part.cause, int)
                    else Cause(answer.part.cause)
                )
                lost[answer.view.name] = f"{int(rows.sum())} of {len(rows)} rows: {cause.name.lower()}"
        if not lost:
            return None
        told = "; ".join(f"view {view!r}: {how}" for view, how in lost.items())
        return Exhausted(f"no source could serve {told}", response=response, causes=lost)

    def _compile(self, features: Sequence[str] | str, full: bool) -> Compiled:
        try:
            key = (features if isinstance(features, str) else tuple(features), full)
            found = self._compiled.get(key)
        except TypeError:  # no list, or of things that cannot be names
            msg = f"features wants a list of 'view:feature', or a service; got {features!r}"
            raise RequestError(msg) from None
        if found is None:
            found = compile_features(self.settings, self.layouts, self.rules, key[0], full=full)
            if self.hedge is not None:  # the plan has it, the shortcut has not
                found = replace(found, source=None, way=None if found.way and found.way.online else found.way)
            if len(self._compiled) >= _MOST_COMPILED:
                self._compiled.clear()
            self._compiled[key] = found
        return found

    def _keys(self, compiled: Compiled, entities: Entities) -> tuple[Sequence[Keys], Sequence[Fan]]:
        keys: list[Keys] = []
        fans: list[Fan] = []
        for view, first in zip(compiled.views, compiled.key_of, strict=True):
            if first < len(keys):
                keys.append(keys[first])
                fans.append(fans[first])
                continue
            columns = [entities.column(key.column, view) for key in view.join_keys]
            encoded, inverse, nulls = encode_keys(view.join_keys, columns)
            keys.append(encoded)
            fans.append(Fan(entities.n, len(encoded.ids), inverse, nulls))
        return keys, fans


def some_id() -> str:
    """128 random bits in hex: the id of a request whose caller gave none."""
    return f"{_some_bits(128):032x}"


def _nothing(request: Request) -> Plan[Reading]:
    """The reading of no rows."""
    yield from ()
    return Reading([Part(Rows.blank(ask.layout, 0, Verdict.MISSING), origin=Origin.NONE) for ask in request.asks])


def refusal(settings: Settings) -> str:
    """Why this installation may not inject, in words; nothing if it may."""
    if settings.is_bypassed:
        return "FEATURECHAOS_BYPASS: wanted anything but 1 in the environment to inject faults, got 1"
    if not settings.chaos.enabled:
        return f"{settings.name}: chaos.enabled: wanted true to inject faults, got false"
    if not settings.is_armed:
        return "FEATURECHAOS_CHAOS: wanted 'armed' in the environment of the process that reads, got another or none"
    return ""


def rules_of(settings: Settings, view: View) -> Rules:
    """A view's policy as the layers read it."""
    policy = settings.policies[view.name]
    return Rules(
        online=policy.online,
        local=policy.local,
        ttl_us=_us(view.ttl_s),
        hard_us=_us(view.max_age_s),
        on_missing=policy.on_missing,
        on_expired=policy.on_expired,
        on_exhausted=policy.on_exhausted,
        remembers=policy.last_known is not None,
    )


def keeps_of(settings: Settings, layouts: Mapping[str, Layout]) -> dict[str, Keep]:
    """What is remembered of each stored view: its names share the rows, so the widest of their bounds hold."""
    keeps: dict[str, Keep] = {}
    for name, policy in settings.policies.items():
        if policy.last_known is not None:
            view, want, base = settings.views[name], policy.last_known, settings.views[name].base
            limits = [want.keep_s, *(each for each in (view.ttl_s, view.max_age_s) if each is not None)]
            had = keeps.get(base, Keep(0.0, 0, math.inf))
            keeps[base] = Keep(
                max(had.keep_s, want.keep_s),
                max(had.max_rows, want.max_rows),
                min(had.fresh_s, min(limits) / GENERATIONS),
                None if layouts[name].has_tail else layouts[name].least_bytes,
            )
    return keeps


def budget_of(settings: Settings) -> dict[str, float]:
    """What retries and hedges may spend; where the config has hedges alone, the defaults."""
    retry = settings.policy.retry
    return {} if retry is None else {"ratio": retry.budget_ratio, "burst": float(retry.budget_burst)}


def history_of(rules: Mapping[str, Rules]) -> dict[str, str]:
    """The source that keeps dated rows of each view: the first local one."""
    return {view: each.local[0] for view, each in rules.items() if each.local}


def compile_features(
    settings: Settings,
    layouts: Mapping[str, Layout],
    rules: Mapping[str, Rules],
    features: Sequence[str] | str,
    *,
    full: bool,
) -> Compiled:
    """Read a list of references, or `service:NAME`; RequestError names what is wrong."""
    references = _references(settings, features)
    wanted = tuple(_wanted(settings, reference, full=full) for reference in references)
    _refuse_collisions(wanted)
    names = tuple(dict.fromkeys(one.view for one in wanted))
    views = tuple(settings.views[name] for name in names)
    orders = {rules[name].online for name in names}
    first = next(iter(orders))[:1] if len(orders) == 1 else ()
    columns = _key_columns(views)
    _refuse_key_names(wanted, columns)
    made_of = [[(key.column, str(key.dtype)) for key in view.join_keys] for view in views]
    return Compiled(
        wants=Wants(wanted, columns),
        views=views,
        layouts=tuple(layouts[name] for name in names),
        rules=tuple(rules[name] for name in names),
        key_of=tuple(made_of.index(each) for each in made_of),
        defaults=frozenset(one.view for one in wanted if one.feature.default is not None),
        source=first[0] if first else None,
        way=Way.of([rules[name] for name in names]),
        remembered=_remembered(views, [rules[name] for name in names], made_of),
        one=views[0].join_keys[0] if made_of == made_of[:1] * len(views) and len(made_of[0]) == 1 else None,
        ones=(_ONE,) * len(views),
    )


def _references(settings: Settings, features: Sequence[str] | str) -> Sequence[str]:
    if isinstance(features, str):
        kind, _, name = features.partition(":")
        if kind != "service" or name not in settings.services:
            known = ", ".join(f"service:{name}" for name in settings.services) or "no services"
            msg = f"features wants a list of 'view:feature', or a service; got {features!r} and the config has {known}"
            raise RequestError(msg)
        return settings.services[name]
    if not features:
        raise RequestError("features wants at least one 'view:feature', got an empty list")
    return features


def _wanted(settings: Settings, reference: object, *, full: bool) -> Wanted:
    view_name, colon, name = reference.partition(":") if isinstance(reference, str) else ("", "", "")
    if not colon or not view_name or not name:
        msg = f"features wants 'view:feature', got {reference!r}"
        raise RequestError(msg)
    view = settings.views.get(view_name)
    if view is None:
        msg = f"there is no view {view_name!r}; the config has {', '.join(settings.views)}"
        if view_name == "service":
            msg = f"a service is asked for by itself, not in a list: got {reference!r}"
        raise RequestError(msg)
    feature = view.feature.get(name)
    if feature is None:
        msg = f"view {view_name!r} has no feature {name!r}; it has {', '.join(view.feature)}"
        raise RequestError(msg)
    return Wanted(view_name, feature, f"{view_name}__{name}" if full else name)


def _refuse_collisions(wanted: Sequence[Wanted]) -> None:
    by_out: dict[str, Wanted] = {}
    for one in wanted:
        if (other := by_out.get(one.out)) is None:
            by_out[one.out] = one
        elif other.full == one.full:
            msg = f"features asks for {one.full!r} twice"
            raise RequestError(msg)
        else:
            msg = (
                f"features {other.full!r} and {one.full!r} share the name {one.out!r}; ask with full_feature_names=True"
            )
            raise RequestError(msg)


def _refuse_key_names(wanted: Sequence[Wanted], keys: Mapping[str, View]) -> None:
    """A feature may not go out under the name of a join key: one would hide the other."""
    for one in wanted:
        if one.out in keys:
            msg = f"feature {one.full!r} goes out as {one.out!r}, which is a join key; ask with full_feature_names=True"
            raise RequestError(msg)


def _overridden(rules: Sequence[Rules], max_age_s: float | None, on_exhausted: str | None) -> list[Rules]:
    if on_exhausted not in (None, "default", "raise"):
        msg = f"on_exhausted wants 'default' or 'raise', got {on_exhausted!r}"
        raise RequestError(msg)
    if max_age_s is not None and not _seconds("max_age_s", max_age_s) >= 0:
        msg = f"max_age_s wants seconds of 0 or more, got {max_age_s!r}"
        raise RequestError(msg)
    max_age_us = None if max_age_s is None or max_age_s * 1e6 == math.inf else _us(max_age_s)
    tight = [tightened(each, max_age_us) for each in rules]
    return tight if on_exhausted is None else [replace(each, on_exhausted=on_exhausted) for each in tight]


def _seconds(name: str, value: Any) -> float:
    """A number of seconds as a caller gave it; RequestError for what is none."""
    if isinstance(value, Real) and not isinstance(value, bool) and value == value:  # noqa: PLR0124 - NaN
        with suppress(OverflowError):
            return float(value)
    msg = f"{name} wants a number of seconds, got {value!r}"
    raise RequestError(msg)


def _remembered(views: Sequence[View], rules: Sequence[Rules], made_of: Sequence[Any]) -> Groups:
    """The views whose rows are remembered, by what their keys are made of."""
    groups: dict[int, list[int]] = {}
    for place, each in enumerate(rules):
        if each.remembers:
            groups.setdefault(made_of.index(made_of[place]), []).append(place)
    return tuple((tuple(views[place].base for place in places), tuple(places)) for places in groups.values())


def _key_columns(views: Sequence[View]) -> dict[str, View]:
    columns: dict[str, View] = {}
    for view in views:
        for key in view.join_keys:
            columns.setdefault(key.column, view)
    return columns


def _us(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1e6)
