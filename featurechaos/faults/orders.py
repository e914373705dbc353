"""What another process asks to have injected, as it comes over the wire, and what it is told back."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from featurechaos.errors import RequestError
from featurechaos.faults import Delay, Fault, Outage, Stale
from featurechaos.faults.board import Lease

MOST_LEASE_S = 3600.0
"""A controller that wants longer asks again; one that hangs must not hold a fault for ever."""
_MOST_FAULTS = 16

M = TypeVar("M", bound=BaseModel)
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Words = Annotated[str, Field(min_length=1, max_length=500)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _read(model: type[M], body: bytes, about: str) -> M:
    """A body from JSON; RequestError names the place, what was wanted and what came."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        msg = f"{about}: {where}: {first['msg']}, got {first['input']!r:.60}"
        raise RequestError(msg) from None


class OutageBody(_Body):
    """An `Outage`."""

    fault: Literal["outage"]
    source: Words
    mode: Literal["refuse", "hang"] = "refuse"

    def made(self) -> Fault:
        return Outage(self.source, self.mode)


class DelayBody(_Body):
    """A `Delay`."""

    fault: Literal["delay"]
    source: Words
    delay_s: Seconds
    spread: Annotated[float, Field(ge=0, le=10)] = 0.0

    def made(self) -> Fault:
        return Delay(self.source, self.delay_s, self.spread)


class StaleBody(_Body):
    """A `Stale`."""

    fault: Literal["stale"]
    view: Words
    age_s: Seconds
    visible: bool = True

    def made(self) -> Fault:
        return Stale(self.view, self.age_s, self.visible)


class Order(_Body):
    """Faults for a share of keys or requests, held by whoever sends it; the arguments of `Board.inject`."""

    faults: Annotated[
        list[Annotated[OutageBody | DelayBody | StaleBody, Field(discriminator="fault")]],
        Field(min_length=1, max_length=_MOST_FAULTS),
    ]
    share: Annotated[float, Field(ge=0, le=1)]
    lease_s: Annotated[Seconds, Field(le=MOST_LEASE_S)]
    seed: int
    reason: Words
    control: bool = True
    who: Annotated[str, Field(max_length=100)] = ""

    @classmethod
    def read(cls, body: bytes) -> Order:
        """An order from JSON; RequestError names the place, what was wanted and what came."""
        return _read(cls, body, "faults")

    def made(self) -> list[Fault]:
        return [body.made() for body in self.faults]


class SteerOrder(_Body):
    """What is to be done with a source, by whom and why."""

    order: Literal["drain", "hold", "auto"]
    reason: Words
    who: Annotated[str, Field(max_length=100)] = ""

    @classmethod
    def read(cls, body: bytes) -> SteerOrder:
        """An order from JSON; RequestError names the place, what was wanted and what came."""
        return _read(cls, body, "sources")


class ReloadOrder(_Body):
    """That a service reads its own config anew; by whom."""

    who: Annotated[str, Field(max_length=100)] = ""

    @classmethod
    def read(cls, body: bytes) -> ReloadOrder:
        """An order from JSON; RequestError names the place, what was wanted and what came."""
        return _read(cls, body, "reload")


def body_of(fault: Fault) -> dict[str, Any]:
    """A fault as it is written in an order."""
    own: dict[str, Any]
    if isinstance(fault, Outage):
        own = {"source": fault.source, "mode": fault.mode}
    elif isinstance(fault, Delay):
        own = {"source": fault.source, "delay_s": fault.delay_s, "spread": fault.spread}
    else:
        own = {"view": fault.view, "age_s": fault.age_s, "visible": fault.visible}
    return {"fault": fault.name.partition(":")[0], **own}


def told_of(lease: Lease, now: float) -> dict[str, Any]:
    """A lease as whoever lists the faults is told of it."""
    return {
        **body_of(lease.fault),
        "share": lease.share,
        "control_share": lease.control_share,
        "left_s": round(max(0.0, lease.until - now), 3),
        "reason": lease.reason,
        "applied": lease.applied,
        "not_applied": lease.not_applied,
        "control": lease.control,
    }
