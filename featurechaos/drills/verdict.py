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
from typing import Any

from featurechaos.drills.checks import Check, Outcome, checks_of, place
from featurechaos.drills.history import End, Fault, GuardState, History, Note, Start
from featurechaos.drills.probes import Psi
from featurechaos.drills.reading import script_of
from featurechaos.drills.recovery import Recovered, recovered
from featurechaos.drills.script import Script
from featurechaos.drills.window import Ledger
from featurechaos.errors import SpecError
from featurechaos.model import Origin

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
MOST_UNASKED = 0.01
"""Past this share of arrivals that were due and never asked, the load was not the one the script wanted."""
PSI = Psi(probe="psi", max=0.2)
"""The monitor most people have, with its customary alarm; told in every verdict."""


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


def did_not_apply(fault: str, why: str) -> str:
    """The sentence on a fault that was not done."""
    return _said(f"{fault} did not apply", why)


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
    checks = tuple(checks_of(ledger, script, recovery))
    found = [*_ends(history), *_failures(checks), *_doubts(history, checks, ledger)]
    outcome, sentence = min(found, key=lambda one: WORST_FIRST.index(one[0]), default=(Outcome.HELD, _held(checks)))
    return Verdict(outcome, script.title, sentence, checks, _numbers(ledger, recovery))


def _ends(history: History) -> Iterator[tuple[Outcome, str]]:
    """What ended the drill other than its own last line."""
    for fault in history.of(Fault):
        if fault.state == "undo_failed":
            yield Outcome.UNDO_FAILED, _said(f"{fault.name} could not be undone and may still be on", fault.detail)
    end = next(iter(history.of(End)), None)
    if end is None:
        yield Outcome.INTERRUPTED, "The journal breaks off: the drill did not get to its end"
    elif end.reason in ("interrupted", "error"):
        yield Outcome.INTERRUPTED, _said("The drill was ended early", end.detail or end.reason)
    for guard in history.of(GuardState):
        if guard.tripped:
            yield Outcome.GUARD, _said(f"Stopped at {guard.t:.1f} s by the guard {guard.guard}", guard.detail)
    if end and end.reason == "guard":
        yield Outcome.GUARD, _said("Stopped by a guard", end.detail)


def _failures(checks: Iterable[Check]) -> Iterator[tuple[Outcome, str]]:
    failed = [check for check in checks if check.outcome is Outcome.WEAKNESS]
    # A system that was not steady to begin with proves nothing about the fault.
    if failed and not any(check.phase == "before" for check in failed):
        first = failed[0]
        rest = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        yield Outcome.WEAKNESS, f"{place(first)}, {first.name}: wanted {first.wanted}, got {first.got}{rest}"


def _doubts(history: History, checks: Iterable[Check], ledger: Ledger) -> Iterator[tuple[Outcome, str]]:
    """Why a drill in which nothing failed can still not be called held."""
    for check in checks:
        if check.phase == "before" and check.outcome is Outcome.WEAKNESS:
            said = f"It was not steady before anything was touched: {check.name} wanted {check.wanted}, got {check.got}"
            yield Outcome.INCONCLUSIVE, said
    for fault in history.of(Fault):
        if fault.state in ("failed", "not_applied"):
            yield Outcome.INCONCLUSIVE, did_not_apply(fault.name, fault.detail)
    for check in checks:
        if check.outcome is Outcome.UNKNOWN:
            doubt = f"{place(check)}, {check.name}: wanted {check.wanted}, got {check.got}"
            yield Outcome.INCONCLUSIVE, doubt if check.why in ("", check.got) else f"{doubt}, {check.why}"
    if any(end.dropped for end in history.of(End)) or any(one.event == "history.truncated" for one in history.of(Note)):
        yield Outcome.INCONCLUSIVE, "The journal was full: part of the drill was not written down"
    unasked = [one for one in history.of(Note) if one.event == "drill.unasked"]
    missed = sum(one.count or 0 for one in unasked)
    if missed > MOST_UNASKED * (missed + len(ledger.whole.requests)):
        yield Outcome.INCONCLUSIVE, _said("The load was not the one wanted", unasked[0].detail)
    if not ledger.fault_windows:
        yield Outcome.INCONCLUSIVE, "No fault was applied"


def _said(what: str, detail: str) -> str:
    return f"{what}: {detail}" if detail else what


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
