"""What guarding a read costs when nothing is wrong: our layers, and stacks of the libraries one would take instead.

All guard the same call: one entity of one view, read from a store in this process's memory, where no socket hides the
difference. Then what remembering the last known rows adds to a read from a real server.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import tenacity

from benchmarks.harness import Awaited, Called, Contender, Options, Timing, alternate, main, pinned
from benchmarks.inside import AsyncParts, Parts, SyncParts, aeach, each
from benchmarks.results import Result, Table
from benchmarks.worlds import KEY, MARK, PATIENT, ReadWorld, features_of, references, rows_of, touch, view_of
from featurechaos import AsyncFeatureClient, FeatureClient
from featurechaos.clock import SystemClock
from featurechaos.errors import StoreError
from featurechaos.readings import Request
from featurechaos.serving import Call

ABOUT = """CPU microseconds a request, the best of the rounds and their median, and what is above the bare call. `gives`
says what a stack does; none of the others bounds a blocking call in time, falls back by row, or says where a value came
from. Only the lines of ours check and decode the stored bytes; `read and decode` is that alone. What is well takes a
straight line through the policy, and that is what a request costs; its layers one after another are what anything
else costs."""
BARE, LOOP, OURS, LAYERED, FETCH = (
    "the bare store call",
    "hand-written retry and breaker",
    "featurechaos, default policy",
    "featurechaos, its layers one after another",
    "read and decode",
)
HOOK = "read and decode under the fault hook"
ON, OFF, ANEW = "last-known on", "last-known off", "last-known on, every row written anew"
BATCH = 64
"""Requests a timing; each another entity's."""

Guard = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Stack:
    """One way to guard a call, and what it gives."""

    name: str
    gives: str
    guard: Guard


class Breaker:
    """The least a breaker can be: it opens after five failures in a row. A floor for the others."""

    def __init__(self) -> None:
        self._failures, self._until, self._lock, self._now = 0, 0.0, threading.Lock(), SystemClock().monotonic

    def __call__(self, call: Guard, asked: Any) -> Any:
        if self._until and self._now() < self._until:
            raise StoreError("open")
        try:
            got = call(asked)
        except StoreError:
            with self._lock:
                self._failures += 1
                if self._failures >= 5:
                    self._until = self._now() + 1.0
            raise
        if self._failures:
            with self._lock:
                self._failures = 0
        return got


def by_hand(call: Guard) -> Guard:
    breaker = Breaker()

    def guarded(asked: Any) -> Any:
        for attempt in (0, 1):
            try:
                return breaker(call, asked)
            except StoreError:
                if attempt:
                    raise
        return None

    return guarded


def sync_stacks(call: Guard) -> Iterator[Stack]:
    """The libraries that are installed, guarding `call` as their documents say."""
    wait = tenacity.wait_random_exponential(0.002, max=0.01)
    retrying = tenacity.Retrying(stop=tenacity.stop_after_attempt(2), wait=wait, reraise=True)
    yield Stack("tenacity", "retry", lambda asked: retrying(call, asked))
    if find_spec("stamina"):
        stamina = import_module("stamina")
        caller = stamina.RetryingCaller(attempts=2, wait_initial=0.002).on(StoreError)
        yield Stack("stamina", "retry", lambda asked: caller(call, asked))
    if find_spec("pybreaker"):
        pybreaker = import_module("pybreaker")
        breaker, both = pybreaker.CircuitBreaker(), pybreaker.CircuitBreaker()
        yield Stack("pybreaker", "breaker", lambda asked: breaker.call(call, asked))
        inner = tenacity.retry(stop=tenacity.stop_after_attempt(2), wait=wait, reraise=True)(call)
        yield Stack("pybreaker over tenacity", "retry, breaker", lambda asked: both.call(inner, asked))


async def async_stacks(call: Callable[[Any], Awaitable[Any]]) -> list[Stack]:
    """The same for asyncio; made on the loop, since hyx wants one."""
    wait = tenacity.wait_random_exponential(0.002, max=0.01)
    retrying = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(2), wait=wait, reraise=True)

    async def with_timeout(asked: Any) -> Any:
        async with asyncio.timeout(1):
            return await call(asked)

    stacks = [
        Stack("asyncio.timeout", "deadline", with_timeout),
        Stack("tenacity", "retry", lambda asked: retrying(call, asked)),
    ]
    if find_spec("stamina"):
        stamina = import_module("stamina")
        caller = stamina.AsyncRetryingCaller(attempts=2, wait_initial=0.002).on(StoreError)
        stacks.append(Stack("stamina", "retry", lambda asked: caller(call, asked)))
    if find_spec("hyx"):
        stacks.append(Stack("hyx", "deadline, retry, breaker, fallback of the whole call", hyx_stack(call)))
    return stacks


