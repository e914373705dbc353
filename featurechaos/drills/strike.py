"""One fault of a drill, done and undone: to the client by a lease, to a server by its pid."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from featurechaos.drills.faults import (
    DelaySpec,
    FaultSpec,
    OutageSpec,
    ProcessFreezeSpec,
    ProcessKillSpec,
    ProcessPauseSpec,
    StaleSpec,
)
from featurechaos.drills.stage import Process, Stage
from featurechaos.errors import SpecError
from featurechaos.faults import Delay, Fault, Outage, Stale
from featurechaos.faults.board import Injection

_SLACK_S = 30.0
"""A lease outlives its step by this much, so that clearing it is what ends it, and a dead drill still does."""


class Strike:
    """A fault that can be ended from the moment this exists: the undo is known before the deed.

    `do` raises a FeatureError where the fault was refused and nothing is on; after any other error it
    may be half done, and wants its `undo`. `undo` may be called again. `applied` is how many reads
    it hit, None where it cannot tell.
    """

    def __init__(self, do: Callable[[], Any], undo: Callable[[], Any] | None = None, detail: str = "") -> None:
        self._do, self._undo, self.detail = do, undo, detail
        self._injection: Injection | None = None
        self._is_undone = False

    def do(self) -> None:
        done = self._do()
        self._injection = done if isinstance(done, Injection) else None

    def undo(self) -> None:
        if self._is_undone:
            return
        if self._injection is not None:
            self._injection.clear()
        if self._undo is not None:
            self._undo()
        self._is_undone = True

    @property
    def applied(self) -> int | None:
        return None if self._injection is None else self._injection.applied

    @property
    def not_applied(self) -> int:
        return 0 if self._injection is None else self._injection.not_applied


def strike(fault: FaultSpec, stage: Stage, *, seed: int, for_s: float, reason: str) -> Strike:
    """A fault made ready; `do` does it."""
    if isinstance(fault, ProcessKillSpec | ProcessFreezeSpec | ProcessPauseSpec):
        return _hurt(fault, stage, for_s)
    assert isinstance(fault, OutageSpec | DelaySpec | StaleSpec)

    def inject() -> Injection:
        return stage.client.chaos.inject(
            _fault(fault),
            share=fault.share,
            lease_s=fault.lease_s or for_s + _SLACK_S,
            seed=seed if fault.seed is None else fault.seed,
            reason=reason,
            control=fault.control,
        )

    return Strike(inject)


def process_of(fault: FaultSpec, stage: Stage) -> Process:
    """The server a process fault strikes; SpecError where the drill did not start it."""
    process = stage.processes.get(fault.target)
    if process is None:
        known = ", ".join(stage.processes) or "none"
        raise SpecError(
            f"{fault.fault}: the drill started no server for source {fault.target!r} (it started {known}); "
            "use the fault outage, or target: {kind: local, world: flights}"
        )
    return process


def _fault(fault: OutageSpec | DelaySpec | StaleSpec) -> Fault:
    if isinstance(fault, OutageSpec):
        return Outage(fault.source, fault.mode)
    if isinstance(fault, DelaySpec):
        return Delay(fault.source, fault.delay_s, fault.jitter_s / fault.delay_s)
    return Stale(fault.view, fault.age_s, fault.visible)


def _hurt(fault: Any, stage: Stage, for_s: float) -> Strike:
    process = process_of(fault, stage)
    if isinstance(fault, ProcessKillSpec):
        return Strike(process.kill, lambda: _back(fault, process, stage), f"pid {process.pid}, SIGKILL")
    if isinstance(fault, ProcessFreezeSpec):
        return Strike(process.freeze, process.thaw, f"pid {process.pid}, SIGSTOP")
    pause = f"CLIENT PAUSE {int(for_s * 1000)} ALL"
    return Strike(
        lambda: _command(process, pause),
        lambda: _command(process, "CLIENT UNPAUSE"),
        f"pid {process.pid}, CLIENT PAUSE",
    )


def _back(fault: ProcessKillSpec, process: Process, stage: Stage) -> None:
    if fault.restart == "none":
        return
    if fault.restart == "empty":
        stage.empty(process)
    process.restart()


def _command(process: Any, line: str) -> None:
    """One inline command to a Valkey of ours."""
    with socket.create_connection(("127.0.0.1", process.port), 2.0) as connection:
        connection.settimeout(5.0)
        connection.sendall(f"{line}\r\n".encode())
        if not connection.recv(64).startswith(b"+OK"):
            raise SpecError(f"the server would not take {line!r}")
