"""Judgments of time: answers by their deadline, and the primary serving again after a fault."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featurechaos import Cause, Origin
from tests.live.watchdog import Watchdog
from tests.nemesis.history import CANCELLED, History, Struck, Told
from tests.nemesis.schedule import ONLINE_FAULTS, RECOVER_S
from tests.nemesis.stored import BASE, PRIMARY
from tests.nemesis.truths import Found
from tests.nemesis.worlds import DEADLINE_S

GRACE_S = 0.010
MOST_EXCUSED = 0.001
NOISY_SHARE = 0.02
"""Of a recovery on a machine that stands still for more of it, half is enough."""
BUSY_SHARE = 0.5
"""On a machine where somebody waits for a core for more of a run, what was not in time says little of us."""
LEAST_SHARE, LEAST_ROWS, LEAST_LOOK_S = 0.9, 15, 0.3


def in_time(history: History) -> tuple[list[Found], int]:
    """(a) Answers past their time, and how many of those a bare process excuses; more than 1 in 1,000 it does not."""
    late: list[Found] = []
    excused: list[str] = []
    for told in history.told:
        watchdog = watching(history, told)
        requests = told.requests
        until = requests["began"] + np.maximum(requests["deadline_s"], 0.0)
        until = np.fmin(until, requests["gave_up"]) + GRACE_S
        over = requests["ended"] - until
        for at in np.flatnonzero(over > 0):
            began, ended, late_s = float(requests["began"][at]), float(requests["ended"][at]), float(over[at])
            what = "a cancelled await" if requests["outcome"][at] == CANCELLED else "an answer"
            text = (
                f"{told.actor} request {requests['id'][at]:x} at {began:.3f}: {what} came {1000 * late_s:.1f} ms past "
                f"{1000 * (until[at] - began):.0f} ms; stalls {watchdog.within(began, ended)}"
            )
            if watchdog.excuses(began, ended, late_s):
                excused.append(text)
            else:
                late.append(("a", text))
    most = int(MOST_EXCUSED * sum(len(told.requests) for told in history.told))
    late += [("a", f"excused, but for being more than 1 in 1,000: {text}") for text in excused[most:]]
    return late, min(len(excused), most)


def recoveries(history: History) -> tuple[list[Found], int, list[float]]:
    """(g) After each fault on the primary, rows of a view that never expires are the primary's again, in time.

    Gives what is broken, how many a machine that stood still excuses, and the share of the primary each time.
    """
    strikes = [one for one in history.strikes if one.fault in ONLINE_FAULTS and one.hits(PRIMARY)]
    broken, excused, shares = list[Found](), 0, list[float]()
    for told in (one for one in history.told if not one.is_child):
        began, is_primary = _asked_plainly(told)
        watchdog = watching(history, told)
        for strike, until in _followed(strikes, history):
            since = strike.healed + RECOVER_S
            looked = (began >= since) & (began < until)
            if until - since < LEAST_LOOK_S or looked.sum() < LEAST_ROWS:
                continue
            share = float(is_primary[looked].mean())
            shares.append(share)
            if share >= LEAST_SHARE:
                continue
            if share >= LEAST_SHARE / 2 and watchdog.still_share(strike.healed, until) > NOISY_SHARE:
                excused += 1
                continue
            text = f"{share:.0%} of {int(looked.sum())} rows were the primary's"
            broken.append(
                ("g", f"{told.actor}: {RECOVER_S:g} s after {strike.fault} was healed at {strike.healed:.3f}, {text}")
            )
    return broken, excused, shares


def _asked_plainly(told: Told) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Rows that the primary serves whenever it can: when each was asked for, and whether it was the primary's.

    What a hedge has won says nothing of the primary.
    """
    requests, rows = told.requests[told.of_row], told.rows
    plain = (rows["view"] == BASE) & (requests["deadline_s"] == DEADLINE_S) & np.isnan(requests["max_age_s"])
    if told.hedges:
        plain &= ~((rows["origin"] == Origin.REPLICA) & (rows["cause"] == Cause.TIMEOUT))
    return requests["began"][plain], rows["origin"][plain] == Origin.PRIMARY


def _followed(strikes: Sequence[Struck], history: History) -> list[tuple[Struck, float]]:
    """Each strike, and when the next one on the same store begins or the run ends."""
    end = max((float(told.requests["ended"].max()) for told in history.told if len(told.requests)), default=0.0)
    ends = [*(one.began for one in strikes[1:]), end]
    return list(zip(strikes, ends, strict=False))


def watching(history: History, told: Told) -> Watchdog:
    """What bare processes beside a reader saw of the machine, to be asked again; a child has its parent's."""
    stalls = history.stalls.get("threads" if told.is_child else told.actor, {})
    return Watchdog({core: list(spans) for core, spans in stalls.items()})


def still_share(history: History) -> float:
    """The share of a run in which at least one core stood still beside a reader."""
    shares = [0.0]
    for told in history.told:
        if len(told.requests) and not told.is_child:
            began = float(told.requests["began"].min())
            shares.append(watching(history, told).still_share(began, began + history.seconds))
    return max(shares)


def is_noisy(history: History) -> bool:
    """Whether the machine stood still, or had more to do than cores, for too much of a run to judge times by it."""
    return still_share(history) > NOISY_SHARE or history.queued_share > BUSY_SHARE
