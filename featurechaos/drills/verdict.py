"""What a drill means: a pure function of its history, which can be asked again of a stored journal.

Each check is three-valued (after Jepsen): held, weakness, or unknown where the history can't tell.
Of several things that are so at once the verdict names the first of this list:

    undo_failed 5    a fault may still be on: nothing matters more
    interrupted 4    somebody or something ended it early
    guard       3    a guard ended it early
    weakness    1    an expectation failed; too little coverage does not take that back
    inconclusive 6   too little was seen, a fault did not apply, or it was not steady to begin with
    held        0    everything asked was seen, and held

Doubt is never told as success. `invalid` (2) is for what could not be played or read at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from featurechaos.drills.history import End, Fault, GuardState, History, Note, Sample, Start
from featurechaos.drills.probes import Measure, Probe, Psi, shown
from featurechaos.drills.reading import script_of
from featurechaos.drills.recovery import Recovered, recovered
from featurechaos.drills.script import Recovery, Script
from featurechaos.drills.window import Ledger
from featurechaos.errors import SpecError
from featurechaos.model import Origin


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


EXIT_CODES = {
    Outcome.HELD: 0,
    Outcome.WEAKNESS: 1,
    Outcome.INVALID: 2,
    Outcome.GUARD: 3,
    Outcome.INTERRUPTED: 4,
    Outcome.UNDO_FAILED: 5,
    Outcome.INCONCLUSIVE: 6,
}
WORST_FIRST = (
    Outcome.UNDO_FAILED,
    Outcome.INTERRUPTED,
    Outcome.GUARD,
    Outcome.WEAKNESS,
    Outcome.INCONCLUSIVE,
)
PSI = Psi(probe="psi", max=0.2)
"""The monitor most people have, with its customary alarm; told in every verdict."""


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


@dataclass(frozen=True)
class Verdict:
    """What a drill came to, why in a sentence, and what was asked.

    `numbers`: requests, failed, late, rows {PHASE: {ORIGIN: n}}, pairs, flip_rate and psi of what
    was answered during the fault, recovery_s (None: not asked, or it did not recover).
    """

    outcome: Outcome
    title: str
    sentence: str
    checks: tuple[Check, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `verdict.json`."""
        return {
            "outcome": str(self.outcome),
            "exit_code": self.exit_code,
            "title": self.title,
            "sentence": self.sentence,
            "numbers": self.numbers,
            "checks": [asdict(check) for check in self.checks],
        }


def invalid(message: str, *, title: str = "drill") -> Verdict:
    """The verdict on what could not be played: a wrong file, a wrong config."""
    return Verdict(Outcome.INVALID, title, message)


def judge(history: History, script: Script | None = None) -> Verdict:
    """Judge what happened by a script; by default the one in the journal, so that a file alone will do.

    Another script with the same phases asks a played drill new questions.
    """
    start = next(iter(history.of(Start)), None)
    if start is None:
        return invalid("the journal does not begin: it has no start record")
    try:
        script = script or script_of(start.script, name="journal")
    except SpecError as error:
        return invalid(str(error))
    ledger = Ledger.of(history)
    recovery = recovered(ledger, script.recovery) if script.recovery else None
    checks = tuple(_checks(ledger, script, recovery))
    found = [*_ends(history), *_failures(checks), *_doubts(history, checks, ledger)]
    outcome, sentence = min(found, key=lambda one: WORST_FIRST.index(one[0]), default=(Outcome.HELD, _held(checks)))
    return Verdict(outcome, script.title, sentence, checks, _numbers(ledger, recovery))


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
    return f"{value} over {measure.samples:,} {measure.of}" if measure.samples else value


def _checks(ledger: Ledger, script: Script, recovery: Recovered | None) -> Iterator[Check]:
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
        if step.check is None:
            continue
        measure = Measure(None, why="the drill ended before it")
        if begin is not None and (step.name in sampled or not step.check.live) and ledger.whole.end >= begin + step.at_s:
            measure = step.check.measure(ledger.whole.between(begin, begin + max(step.at_s, 1e-9), touching=True))
        yield compare(step.check, measure, f"at {shown(step.at_s, 'seconds')}")


