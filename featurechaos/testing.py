"""What tests of serving code need: a clock that is turned by hand, a store in memory, answers made to order.

`StoreContract` and `AsyncStoreContract`, the suite every adapter passes, are here too, but come from
`featurechaos.contract` when first asked for: they need pytest.
"""

from __future__ import annotations

import struct
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from featurechaos.effects import All, Describe, Effect, First, Note, Plan, Read, Sleep
from featurechaos.engine import readable
from featurechaos.errors import FeatureError, StoreUnavailable
from featurechaos.stores import Answer, Ask, AsyncStore, Batch, Place, WriteCounts

if TYPE_CHECKING:
    from featurechaos.contract import AsyncStoreContract, StoreContract

T = TypeVar("T")

__all__ = [
    "AsyncMemoryStore",
    "AsyncStoreContract",
    "ManualClock",
    "MemorySpec",
    "MemoryStore",
    "StoreContract",
    "Told",
    "event_time_of",
    "play",
]

_CONTRACT = "featurechaos.contract"


def __getattr__(name: str) -> Any:
    """The contract suite, on first use; a test run without pytest is none."""
    if name not in ("StoreContract", "AsyncStoreContract"):
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    if _CONTRACT not in sys.modules:
        import_module("pytest").register_assert_rewrite(_CONTRACT)
    return getattr(import_module(_CONTRACT), name)


class ManualClock:
    """A clock that stands still until it is moved; `advance` moves both, `jump` the wall clock alone."""

    def __init__(self, wall_s: float = 1_800_000_000.0) -> None:
        self._wall, self._monotonic = wall_s, 1000.0

    def wall(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._wall += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        self._wall += seconds

    def __repr__(self) -> str:
        return f"ManualClock({self._wall}, {self._monotonic})"


class MemorySpec(BaseModel):
    """A source held in this process's memory; nothing of it survives the process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["memory"] = "memory"
    timeout_s: float = 0.015


class MemoryStore:
    """A source in memory that keeps every version it was given, so that `as_of` works.

    `fail_with` set to an error makes every call raise it; `reads` counts the calls.
    """

    bounded: ClassVar[bool] = True
    writable: ClassVar[bool] = True
    spec: ClassVar[type[BaseModel]] = MemorySpec

    def __init__(self, source: str = "memory") -> None:
        self.source = source
        self.fail_with: FeatureError | None = None
        self.reads = 0
        self.rows: dict[bytes, list[bytes]] = {}
        self.described: dict[int, bytes] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, spec: Any, place: Place) -> MemoryStore:  # noqa: ARG003 - a store's signature
        return cls(place.source)

    @classmethod
    def aopen(cls, spec: Any, place: Place) -> AsyncStore:  # noqa: ARG003 - a store's signature
        return AsyncMemoryStore(cls(place.source))

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        self.reads += 1
        self._may_fail()
        return [[self._row(ask.view.head + key, as_of_us) for key in ask.keys.ids] for ask in asks]

    def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        self._may_fail()
        return {h: self.described[h] for h in hashes if h in self.described}

    def write(self, batch: Batch, until: float) -> WriteCounts:
        self._may_fail()
        self.described[batch.ask.layout.hash] = batch.ask.layout.describe()
        counts = WriteCounts()
        with self._lock:
            for key, blob in zip(batch.ask.keys.ids, batch.blobs, strict=True):
                versions = self.rows.setdefault(batch.ask.view.head + key, [])
                if versions and event_time_of(blob) < event_time_of(versions[-1]):
                    counts.older += 1
                else:
                    versions.append(blob)
                    counts.written += 1
        return counts

    def close(self) -> None:
        """Nothing to let go of."""

    def put(self, ask: Ask, blobs: Sequence[bytes | None]) -> None:
        """Set what is stored, whatever it is: foreign, damaged or none."""
        for key, blob in zip(ask.keys.ids, blobs, strict=True):
            self.rows[ask.view.head + key] = [] if blob is None else [blob]

    def _row(self, key: bytes, as_of_us: int | None) -> bytes | None:
        versions = self.rows.get(key, ())
        if as_of_us is not None:
            versions = [blob for blob in versions if event_time_of(blob) <= as_of_us]
        return versions[-1] if versions else None

    def _may_fail(self) -> None:
        if self.fail_with is not None:
            raise self.fail_with


class AsyncMemoryStore:
    """The same store for asyncio."""

    bounded: ClassVar[bool] = True
    writable: ClassVar[bool] = True

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    async def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        return self.store.read(asks, until, as_of_us=as_of_us)

    async def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        return self.store.layouts(project, hashes, until)

    async def write(self, batch: Batch, until: float) -> WriteCounts:
        return self.store.write(batch, until)

    async def close(self) -> None:
        """Nothing to let go of."""


def event_time_of(blob: bytes) -> int:
    """The event time in a packed row's header, microseconds; the smallest int64 if it is too short for one."""
    return int(struct.unpack_from("<q", blob, 16)[0]) if len(blob) >= 24 else int(np.iinfo(np.int64).min)


@dataclass
class Told:
    """What a played plan did: its effects in order, what it returned or raised, the time it slept."""

    effects: list[Effect] = field(default_factory=list)
    result: Any = None
    error: Exception | None = None
    slept_s: float = 0.0

    @property
    def reads(self) -> list[str]:
        """The sources asked, in order."""
        return [effect.source for effect in self.effects if isinstance(effect, Read)]

    @property
    def notes(self) -> list[str]:
        """The names of the things that happened, in order."""
        return [effect.name for effect in self.effects if isinstance(effect, Note)]


Script = Mapping[str, Any]
"""source -> what each read of it gives: a store to ask, an error to raise, or an iterator of those."""


def play(plan: Plan[T], sources: Script, clock: ManualClock) -> Told:
    """Run a plan against scripted sources on a clock turned by its own sleeps, and tell what it did."""
    told = Told()
    turns = {name: _turns(given) for name, given in sources.items()}
    try:
        effect = next(plan)
        while True:
            told.effects.append(effect)
            try:
                result = _given(effect, turns, clock, told)
            except Exception as error:  # noqa: BLE001 - the plan decides what an error means
                effect = plan.throw(error)
            else:
                effect = plan.send(result)
    except StopIteration as stop:
        told.result = stop.value
    except FeatureError as error:
        told.error = error
    finally:
        plan.close()
    return told


def _turns(given: Any) -> Iterator[Any]:
    if isinstance(given, Iterator):
        return given

    def same() -> Iterator[Any]:
        while True:
            yield given

    return same()


def _given(effect: Effect, turns: Mapping[str, Iterator[Any]], clock: ManualClock, told: Told) -> Any:
    if isinstance(effect, Sleep):
        clock.advance(effect.seconds)
        told.slept_s += effect.seconds
        return None
    if isinstance(effect, Note):
        return None
    if isinstance(effect, All):
        return [_inner(play(plan, turns, clock), told) for plan in effect.plans]
    if isinstance(effect, First):
        return _inner(play(effect.plans[0], turns, clock), told)
    turn = next(turns[effect.source], StoreUnavailable(f"source {effect.source!r} has no more turns"))
    if isinstance(turn, Exception):
        raise turn
    if isinstance(effect, Describe):
        return readable(turn.layouts(effect.project, effect.hashes, effect.until))
    return turn.read(effect.asks, effect.until, as_of_us=effect.as_of_us)


def _inner(inner: Told, told: Told) -> Any:
    told.effects += inner.effects
    if inner.error is not None:
        raise inner.error
    return inner.result
