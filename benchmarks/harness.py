"""How the benches measure: contenders take turns on one core, each turn on rows no turn before it asked for.

The rules, the same for all:
- Client and server share one core (`pinned`): on a virtual machine the wake-up of a halted core costs
  20 to 600 us and would drown what is measured.
- Contenders alternate within one run, in an order that rotates: drift falls on all alike. A ratio is the median
  over the rounds of a contender's median against its peer's in the same round.
- Absolute microseconds are thread CPU time of the caller: the least of the rounds' means.
- Before each turn a value is written to a row that the turn's last call asks for, past the client that reads, and
  that call must give it back: no answer kept from before counts.
- The first call of a turn is kept apart ("cold"): its code and data have been pushed out of the caches.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import REPORTS, Result, environment

ROUNDS, QUICK_ROUNDS = 30, 3
_LOOK_S = 0.2
_HASTE = -10
_SESSION = Path("/proc/self/autogroup")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    seed: int = 7
    is_quick: bool = False

    @property
    def rounds(self) -> int:
        return QUICK_ROUNDS if self.is_quick else ROUNDS

    def pick(self, full: Any, quick: Any) -> Any:
        """A size for a run whose numbers count, or for a smoke test."""
        return quick if self.is_quick else full


@dataclass(frozen=True, slots=True)
class Turn:
    """Some calls, one after another: wall and thread CPU time of each, ns; and what the last one gave back."""

    wall_ns: Sequence[float]
    cpu_ns: Sequence[float]
    seen: Any = None


class Contender(Protocol):
    """Something that takes turns. `write(ask)` puts a new value where the ask will find it and returns it."""

    name: str
    every: int

    def write(self, ask: Any) -> Any: ...

    def turn(self, asks: Sequence[Any]) -> Turn: ...


def nothing_written(ask: Any) -> Any:
    return None


def nothing_seen(got: Any, ask: Any) -> Any:
    return None


def as_drawn(ask: Any) -> Any:
    return ask


@dataclass(slots=True)
class Called:
    """A contender in this process: `ready` makes the argument outside the time, `call` is timed, `seen` looks at it.

    `per`: how many of what is counted one call does, where one alone is too short for a clock; `every`: takes part in
    each `every`-th round, for what is slow.
    """

    name: str
    call: Callable[[Any], Any]
    ready: Callable[[Any], Any] = as_drawn
    seen: Callable[[Any, Any], Any] = nothing_seen
    write: Callable[[Any], Any] = nothing_written
    per: int = 1
    every: int = 1

    def turn(self, asks: Sequence[Any]) -> Turn:
        call, wall, cpu, got = self.call, [], [], None
        arguments = [self.ready(ask) for ask in asks]
        for argument in arguments:
            cpu_0, wall_0 = time.thread_time_ns(), time.perf_counter_ns()
            got = call(argument)
            wall_1, cpu_1 = time.perf_counter_ns(), time.thread_time_ns()
            wall.append((wall_1 - wall_0) / self.per)
            cpu.append((cpu_1 - cpu_0) / self.per)
        return Turn(wall, cpu, self.seen(got, asks[-1]))


@dataclass(slots=True)
class Awaited:
    """The same for a coroutine function, on one event loop for all."""

    name: str
    call: Callable[[Any], Awaitable[Any]]
    loop: asyncio.AbstractEventLoop
    ready: Callable[[Any], Any] = as_drawn
    seen: Callable[[Any, Any], Any] = nothing_seen
    write: Callable[[Any], Any] = nothing_written
    per: int = 1
    every: int = 1

    def turn(self, asks: Sequence[Any]) -> Turn:
        return self.loop.run_until_complete(self._turn(asks))

    async def _turn(self, asks: Sequence[Any]) -> Turn:
        call, wall, cpu, got = self.call, [], [], None
        arguments = [self.ready(ask) for ask in asks]
        for argument in arguments:
            cpu_0, wall_0 = time.thread_time_ns(), time.perf_counter_ns()
            got = await call(argument)
            wall_1, cpu_1 = time.perf_counter_ns(), time.thread_time_ns()
            wall.append((wall_1 - wall_0) / self.per)
            cpu.append((cpu_1 - cpu_0) / self.per)
        return Turn(wall, cpu, self.seen(got, asks[-1]))


@dataclass(slots=True)
class Timing:
    """One contender's turns of a run: by round, the times of the calls in us, the first of each turn apart."""

    name: str
    wall_us: dict[int, list[float]] = field(default_factory=dict)
    cold_us: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def add(self, at: int, turn: Turn) -> None:
        skip = 1 if len(turn.wall_ns) > 1 else 0
        self.wall_us[at] = [ns / 1e3 for ns in turn.wall_ns[skip:]]
        self.cold_us.append(turn.wall_ns[0] / 1e3)
        self.cpu_us.append(float(np.mean(turn.cpu_ns[skip:])) / 1e3)

    @property
    def p50_us(self) -> float:
        return float(np.median(self._all()))

    @property
    def p99_us(self) -> float:
        return float(np.quantile(self._all(), 0.99))

    @property
    def best_us(self) -> float:
        """The fastest call: what a busy machine spoils least."""
        return float(self._all().min())

    @property
    def first_us(self) -> float:
        """The median of the first calls of the turns."""
        return float(np.median(self.cold_us))

    @property
    def cpu_best_us(self) -> float:
        return min(self.cpu_us)

    @property
    def cpu_median_us(self) -> float:
        return float(np.median(self.cpu_us))

    def against(self, peer: Timing) -> tuple[float, float, float]:
        """Times the peer's: the median over the rounds both took part in, and the quartiles."""
        rounds = sorted(self.wall_us.keys() & peer.wall_us.keys())
        ratios = [float(np.median(self.wall_us[at]) / np.median(peer.wall_us[at])) for at in rounds]
        low, mid, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        return float(mid), float(low), float(high)

    def _all(self) -> NDArray[np.float64]:
        return np.concatenate([np.asarray(one) for one in self.wall_us.values()])