def _recovery(wanted: Recovery, recovery: Recovered) -> Iterator[Check]:
    is_in_time = recovery.after_s is not None and recovery.after_s <= wanted.within_s
    yield Check(
        name=f"{wanted.check.label} is {_wanted(wanted.check)} again, for good",
        phase="recovery",
        wanted=f"within {shown(wanted.within_s, 'seconds')} of the fault's end",
        got=recovery.why or f"after {shown(recovery.after_s, 'seconds')}",
        outcome=_outcome(is_in_time, is_unknown=recovery.is_unknown),
        value=recovery.after_s,
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


def _outcome(is_held: bool, *, is_unknown: bool) -> Outcome:  # noqa: FBT001 - it is what is turned into a word
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


def _ends(history: History) -> Iterator[tuple[Outcome, str]]:
    """What ended the drill other than its own last line."""
    for fault in history.of(Fault):
        if fault.state == "undo_failed":
            yield Outcome.UNDO_FAILED, f"{fault.name} could not be undone and may still be on: {fault.detail}".rstrip(": ")
    end = next(iter(history.of(End)), None)
    if end is None:
        yield Outcome.INTERRUPTED, "the journal breaks off: the drill did not get to its end"
    elif end.reason in ("interrupted", "error"):
        yield Outcome.INTERRUPTED, f"the drill was ended early: {end.detail or end.reason}"
    for guard in history.of(GuardState):
        if guard.tripped:
            yield Outcome.GUARD, f"stopped at {guard.t:.1f} s by the guard {guard.guard}: {guard.detail}".rstrip(": ")
    if end and end.reason == "guard":
        yield Outcome.GUARD, f"stopped by a guard: {end.detail}".rstrip(": ")


def _failures(checks: Iterable[Check]) -> Iterator[tuple[Outcome, str]]:
    failed = [check for check in checks if check.outcome is Outcome.WEAKNESS]
    # A system that was not steady to begin with proves nothing about the fault.
    if failed and not any(check.phase == "before" for check in failed):
        first = failed[0]
        rest = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        yield Outcome.WEAKNESS, f"{_place(first)}, {first.name}: wanted {first.wanted}, got {first.got}{rest}"


def _doubts(history: History, checks: Iterable[Check], ledger: Ledger) -> Iterator[tuple[Outcome, str]]:
    """Why a drill in which nothing failed can still not be called held."""
    for check in checks:
        if check.phase == "before" and check.outcome is Outcome.WEAKNESS:
            said = f"it was not steady before anything was touched: {check.name} wanted {check.wanted}, got {check.got}"
            yield Outcome.INCONCLUSIVE, said
    for fault in history.of(Fault):
        if fault.state in ("failed", "not_applied"):
            yield Outcome.INCONCLUSIVE, f"{fault.name} did not apply: {fault.detail or fault.state}"
    for check in checks:
        if check.outcome is Outcome.UNKNOWN:
            reason = check.why if check.why and check.why != check.got else ""
            yield Outcome.INCONCLUSIVE, ", ".join(
                part for part in (f"{_place(check)}, {check.name}: wanted {check.wanted}, got {check.got}", reason) if part
            )
    if any(end.dropped for end in history.of(End)) or any(one.event == "history.truncated" for one in history.of(Note)):
        yield Outcome.INCONCLUSIVE, "the journal was full: part of the drill was not written down"
    if not ledger.fault_windows:
        yield Outcome.INCONCLUSIVE, "no fault was applied"


def _place(check: Check) -> str:
    words = {"before": "Before the fault", "during": "During the fault", "after": "After recovery"}
    return words.get(check.phase, check.phase.capitalize())


def _held(checks: tuple[Check, ...]) -> str:
    return f"All {len(checks)} checks held, before, during and after the fault."


def _numbers(ledger: Ledger, recovery: Recovered | None) -> dict[str, Any]:
    requests = ledger.whole.requests
    during = ledger.phases.get("during")
    flips = int(during.pairs.flips.sum()) if during else 0
    pairs = int(during.pairs.rows.sum()) if during else 0
    return {
        "requests": len(requests),
        "failed": int((~requests.ok).sum()),
        "late": int(requests.late.sum()),
        "rows": {
            name: {origin.name: int(total) for origin in Origin if (total := window.requests.origins[:, origin].sum())}
            for name, window in ledger.phases.items()
        },
        "pairs": pairs,
        "flip_rate": flips / pairs if pairs else None,
        "psi": PSI.measure(during).value if during else None,
        "recovery_s": recovery.after_s if recovery else None,
    }
