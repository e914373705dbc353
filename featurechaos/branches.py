"""Several plans on one thread: a small cooperative loop over sockets, for `All` and `First`, in one another too.

A store with `begin` hands back a read that the loop polls; any other store takes its turn blocking (a
replica, memory: instant). No helper thread, no busy waiting.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from featurechaos.effects import All, Effect, First, Plan, Read, Sleep
from featurechaos.errors import StoreError, StoreTimeout

if TYPE_CHECKING:
    from featurechaos.engine import World
    from featurechaos.stores import Pending

Perform = Callable[[Effect, "World"], Any]


class Branch:
    """One plan under way: ready to go on, waiting for a socket, a time or branches of its own, or done."""

    def __init__(self, plan: Plan[Any], world: World, perform: Perform) -> None:
        self._plan, self._world, self._perform = plan, world, perform
        self.pending: Pending | None = None
        self.wake: float | None = None
        self.group: Together | Race | None = None
        self._source = ""
        self.is_done = False
        self.result: Any = None
        self.error: Exception | None = None

    def start(self) -> None:
        self._go(lambda: next(self._plan))

    def advance(self, now: float) -> None:
        """Take what has come, or notice that its time is up."""
        if self.group is not None:
            self.group.advance(now)
            if self.group.is_done:
                self._go(self._after(self.group))
        elif self.pending is not None:
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
        if self.group is not None:
            self.group.leave()
        if self.pending is not None:
            self.pending.abandon()
        self.pending = self.group = None
        self._plan.close()

    def _send(self, value: Any) -> None:
        self._go(lambda: self._plan.send(value))

    def _throw(self, error: Exception) -> None:
        self._go(lambda: self._plan.throw(error))

    def _go(self, step: Callable[[], Effect]) -> None:
        """Run the plan until it has to wait or ends."""
        while True:
            self.pending = self.wake = self.group = None
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
            if type(effect) is All or type(effect) is First:
                self.group = group_of(effect, self._world, self._perform)
                self.group.start()
                if not self.group.is_done:
                    return
                step = self._after(self.group)
                continue
            try:
                if type(effect) is Read and self._begin(effect):
                    return
                value = self._perform(effect, self._world)
            except Exception as error:  # noqa: BLE001 - the plan decides what an error means
                step = _thrower(self._plan, error)
            else:
                step = _sender(self._plan, value)

    def _after(self, group: Together | Race) -> Callable[[], Effect]:
        """The plan's next step once branches of its own are over."""
        group.leave()
        return _sender(self._plan, group.result) if group.error is None else _thrower(self._plan, group.error)

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


class _Group:
    """Branches that one plan waits for. Done: `result`, or `error` if that is how it ended."""

    def __init__(self, plans: Sequence[Plan[Any]], world: World, perform: Perform) -> None:
        self._world = world
        self.branches = [Branch(plan, world, perform) for plan in plans]
        self.is_done = False
        self.result: Any = None
        self.error: Exception | None = None

    def start(self) -> None:
        raise NotImplementedError

    def advance(self, now: float) -> None:
        """Let every branch look at what has come by now."""
        for branch in self.branches:
            if not branch.is_done:
                branch.advance(now)
        self._look(now)

    def leave(self) -> None:
        """Close every plan, begun or not."""
        for branch in self.branches:
            branch.leave()

    def times(self) -> Iterator[float]:
        """When the group itself wants to look again, whatever its branches wait for."""
        yield from ()

    def waiting(self) -> Iterator[Branch | _Group]:
        """What is under way in here: every branch with no branches of its own, and every group."""
        yield self
        for branch in self.branches:
            if branch.group is not None:
                yield from branch.group.waiting()
            elif not branch.is_done:
                yield branch

    def _look(self, now: float) -> None:
        raise NotImplementedError


class Together(_Group):
    """All of them, side by side; the first error ends the others."""

    def start(self) -> None:
        for branch in self.branches:
            branch.start()
        self._look(0.0)

    def _look(self, now: float) -> None:
        self.error = next((branch.error for branch in self.branches if branch.error is not None), None)
        self.is_done = self.error is not None or all(branch.is_done for branch in self.branches)
        if self.is_done and self.error is None:
            self.result = [branch.result for branch in self.branches]


class Race(_Group):
    """One after another, each as soon as the latest has failed or after `after_s`; the first result wins."""

    def __init__(self, plans: Sequence[Plan[Any]], after_s: float, world: World, perform: Perform) -> None:
        super().__init__(plans, world, perform)
        self._after_s, self._due = after_s, world.monotonic()
        self._unstarted = list(reversed(self.branches))
        self._latest: Branch | None = None

    def start(self) -> None:
        self._look(self._due)

    def times(self) -> Iterator[float]:
        if self._unstarted:
            yield self._due

    def _look(self, now: float) -> None:
        while not self._is_over():
            if not self._unstarted or not (self._latest is None or self._latest.is_done or now >= self._due):
                return
            self._latest = self._unstarted.pop()
            self._due = self._world.monotonic() + self._after_s
            self._latest.start()

    def _is_over(self) -> bool:
        started = self.branches[: len(self.branches) - len(self._unstarted)]
        for branch in started:
            if branch.is_done and branch.error is None:
                self.is_done, self.result = True, branch.result
                return True
        if not self._unstarted and all(branch.is_done for branch in started):
            self.is_done, self.error = True, started[-1].error
        return self.is_done


def group_of(effect: All | First, world: World, perform: Perform) -> Together | Race:
    """The branches that an effect asks for, not yet begun."""
    if type(effect) is All:
        return Together(effect.plans, world, perform)
    assert type(effect) is First
    return Race(effect.plans, effect.after_s, world, perform)


def run_group(effect: All | First, world: World, perform: Perform) -> Any:
    """Perform an `All` or a `First` on this thread."""
    group = group_of(effect, world, perform)
    try:
        group.start()
        while not group.is_done:
            group.advance(_wait(group, world))
        if group.error is not None:
            raise group.error
        return group.result
    finally:
        group.leave()


def _wait(group: _Group, world: World) -> float:
    """Wait for the first socket or time of all that is under way; returns what time it is.

    A wait that nothing cut short has reached the time it was for, whatever the clock says: one that is turned by
    hand may stand still.
    """
    poller, is_polled = select.poll(), False
    wakes: list[float] = []
    for each in group.waiting():
        if isinstance(each, _Group):
            wakes.extend(each.times())
            continue
        if each.pending is not None:
            poller.register(each.pending.fileno(), select.POLLIN)
            is_polled = True
        if each.wake is not None:
            wakes.append(each.wake)
    left = max(0.0, min(wakes) - world.monotonic()) if wakes else None
    is_cut_short = False
    if is_polled:
        is_cut_short = bool(poller.poll(None if left is None else left * 1000))
    elif left:
        world.sleep(left)
    now = world.monotonic()
    if wakes and not is_cut_short:
        now = max(now, min(wakes))
    return now
