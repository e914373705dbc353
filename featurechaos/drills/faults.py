"""The faults a drill file may inject, as values: what, where, and for how large a share."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from featurechaos.drills.values import Duration, Flag, Seconds, Seed, Share, Spec, Text


class FaultSpec(Spec):
    """One fault. `is_process`: done to a server, so it hits everyone and takes no share."""

    is_process: ClassVar[bool] = False

    fault: Text
    for_s: Duration | None = None

    @property
    def target(self) -> str:
        """What it strikes: a source's or a view's name."""
        return str(getattr(self, "source", None) or getattr(self, "view", ""))

    @property
    def load_share(self) -> float:
        """The share of traffic it and its control group take from the cap."""
        return 0.0


class _ClientFault(FaultSpec):
    """A fault inside the client, decided by hash for each call or row, held by a lease."""

    share: Share
    seed: Seed | None = None
    control: Flag = False
    lease_s: Duration | None = None

    @property
    def load_share(self) -> float:
        return self.share * (2 if self.control else 1)


class OutageSpec(_ClientFault):
    fault: Literal["outage"]
    source: Text
    mode: Literal["refuse", "hang"] = "refuse"
    share: Share = 1.0


class DelaySpec(_ClientFault):
    fault: Literal["delay"]
    source: Text
    delay_s: Duration
    jitter_s: Seconds = 0.0
    share: Share = 1.0


class StaleSpec(_ClientFault):
    fault: Literal["stale"]
    view: Text
    age_s: Duration
    visible: Flag = True


class _ProcessFault(FaultSpec):
    is_process = True

    source: Text

    @model_validator(mode="before")
    @classmethod
    def _takes_no_share(cls, body: object) -> object:
        if isinstance(body, dict):
            for key in ("share", "control"):
                if key in body:
                    msg = f"{body.get('fault')} strikes a whole server and takes no {key}"
                    raise ValueError(msg)
        return body


class ProcessKillSpec(_ProcessFault):
    """SIGKILL; `restart` says how the server comes back after `for_s`: with its data, empty, or not at all."""

    fault: Literal["process_kill"]
    restart: Literal["refilled", "empty", "none"] = "refilled"


class ProcessFreezeSpec(_ProcessFault):
    """SIGSTOP, then SIGCONT: connections stay open and nothing answers."""

    fault: Literal["process_freeze"]


class ProcessPauseSpec(_ProcessFault):
    """CLIENT PAUSE: the server accepts, reads and does not answer."""

    fault: Literal["process_pause"]


FAULTS: dict[str, type[FaultSpec]] = {
    "outage": OutageSpec,
    "delay": DelaySpec,
    "stale": StaleSpec,
    "process_kill": ProcessKillSpec,
    "process_freeze": ProcessFreezeSpec,
    "process_pause": ProcessPauseSpec,
}