class WrongValue(Exception):
    """A contender gave back something else than what was just written: its times would say nothing."""


def alternate(
    contenders: Sequence[Contender],
    *,
    draw: Callable[[], Any] = lambda: None,
    rounds: int = ROUNDS,
    calls: int = 4,
) -> dict[str, Timing]:
    """Let contenders take turns of `calls` calls, each on a new draw; one round before the first is not counted."""
    timings = {one.name: Timing(one.name) for one in contenders}
    gc.collect()
    gc.freeze()
    try:
        for at in range(-1, rounds):
            turning = at % len(contenders)
            for one in (*contenders[turning:], *contenders[:turning]):
                if at % one.every and at >= 0:
                    continue
                asks = [draw() for _ in range(calls)]
                written = one.write(asks[-1])
                turn = one.turn(asks)
                if turn.seen != written:
                    msg = f"{one.name} gave {turn.seen!r} where {written!r} had just been written"
                    raise WrongValue(msg)
                if at >= 0:
                    timings[one.name].add(at, turn)
    finally:
        gc.unfreeze()
    return timings


@contextmanager
def pinned() -> Iterator[None]:
    """Hold this process, and the children it starts meanwhile, on the idlest core, where the system can.

    And before the neighbours' work, where we may say so. Where Linux shares the machine out by sessions, ours and a
    server's count alike: a reader whose session goes first gets its core back in the midst of a reply.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    niceness, session = os.getpriority(os.PRIO_PROCESS, 0), session_niceness()
    os.sched_setaffinity(0, {idlest(before)})
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _HASTE)
    give_session("0")
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        os.setpriority(os.PRIO_PROCESS, 0, max(niceness, os.getpriority(os.PRIO_PROCESS, 0)))
        give_session(session)


def session_niceness() -> str:
    """The niceness of the session this process belongs to; nothing where there is no such thing."""
    try:
        return _SESSION.read_text(encoding="utf-8").split()[-1]
    except (OSError, IndexError):
        return ""


def give_session(niceness: str) -> None:
    """Give this session that niceness, where that can be done."""
    if niceness and niceness != session_niceness():
        with suppress(OSError):
            _SESSION.write_text(f"{niceness}\n", encoding="utf-8")


def idlest(cores: Iterable[int]) -> int:
    """The core that had least to do in the last moment; the last one where nobody knows."""
    before = idle_ticks()
    threading.Event().wait(_LOOK_S)
    after = idle_ticks()
    return max(cores, key=lambda core: (after.get(core, 0) - before.get(core, 0), core))


def idle_ticks() -> dict[int, int]:
    """Core -> ticks it has idled since the machine started."""
    try:
        lines = Path("/proc/stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    rows = [line.split() for line in lines if line.startswith("cpu") and not line.startswith("cpu ")]
    return {int(row[0].removeprefix("cpu")): int(row[4]) for row in rows}


Measure = Callable[[Options], Result]


def play(measure: Measure, options: Options, folder: Path | None = None) -> Result:
    """Run one bench and keep what it found; a smoke test's numbers lie apart from those that count."""
    begun = time.perf_counter()
    before = environment()
    result = measure(options)
    result.took_s = round(time.perf_counter() - begun, 1)
    result.environment = {**before, "load_after": environment()["load"]}
    result.save(folder or (REPORTS / "quick" if options.is_quick else REPORTS))
    return result


def parser(about: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=about)
    made.add_argument("--quick", action="store_true", help="a smoke test: a few rounds, numbers that say nothing")
    made.add_argument("--json", action="store_true", help="print JSON instead of tables")
    made.add_argument("--seed", type=int, default=7)
    return made


def main(measure: Measure, about: str | None) -> None:
    """The command line of one bench."""
    arguments = parser(about).parse_args()
    result = play(measure, Options(arguments.seed, arguments.quick))
    print(json.dumps(asdict(result)) if arguments.json else result.markdown())
    sys.stdout.flush()
