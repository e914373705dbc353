"""Everything a script asks, held against what a history tells: wanted, got, and one of three outcomes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from featurechaos.drills.history import Fault, Sample
from featurechaos.drills.measures import Measure, shown
from featurechaos.drills.probes import Probe
from featurechaos.drills.recovery import Recovered
from featurechaos.drills.script import Recovery, Script
from featurechaos.drills.window import Ledger


class Outcome(StrEnum):
    """What a drill, or one check of it, came to."""

    HELD = "held"
    WEAKNESS = "weakness"
    UNKNOWN = "unknown"
    INCONCLUSIVE = "inconclusive"
    GUARD = "guard"
    INTERRUPTED = "interrupted"
    UNDO_FAILED = "undo_failed"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was asked: `wanted` and `got` in words, `value` as a number where there is one."""

    name: str
    phase: str
    wanted: str
    got: str
    outcome: Outcome
    value: float | None = None
    why: str = ""


def checks_of(ledger: Ledger, script: Script, recovery: Recovered | None) -> Iterator[Check]:
    """Every check of a drill, in the order a report shows them."""
    asked = (("before", script.steady_state.probes), ("during", script.expect.during), ("after", script.after))
    for phase, probes in asked:
        if phase in ledger.phases:
            yield from (compare(probe, probe.measure(ledger.phases[phase]), phase) for probe in probes)
        else:
            yield from (compare(probe, Measure(None, why=f"the drill ended before {phase}"), phase) for probe in probes)
    yield from _mid_method(ledger, script)
    if script.recovery and recovery:
        yield from _recovery(script.recovery, recovery)
    yield from _coverage(ledger, script)


def _mid_method(ledger: Ledger, script: Script) -> Iterator[Check]:
    """The probes of the method: over the time from its begin to their own, or as the runner sampled them."""
    begin = ledger.bounds.get("during", (None, None))[0]
    sampled = {one.name for one in ledger.history.of(Sample)}
    for step in script.method:
        if step.check is not None:
            is_told = step.name in sampled if step.check.live else begin is not None
            measure = Measure(None, why="the drill ended before it")
            if begin is not None and is_told and ledger.whole.end >= begin + step.at_s:
                measure = step.check.measure(ledger.whole.between(begin, begin + max(step.at_s, 1e-9), touching=True))
            yield compare(step.check, measure, f"at {shown(step.at_s, 'seconds')}")


def _recovery(wanted: Recovery, recovery: Recovered) -> Iterator[Check]:
    is_in_time = recovery.after_s is not None and recovery.after_s <= wanted.within_s
    # Few requests make coarse stretches: the moment may lie on either side of the limit.
    is_between = recovery.after_s is not None and recovery.lost_s <= wanted.within_s < recovery.after_s
    yield Check(
        name=f"time until {wanted.check.label} was {_wanted(wanted.check)} for good",
        phase="recovery",
        wanted=f"at most {shown(wanted.within_s, 'seconds')} from the fault's end",
        got=recovery.why or shown(recovery.after_s, "seconds"),
        outcome=_outcome(is_in_time, is_unknown=recovery.is_unknown or is_between),
        value=recovery.after_s,
        why=f"it was last seen lost at {shown(recovery.lost_s, 'seconds')}" if is_between else "",
    )
    if wanted.no_flap is not None:
        yield Check(
            name="times it held and was lost again",
            phase="recovery",
            wanted=f"at most {wanted.no_flap}",
            got=recovery.why if recovery.is_unknown else str(recovery.flaps),
            outcome=_outcome(recovery.flaps <= wanted.no_flap, is_unknown=recovery.is_unknown),
            value=recovery.flaps,
        )


def _outcome(is_held: bool, *, is_unknown: bool) -> Outcome:
    return Outcome.UNKNOWN if is_unknown else Outcome.HELD if is_held else Outcome.WEAKNESS


def _coverage(ledger: Ledger, script: Script) -> Iterator[Check]:
    seen = {
        "requests": (len(ledger.whole.requests), script.coverage.min_requests),
        "requests or reads that met a fault": (applied(ledger), script.coverage.min_applied),
        "pairs": (int(ledger.whole.pairs.rows.sum()), script.coverage.min_pairs),
    }
    for name, (got, wanted) in seen.items():
        if wanted:
            outcome = Outcome.HELD if got >= wanted else Outcome.UNKNOWN
            why = "" if got >= wanted else "too few to mean anything"
            yield Check(name, "coverage", f"at least {wanted:,}", f"{got:,}", outcome, got, why)


def applied(ledger: Ledger) -> int:
    """How much met a fault: what the fault counted itself, else the requests under way while it was on."""
    counted = {one.name: one.count for one in ledger.history.of(Fault) if one.count is not None}
    total = sum(counted.values())
    for fault, begin, end in ledger.fault_windows:
        if fault.name not in counted:
            total += len(ledger.whole.between(begin, end, touching=True).requests)
    return total


def compare(probe: Probe, measure: Measure, phase: str) -> Check:
    """Hold a measure against a probe's bounds.

    With a `margin` a rate needs evidence both ways: held if it is within its bound and its 99 %
    interval within bound and margin, a weakness if the whole interval is past the bound, else unknown.
    """
    value, outcome, why = measure.value, Outcome.UNKNOWN, measure.why
    if value is not None and probe.margin is not None:
        outcome, why = _with_margin(probe, measure, value, probe.margin)
    elif value is not None:
        outcome = Outcome.HELD if probe.holds(value) else Outcome.WEAKNESS
    return Check(probe.label, phase, _wanted(probe), _got(probe, measure), outcome, value, why)


def _with_margin(probe: Probe, measure: Measure, value: float, margin: float) -> tuple[Outcome, str]:
    low = value if measure.low is None else measure.low
    high = value if measure.high is None else measure.high
    if (probe.max is not None and low > probe.max) or (probe.min is not None and high < probe.min):
        return Outcome.WEAKNESS, ""
    is_sure = (probe.max is None or high <= probe.max + margin) and (probe.min is None or low >= probe.min - margin)
    if probe.holds(value) and is_sure:
        return Outcome.HELD, ""
    between = f"between {shown(low, probe.unit)} and {shown(high, probe.unit)}"
    return Outcome.UNKNOWN, f"at 99 % the true value lies {between}: more {measure.of} would tell"


def _wanted(probe: Probe) -> str:
    if probe.equals is not None:
        return shown(float(probe.equals), probe.unit)
    least = f"at least {shown(probe.min, probe.unit)}" if probe.min is not None else ""
    most = ("none" if probe.max == 0 else f"at most {shown(probe.max, probe.unit)}") if probe.max is not None else ""
    return " and ".join(part for part in (least, most) if part)


def _got(probe: Probe, measure: Measure) -> str:
    if measure.value is None:
        return measure.why or "unknown"
    value = "none" if measure.value == 0 and probe.max == 0 else shown(measure.value, probe.unit)
    if not measure.samples:
        return value
    return f"{value} over {measure.samples:,} {measure.of if measure.samples != 1 else measure.of.removesuffix('s')}"


def place(check: Check) -> str:
    """Where in the drill a check belongs, as the begin of a sentence."""
    words = {"before": "Before the fault", "during": "During the fault", "after": "After recovery"}
    return words.get(check.phase, check.phase.capitalize())
