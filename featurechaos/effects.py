"""The few things a plan may ask for, and the shape that policies and faults share.

A *plan* is a generator: it yields effects, is sent their results, and returns a value. A *layer* takes a
request and the next layer, and gives a plan. Only `engine.py` performs effects. What time it is, is no
effect: layers that need it are given a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from featurechaos.codec import Layout
from featurechaos.readings import Reading, Request
from featurechaos.stores import Answer, Ask

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Read:
    """Ask one source; the result is one answer an ask. Abandoning it closes its connection."""

    source: str
    asks: Sequence[Ask]
    until: float
    as_of_us: int | None = None


@dataclass(slots=True, eq=False)
class Describe:
    """Ask a source how rows of these schema hashes are laid out; the result maps the known ones."""

    source: str
    project: str
    hashes: Sequence[int]
    until: float


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait, in monotonic seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Note:
    """Tell the listeners that one thing happened; names are in `events.py`."""

    name: str
    about: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class All:
    """Run plans side by side; the result is a list of theirs. The first error ends the others."""

    plans: Sequence[Plan[Any]]


@dataclass(slots=True, eq=False)
class First:
    """Run plans one after another, each `after_s` later than the last or as soon as it failed; the first result
    wins and the others are closed. The last error is raised if all fail."""

    plans: Sequence[Plan[Any]]
    after_s: float


Effect = Read | Describe | Sleep | Note | All | First
Plan = Generator[Effect, Any, T]
Next = Callable[[Request], Plan[Reading]]


class Layer(Protocol):
    """A policy or a fault: a request and the next layer in, a plan out."""

    def __call__(self, request: Request, inner: Next) -> Plan[Reading]: ...


def stack(layers: Sequence[Layer], inner: Next) -> Next:
    """Put layers around a plan, outermost first: `stack([a, b], fetch)` reads `a(b(fetch))`."""
    for layer in reversed(layers):
        inner = _around(layer, inner)
    return inner


def _around(layer: Layer, inner: Next) -> Next:
    def plan(request: Request) -> Plan[Reading]:
        return layer(request, inner)

    return plan


def read(request: Request, *, as_of_us: int | None = None) -> Plan[list[Answer]]:
    """Ask the request's source for its rows."""
    answers: list[Answer] = yield Read(request.source, request.asks, request.until, as_of_us)
    return answers


def describe(request: Request, project: str, hashes: Sequence[int]) -> Plan[dict[int, Layout]]:
    """Ask the request's source for the layouts of some schema hashes."""
    found: dict[int, Layout] = yield Describe(request.source, project, hashes, request.until)
    return found


def sleep(seconds: float) -> Plan[None]:
    """Wait."""
    yield Sleep(seconds)


def note(name: str, about: str = "", **fields: Any) -> Plan[None]:
    """Tell that one thing happened."""
    yield Note(name, about, fields)


def together(plans: Sequence[Plan[T]]) -> Plan[list[T]]:
    """Run plans side by side."""
    results: list[T] = yield All(plans)
    return results


def fastest(plans: Sequence[Plan[T]], *, after_s: float) -> Plan[T]:
    """Run the next plan when the one before is late or failed; the first to answer wins."""
    result: T = yield First(plans, after_s)
    return result
