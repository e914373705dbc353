"""Several plans on one thread: a small cooperative loop over sockets, for `All` and `First`.

A store with `begin` hands back a read that the loop polls; any other store takes its turn blocking (a
replica, memory: instant). No helper thread, no busy waiting.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from featurechaos.effects import Effect, Plan, Read, Sleep
from featurechaos.errors import StoreError, StoreTimeout

if TYPE_CHECKING:
    from featurechaos.engine import World
    from featurechaos.stores import Pending

Perform = Callable[[Effect, "World"], Any]


class Branch:
    """One plan under way: ready to go on, waiting for a socket, waiting for a time, or done."""

    def __init__(self, plan: Plan[Any], world: World, perform: Perform) -> None:
        self._plan, self._world, self._perform = plan, world, perform
        self.pending: Pending | None = None
        self.wake: float | None = None
        self._source = ""
        self.is_done = False
        self.result: Any = None
        self.error: Exception | None = None

    def start(self) -> None:
        self._go(lambda: next(self._plan))

    def advance(self, now: float) -> None:
        """Take what has come, or notice that its time is up."""
        if self.pending is not None:
            try:
                answers = self.pending.advance()
            except StoreError as error:
                self._throw(error)
                return
            except Exception as error:  # noqa: BLE001 - the plan decides what an error means
                self.pending.abandon()  # Who knows what is left on its connection.
                self._throw(self._unavailable(error))
                return
            if answers is not None:
                self._send(answers)
            elif self.wake is not None and now >= self.wake:
                self.pending.abandon()
                self._throw(StoreTimeout(f"source {self._source!r} gave no answer in time"))
        elif self.wake is not None and now >= self.wake:
            self._send(None)

    def leave(self) -> None:
        """Close the plan; a read on its way loses its connection."""
        if self.pending is not None:
            self.pending.abandon()
        self.pending = None
        self._plan.close()

    def _send(self, value: Any) -> None:
        self._go(lambda: self._plan.send(value))

    def _throw(self, error: Exception) -> None:
        self._go(lambda: self._plan.throw(error))

    def _go(self, step: Callable[[], Effect]) -> None:
        """Run the plan until it has to wait or ends."""
        while True:
            self.pending = self.wake = None
            try:
                effect = step()
            except StopIteration as stop:
                self.is_done, self.result = True, stop.value
                return
            except Exception as error:  # noqa: BLE001 - kept for the plan that waits on this one
                self.is_done, self.error = True, error
                return
            if type(effect) is Sleep:
                self.wake = self._world.monotonic() + effect.seconds
                return
            try:
                if type(effect) is Read and self._begin(effect):
                    return
                value = self._perform(effect, self._world)
            except Exception as error:  # noqa: BLE001 - the plan decides what an error means
                step = _thrower(self._plan, error)
            else:
                step = _sender(self._plan, value)

    def _begin(self, effect: Read) -> bool:
        begin = getattr(self._world.stores[effect.source], "begin", None)
        if begin is None or effect.as_of_us is not None:
            return False
        self._source = effect.source
        try:
            self.pending = begin(effect.asks, effect.until)
        except StoreError:
            raise
        except Exception as error:
            raise self._unavailable(error) from error
        self.wake = effect.until
        return True

    def _unavailable(self, error: Exception) -> StoreError:
        told = self._world.unavailable(self._source, error)
        told.__cause__ = error
        return told


def _sender(plan: Plan[Any], value: Any) -> Callable[[], Effect]:
    return lambda: plan.send(value)


def _thrower(plan: Plan[Any], error: Exception) -> Callable[[], Effect]:
    return lambda: plan.throw(error)


def run_all(plans: Sequence[Plan[Any]], world: World, perform: Perform) -> list[Any]:
    """Run plans side by side; the first error ends the others."""
    branches = [Branch(plan, world, perform) for plan in plans]
    try:
        for branch in branches:
            branch.start()
        while running := [branch for branch in branches if not branch.is_done]:
            if any(branch.error for branch in branches):
                break
            _wait(running, world)
        for branch in branches:
            if branch.error is not None:
                raise branch.error
        return [branch.result for branch in branches]
    finally:
        for branch in branches:
            branch.leave()


def run_first(plans: Sequence[Plan[Any]], after_s: float, world: World, perform: Perform) -> Any:
    """Start the next plan as soon as the latest one started has failed, or after `after_s`; the first result wins."""
    branches = [Branch(plan, world, perform) for plan in plans]
    started: list[Branch] = []
    try:
        now = due = world.monotonic()
        while True:
            for branch in started:
                if branch.is_done and branch.error is None:
                    return branch.result
            if len(started) < len(branches) and (not started or started[-1].is_done or now >= due):
                branch = branches[len(started)]
                started.append(branch)
                due = world.monotonic() + after_s
                branch.start()
                continue
            running = [branch for branch in started if not branch.is_done]
            if not running:
                raise started[-1].error  # type: ignore[misc]
            now = _wait(running, world, due if len(started) < len(branches) else None)
    finally:
        for branch in branches:
            branch.leave()


def _wait(running: Sequence[Branch], world: World, due: float | None = None) -> float:
    """Wait for the first socket or time of some branches, then let each look; returns what time it is.

    A wait that nothing cut short has reached the time it was for, whatever the clock says: one that is turned by
    hand may stand still.
    """
    poller = select.poll()
    for branch in running:
        if branch.pending is not None:
            poller.register(branch.pending.fileno(), select.POLLIN)
    wakes = [branch.wake for branch in running if branch.wake is not None]
    if due is not None:
        wakes.append(due)
    left = max(0.0, min(wakes) - world.monotonic()) if wakes else None
    is_cut_short = False
    if any(branch.pending is not None for branch in running):
        is_cut_short = bool(poller.poll(None if left is None else left * 1000))
    elif left:
        world.sleep(left)
    now = world.monotonic()
    if wakes and not is_cut_short:
        now = max(now, min(wakes))
    for branch in running:
        branch.advance(now)
    return now
