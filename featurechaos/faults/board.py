"""Which faults are on, for whom and until when: leases, held in memory by the process that injects.

When a lease ends or its process dies, the fault is gone; nothing has to be undone. When `clear()`
returns, no later read is affected.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import inf
from numbers import Integral
from types import TracebackType
from typing import Self

from featurechaos.clock import Clock
from featurechaos.errors import ChaosRefused, StoreError
from featurechaos.faults import Fault, Stale
from featurechaos.faults.when import salt_of
from featurechaos.locks import Locked

log = logging.getLogger(__name__)

Prepare = Callable[[Stale], object]
"""Make a fault's old rows readable; StoreError where they cannot be had."""


class Lease(Locked):
    """One fault, for a share of the keys or calls, until a time.

    `applied` and `not_applied` count calls for call faults, rows for row faults; `control` counts those
    of the control group, which are spared. Counts are exact under threads.
    """

    def __init__(
        self, fault: Fault, *, share: float, control: float, seed: int, until: float, reason: str = ""
    ) -> None:
        super().__init__()
        self.fault, self.share, self.control_share, self.until = fault, share, control, until
        self.reason = reason
        self.salt = salt_of(seed, fault.name)
        self.applied = self.not_applied = self.control = 0

    def count(self, *, applied: int = 0, not_applied: int = 0, control: int = 0) -> None:
        with self._lock:
            self.applied += applied
            self.not_applied += not_applied
            self.control += control

    @property
    def exposure(self) -> float:
        return self.share + self.control_share

    def __repr__(self) -> str:
        return f"Lease({self.fault!r}, share={self.share}, applied={self.applied})"


class Injection:
    """Some faults that are on. A context manager: leaving it clears them."""

    def __init__(self, board: Board, leases: Sequence[Lease], reason: str) -> None:
        self._board, self.leases, self.reason = board, tuple(leases), reason

    @property
    def applied(self) -> int:
        """How many calls and rows the faults have hit."""
        return sum(lease.applied for lease in self.leases)

    @property
    def not_applied(self) -> int:
        """How many calls and rows were due and could not be hit."""
        return sum(lease.not_applied for lease in self.leases)

    @property
    def control(self) -> int:
        """How many calls and rows fell in the control group."""
        return sum(lease.control for lease in self.leases)

    @property
    def until(self) -> float:
        """When the last of its leases ends, monotonic seconds."""
        return max(lease.until for lease in self.leases)

    def clear(self) -> None:
        """End the faults; idempotent."""
        self._board.remove(self.leases)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def __repr__(self) -> str:
        return f"Injection({', '.join(lease.fault.name for lease in self.leases)}; {self.reason})"


class Board(Locked):
    """The faults of one client; `client.chaos`.

    `refusal` says in words why this installation may not inject at all, or nothing. The sum of share and
    control group over all active faults stays within `max_share`.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        max_share: float,
        refusal: Callable[[], str],
        prepare: Prepare,
        sources: Sequence[str],
        views: Sequence[str],
    ) -> None:
        super().__init__()
        self._clock, self.max_share = clock, max_share
        self._refusal, self._prepare = refusal, prepare
        self._sources, self._views = tuple(sources), tuple(views)
        self.active: tuple[Lease, ...] = ()
        self.listening: str | None = None
        """Where faults are taken from other processes, once they are; a URL."""

    @property
    def refusal(self) -> str:
        """Why nothing may be injected here, in words; nothing if it may."""
        return self._refusal()

    def forked(self) -> None:
        """In a child: who holds the parent's faults does not hold them here."""
        self.active, self.listening = (), None

    def inject(
        self, *faults: Fault, share: float, lease_s: float, seed: int, reason: str, control: bool = True
    ) -> Injection:
        """Turn faults on for a share of keys (row faults) or requests (call faults), for at most `lease_s`.

        Args:
            share: within 0..1, of each fault; it has no default.
            control: keep a control group of the same size (as far as there is room) that is spared.
            reason: why, in words; kept with the injection.

        Raises:
            ChaosRefused: this installation is not armed, a fault names a source or view that does not exist, or
                the exposure would pass `max_share`.
        """
        self._check(faults, share=share, lease_s=lease_s, seed=seed, reason=reason)
        for fault in faults:
            if isinstance(fault, Stale):
                self._ready(fault)
        until = self._clock.monotonic() + lease_s  # after what may have taken a minute
        group = min(share, 1.0 - share) if control else 0.0
        leases = [Lease(fault, share=share, control=group, seed=seed, until=until, reason=reason) for fault in faults]
        with self._lock:
            live = self.live()
            exposure = sum(lease.exposure for lease in (*live, *leases))
            if exposure > self.max_share + 1e-9:
                msg = (
                    f"chaos.max_share: wanted share and control groups of all active faults within "
                    f"{self.max_share}, got {exposure:g}"
                )
                raise ChaosRefused(msg)
            self.active = (*live, *leases)
        return Injection(self, leases, reason)

    def live(self) -> tuple[Lease, ...]:
        """The leases that have not run out."""
        now = self._clock.monotonic()
        return tuple(lease for lease in self.active if now < lease.until)

    def holds(self, injection: Injection) -> bool:
        """Whether any fault of an injection is still on the board."""
        return any(lease in self.active for lease in injection.leases)

    def remove(self, leases: Sequence[Lease]) -> None:
        with self._lock:
            self.active = tuple(lease for lease in self.active if lease not in leases)

    def clear_all(self) -> None:
        """End every fault of this client."""
        with self._lock:
            self.active = ()

    def _ready(self, fault: Stale) -> None:
        """Have a fault's old rows at hand; where they cannot be had, each row it was due on counts as not applied."""
        try:
            self._prepare(fault)
        except StoreError as error:
            log.warning("%s: its old rows cannot be had: %s", fault.name, error)

    def _check(self, faults: Sequence[Fault], *, share: float, lease_s: float, seed: int, reason: str) -> None:
        if refusal := self._refusal():
            raise ChaosRefused(refusal)
        if not faults:
            raise ChaosRefused("inject wants at least one fault, got none")
        if not (isinstance(share, int | float) and 0 <= share <= 1):
            raise ChaosRefused(f"inject: share wants a number within 0..1, got {share!r}")
        if not (isinstance(lease_s, int | float) and 0 < lease_s < inf):
            raise ChaosRefused(f"inject: lease_s wants seconds above 0, and an end, got {lease_s!r}")
        if not isinstance(seed, Integral):
            raise ChaosRefused(f"inject: seed wants a whole number, got {seed!r}")
        if not (isinstance(reason, str) and reason.strip()):
            raise ChaosRefused(f"inject: reason wants a few words on why, got {reason!r}")
        for fault in faults:
            if not isinstance(fault, Fault):
                raise ChaosRefused(f"inject wants faults of featurechaos.faults, got {fault!r}")
            kind, name, known = (
                ("view", fault.view, self._views)
                if isinstance(fault, Stale)
                else ("source", fault.source, self._sources)
            )
            if name not in known:
                raise ChaosRefused(f"inject: {fault.name}: {kind} wants one of {', '.join(known)}, got {name!r}")
