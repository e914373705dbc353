"""Which fault when: a pure function of the seconds there are and a seed.

Three lanes beside each other: what hurts the online stores, the bucket, and the readers themselves. Each lane plays
shuffled rounds of all of its faults, so that none is left to luck.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

ONLINE_FAULTS = ("kill", "freeze", "pause", "empty", "evict", "wrong_bytes", "truncate", "trickle", "reset")
BUCKET_FAULTS = ("s3_500", "s3_503", "s3_slow", "s3_absent", "s3_half")
READER_FAULTS = ("clock", "cancel", "schema", "fork")
FAULTS = ONLINE_FAULTS + BUCKET_FAULTS + READER_FAULTS

LEAD_S, TAIL_S = 2.0, 0.6
"""What is left alone at the beginning and at the end."""
RECOVER_S = 0.3 + 0.3 + 0.5 + 3.0
"""In this time after a fault the primary serves again: open_s + healthy_s + ramp_s + 3 s of the readers' policy."""
LOOK_S = 0.6
"""And then it is looked at for that long, before the next one."""


@dataclass(frozen=True)
class Strike:
    """One fault on a target (primary, both, bucket, threads, tasks, writers), from `at_s` for `for_s` seconds.

    `draw` is in [0, 1): what is left open, such as how far a clock jumps.
    """

    fault: str
    target: str
    at_s: float
    for_s: float
    draw: float


@dataclass(frozen=True)
class _Lane:
    faults: tuple[str, ...]
    targets: tuple[str, ...]
    hurt_s: tuple[float, float]
    slot_s: float
    """How long a fault and the time after it take; less where a run is short, but never less than `least_s`."""
    least_s: float


_LANES = (
    _Lane(ONLINE_FAULTS, ("primary", "both"), (1.0, 1.4), 6.6, 1.4 + RECOVER_S + LOOK_S),
    _Lane(BUCKET_FAULTS, ("bucket",), (7.0, 8.5), 12.0, 10.5),
    _Lane(READER_FAULTS, ("readers",), (3.0, 5.0), 10.0, 7.0),
)


def schedule(seconds: float, seed: int) -> tuple[Strike, ...]:
    """Every strike of a run, in order of time; what does not fit any more is left out."""
    strikes = [
        strike for number, lane in enumerate(_LANES) for strike in _played(lane, seconds, Random(f"{seed}/{number}"))
    ]
    return tuple(sorted(strikes, key=lambda strike: strike.at_s))


def _played(lane: _Lane, seconds: float, rng: Random) -> list[Strike]:
    slot_s = min(lane.slot_s, max(lane.least_s, (seconds - LEAD_S - TAIL_S) / len(lane.faults)))
    slots = int((seconds - LEAD_S - TAIL_S) / slot_s + 1e-9)
    strikes: list[Strike] = []
    while len(strikes) < slots:
        faults = list(lane.faults)
        rng.shuffle(faults)
        targets = [lane.targets[at % len(lane.targets)] for at in range(len(faults))]
        rng.shuffle(targets)
        for fault, target in zip(faults, targets, strict=True):
            at_s = LEAD_S + len(strikes) * slot_s
            strikes.append(Strike(fault, target, at_s, rng.uniform(*lane.hurt_s), rng.random()))
    return strikes[:slots]
