"""What is to be broken, from how it is typed: `outage:primary`, `delay:primary:50ms`, `primary=1234`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featurechaos.bench.given import Given
from featurechaos.config import Settings
from featurechaos.config.mistakes import near
from featurechaos.drills.faults import DelaySpec, FaultSpec, OutageSpec, ProcessFreezeSpec, ProcessKillSpec
from featurechaos.drills.measures import shown
from featurechaos.errors import RequestError
from featurechaos.serving import refusal

SIGNALS = ("stop", "kill")
LONGER_S = 60.0
"""A stopped process is let go this long after the fault should have ended, whatever we do."""
_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s)")
_FAULTS = "outage:SOURCE, hang:SOURCE or delay:SOURCE:50ms"


@dataclass(frozen=True, slots=True)
class Break:
    """One thing to break. `state` is what the source is then: gone, frozen, 50 ms slower; `detail` says how."""

    state: str
    spec: FaultSpec
    detail: str
    process: Given | None = None

    @property
    def name(self) -> str:
        """The source and its state: `primary frozen`."""
        return f"{self.spec.target} {self.state}"

    @property
    def comes_back(self) -> bool:
        """Whether undoing it is ours to do."""
        return not isinstance(self.spec, ProcessKillSpec)


def breaks_of(
    settings: Settings, faults: Sequence[str], pids: Sequence[str], *, signal: str, for_s: float
) -> tuple[Break, ...]:
    """Everything to break at once; RequestError for what is wrong, or may not be.

    Both kinds want `chaos.enabled` in the config and FEATURECHAOS_CHAOS=armed in the environment.
    """
    found = [_injected(settings, text) for text in faults]
    found += [_real(settings, text, signal, for_s) for text in pids]
    names = [one.spec.target for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"source {twice[0]!r} is to be broken twice at once: name it in one --fault or --pid"
        raise RequestError(msg)
    if found and (why := refusal(settings)):
        raise RequestError(why)
    return tuple(found)


def _injected(settings: Settings, text: str) -> Break:
    kind, _, rest = text.partition(":")
    source, _, time = rest.partition(":")
    if kind not in ("outage", "hang", "delay") or not source or bool(time) != (kind == "delay"):
        msg = f"--fault wants {_FAULTS}, got {text!r}"
        raise RequestError(msg)
    _must_be_a_source(settings, source, "--fault")
    if kind == "outage":
        return Break("gone", OutageSpec(fault="outage", source=source), "injected: refuses at once")
    if kind == "hang":
        spec = OutageSpec(fault="outage", source=source, mode="hang")
        return Break("silent", spec, "injected: never answers")
    delay_s = _seconds(time, text)
    return Break(
        f"{shown(delay_s, 'seconds')} slower",
        DelaySpec(fault="delay", source=source, delay_s=delay_s),
        f"injected: answers come {shown(delay_s, 'seconds')} late",
    )


def _real(settings: Settings, text: str, signal: str, for_s: float) -> Break:
    source, equals, number = text.partition("=")
    if not source or not equals or not number.isdecimal():
        msg = f"--pid wants SOURCE=PID, got {text!r}"
        raise RequestError(msg)
    _must_be_a_source(settings, source, "--pid")
    if signal not in SIGNALS:
        msg = f"--signal wants {' or '.join(SIGNALS)}, got {signal!r}"
        raise RequestError(msg)
    try:
        process = Given(int(number), most_s=for_s + LONGER_S)
    except RequestError as error:
        msg = f"--pid: {error}"
        raise RequestError(msg) from None
    who = f"process {number}" + (f" ({process.name})" if process.name else "")
    if signal == "kill":
        spec: Any = ProcessKillSpec(fault="process_kill", source=source, restart="none")
        return Break("dead", spec, f"SIGKILL to {who}", process)
    return Break("frozen", ProcessFreezeSpec(fault="process_freeze", source=source), f"SIGSTOP to {who}", process)


def _must_be_a_source(settings: Settings, name: str, option: str) -> None:
    if name not in settings.sources:
        msg = f"{option}: there is no source {name!r}, {near(name, settings.sources)}"
        raise RequestError(msg)


def _seconds(text: str, whole: str) -> float:
    match = _TIME.fullmatch(text)
    if match is None or not float(match[1]):
        msg = f"--fault {whole}: wanted a time such as 50ms or 0.2s, got {text!r}"
        raise RequestError(msg)
    return float(match[1]) / (1000 if match[2] == "ms" else 1)