def hyx_stack(call: Callable[[Any], Awaitable[Any]]) -> Guard:
    breaker = import_module("hyx.circuitbreaker").consecutive_breaker(
        exceptions=StoreError, failure_threshold=5, recovery_time_secs=1, recovery_threshold=3
    )
    retry = import_module("hyx.retry").retry(on=StoreError, attempts=2, backoff=0.002)
    timeout = import_module("hyx.timeout").timeout(1.0)

    async def nothing(*_: Any, **__: Any) -> None:
        return None

    fallback = import_module("hyx.fallback").fallback(nothing, on=StoreError)

    # Called with no arguments of its own, hyx's decorators pass on what the guarded function gets.
    async def read(asked: Any) -> Any:
        return await call(asked)

    guarded: Guard = fallback(retry(breaker(timeout(read))))
    return guarded


class Batches:
    """Batches of requests, each for the next entity, made before the clock runs."""

    def __init__(self, parts: Parts, seed: int) -> None:
        self._parts, self._at = parts, seed

    def requests(self, _: Any) -> list[Call]:
        return [self._parts.call(self._rows()) for _ in range(BATCH)]

    def addressed(self, _: Any) -> list[Request]:
        return [self._parts.addressed(self._rows()) for _ in range(BATCH)]

    def _rows(self) -> list[dict[str, int]]:
        self._at += 1
        return [{KEY: self._at % ENTITIES}]


ENTITIES = 1000


def config(**policy: Any) -> dict[str, Any]:
    return {
        "project": "bench",
        "sources": {"primary": {"type": "memory", "timeout_s": 10.0}},
        "views": [view_of("b")],
        "policy": {**PATIENT, **policy},
    }


def rows() -> dict[str, Any]:
    columns: dict[str, Any] = {name: [0.5] * ENTITIES for name in features_of("b")}
    when = datetime.fromtimestamp(SystemClock().wall(), UTC) - timedelta(hours=1)
    return {KEY: list(range(ENTITIES)), "event_timestamp": [when] * ENTITIES, **columns}


def guards(options: Options) -> tuple[dict[str, Timing], list[Stack]]:
    """The bare call, and what guards it, for threads."""
    with FeatureClient.from_config(config()) as client:
        client.write_to_online_store("b", rows())
        parts = SyncParts(client, references(["b"]))
        batches = Batches(parts, options.seed)
        inside = [
            Stack(BARE, "", parts.bare),
            Stack(LOOP, "retry, breaker", by_hand(parts.bare)),
            *sync_stacks(parts.bare),
            Stack(FETCH, "columns, ages judged", parts.fetched),
            Stack(HOOK, "", parts.hooked),
        ]
        contenders: list[Contender] = [
            Called(one.name, each(one.guard), batches.addressed, per=BATCH) for one in inside
        ]
        ours = [Stack(OURS, "all of it, by row", parts.whole), Stack(LAYERED, "the same", parts.layered)]
        contenders += [Called(one.name, each(one.guard), batches.requests, per=BATCH) for one in ours]
        return alternate(contenders, rounds=options.rounds, calls=options.pick(6, 2)), [*inside, *ours]


def without(options: Options) -> dict[str, Timing]:
    """Our stack with one layer left out at a time: what each costs."""
    with ExitStack() as ends:
        contenders: list[Contender] = []
        for name, policy in {OURS: {}, **{f"without {one}": {one: None} for one in LAYERS}}.items():
            client = ends.enter_context(FeatureClient.from_config(config(**policy)))
            client.write_to_online_store("b", rows())
            parts = SyncParts(client, references(["b"]))
            contenders.append(Called(name, each(parts.whole), Batches(parts, options.seed).requests, per=BATCH))
        return alternate(contenders, rounds=options.rounds, calls=options.pick(6, 2))


LAYERS = ("retry", "breaker", "empty", "last_known")


