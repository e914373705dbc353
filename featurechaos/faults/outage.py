"""A source that does not answer: refused at once, or silent until the caller gives up.

Stands for a dead node (refuse) and a frozen or partitioned one (hang). A healthy service serves the rows from
the next tier inside its deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from featurechaos.clock import Clock
from featurechaos.effects import Plan, sleep
from featurechaos.errors import InjectedOutage, StoreTimeout
from featurechaos.readings import Reading, Request


@dataclass(frozen=True, slots=True)
class Outage:
    """No answer from `source`: `mode` refuse fails at once, hang takes all the time the caller gives it."""

    source: str
    mode: Literal["refuse", "hang"] = "refuse"

    def __post_init__(self) -> None:
        if self.mode not in ("refuse", "hang"):
            msg = f"Outage wants the mode refuse or hang, got {self.mode!r}"
            raise ValueError(msg)

    @property
    def name(self) -> str:
        return f"outage:{self.source}"

    def strike(self, request: Request, clock: Clock) -> Plan[Reading]:
        """What the source's caller meets instead of an answer."""
        if self.mode == "hang":
            yield from sleep(max(0.0, request.until - clock.monotonic()))
            raise timed_out(self.source)
        msg = f"source {self.source!r} refused the connection"
        raise InjectedOutage(msg)


def timed_out(source: str) -> StoreTimeout:
    """The timeout a real hang would give, marked as ours for provenance only."""
    error = StoreTimeout(f"source {source!r} gave no answer in time")
    error.injected = True
    return error