def aguards(options: Options) -> tuple[dict[str, Timing], list[Stack]]:
    """The same for asyncio."""
    loop = asyncio.new_event_loop()
    client = AsyncFeatureClient.from_config(config())
    try:
        loop.run_until_complete(client.write_to_online_store("b", rows()))
        parts = AsyncParts(client, references(["b"]))
        batches = Batches(parts, options.seed)
        inside = [Stack(BARE, "", parts.bare), *loop.run_until_complete(async_stacks(parts.bare))]
        contenders: list[Contender] = [
            Awaited(one.name, aeach(one.guard), loop, batches.addressed, per=BATCH) for one in inside
        ]
        ours = [Stack(OURS, "all of it, by row", parts.whole), Stack(LAYERED, "the same", parts.layered)]
        contenders += [Awaited(one.name, aeach(one.guard), loop, batches.requests, per=BATCH) for one in ours]
        return alternate(contenders, rounds=options.rounds, calls=options.pick(6, 2)), [*inside, *ours]
    finally:
        loop.run_until_complete(client.close())
        loop.close()


def remembering(options: Options, world: ReadWorld) -> dict[str, dict[str, Timing]]:
    """100 x 3 and 1 x 1 from a real server, with last-known rows remembered and not."""
    # A row read again is written again after an eighth of this: at once.
    policies: dict[str, dict[str, Any]] = {
        ON: {},
        OFF: {"last_known": None},
        ANEW: {"last_known": {"keep_s": 0.001}},
    }
    timings = {}
    for entities, views in ((1, ("b",)), (100, world.views)):
        contenders: list[Contender] = [
            Called(name, reader(world.client(**policy), views), rows_of, mark_of, world.mark)
            for name, policy in policies.items()
        ]
        timings[f"{entities} x {len(views)}"] = alternate(
            contenders,
            draw=lambda entities=entities: world.draw(entities),  # type: ignore[misc]
            rounds=options.rounds,
            calls=options.pick(16, 2),
        )
    return timings


def reader(client: FeatureClient, views: Sequence[str]) -> Guard:
    wanted = references(views)
    return lambda rows: touch(client.get_online_features(wanted, rows))


def mark_of(got: Any, ask: Any) -> float:
    return float(got.columns[MARK][-1])


def measure(options: Options) -> Result:
    result = Result("policy", ABOUT, options.seed, options.is_quick)
    result.missing = [name for name in ("stamina", "pybreaker", "hyx") if not find_spec(name)]
    with pinned():
        sync, stacks = guards(options)
        layers = without(options)
        waiting, astacks = aguards(options)
        with ReadWorld(options.pick(3000, 200), options.seed) as world:
            remembered = remembering(options, world)
    result.tables = [
        guard_table("Guarding a blocking call", sync, stacks),
        guard_table("Guarding a coroutine", waiting, astacks),
        layer_table(layers),
        remember_table(remembered),
    ]
    result.measured = {
        "policy": sync[OURS].cpu_best_us - sync[BARE].cpu_best_us,
        "hook_idle": max(0.0, sync[HOOK].cpu_best_us - sync[FETCH].cpu_best_us),
        "last_known": max(0.0, 100 * (remembered["100 x 3"][ON].against(remembered["100 x 3"][OFF])[0] - 1)),
    }
    return result


def guard_table(title: str, timings: dict[str, Timing], stacks: Sequence[Stack]) -> Table:
    table = Table(title, ["stack", "gives", "CPU us", "median", "above bare"])
    bare = timings[BARE].cpu_best_us
    for one in stacks:
        timing = timings[one.name]
        table.rows.append([one.name, one.gives, timing.cpu_best_us, timing.cpu_median_us, timing.cpu_best_us - bare])
    return table


def layer_table(timings: dict[str, Timing]) -> Table:
    table = Table("What each layer costs", ["stack", "CPU us", "median", "saved by leaving it out"])
    whole = timings[OURS].cpu_best_us
    for name, timing in timings.items():
        table.rows.append([name, timing.cpu_best_us, timing.cpu_median_us, whole - timing.cpu_best_us])
    return table


def remember_table(timings: dict[str, dict[str, Timing]]) -> Table:
    table = Table(
        "Remembering the last known rows, read from a real server",
        ["entities x views", "client", "p50 us", "CPU us", "x off", "quartiles"],
        note="A row seen again within an eighth of `keep_s` is not written anew; the last line shows what if it were.",
    )
    for shape, by_name in timings.items():
        for name, timing in by_name.items():
            ratio, low, high = timing.against(by_name[OFF])
            table.rows.append(
                [shape, name, timing.p50_us, timing.cpu_best_us, round(ratio, 3), f"{low:.3f} to {high:.3f}"]
            )
    return table


if __name__ == "__main__":
    main(measure, __doc__)
