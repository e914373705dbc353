"""A minute of every fault on real servers breaks no promise, and bugs planted in the readers are found."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nemesis.checker import Judged, judge
from tests.nemesis.clocks import now
from tests.nemesis.history import History
from tests.nemesis.soak import HELD, NOT_COVERED, VIOLATED
from tests.nemesis.times import is_noisy

pytestmark = [pytest.mark.live, pytest.mark.slow]

SEED, SECONDS = 7, 60
ATTEMPTS = 2
PLANT_SEED, PLANT_SECONDS, PLANT_ATTEMPTS = 22, 15, 3
_MOST_S = 220
"""Of all attempts together: pytest ends a test that takes 300."""
_OF_TIME = {"a", "g"}
"""Promises that a machine which stands still keeps nobody from breaking."""


def soaked(folder: Path, *arguments: str, most_s: float = _MOST_S) -> tuple[int, str, str, History]:
    """A run of the command: its exit code, its last line, all it said, and what it left behind."""
    command = [sys.executable, "-m", "tests.nemesis.soak", "--keep", str(folder), *arguments]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=most_s, check=False)
    assert done.stdout, done.stderr
    return done.returncode, done.stdout.splitlines()[-1], done.stderr, History.read(folder)


def test_no_promise_is_broken(tmp_path: Path, tell: Callable[[str], None]) -> None:
    asked = ("--seconds", f"{SECONDS}", "--seed", f"{SEED}")
    complaints: list[str] = []
    noisy, began, took_s = list[bool](), now(), 0.0
    while len(noisy) < ATTEMPTS and (left_s := began + _MOST_S - now()) > 1.25 * took_s:
        code, line, said, history = soaked(tmp_path / f"{len(noisy)}", *asked, most_s=left_s)
        tell(line)
        judged = judge(history)

        # The command judges as we do, and says so.
        assert line == judged.line
        assert code == (VIOLATED if judged.violations else NOT_COVERED if judged.uncovered else HELD)
        # These hold on any machine, each time; what was not in time, or not seen, may be the machine's doing.
        assert set(judged.violations) <= _OF_TIME, said
        if code == HELD:
            return
        noisy.append(is_noisy(history))
        took_s = (now() - began) / len(noisy)
        complaints += [*(text for kind in _OF_TIME for text in judged.violations.get(kind, ())), *judged.uncovered]
        tell(f"{complaints[-1]}; cores were wanted in {history.queued_share:.0%} of the time")
    if any(noisy):
        pytest.xfail(f"the machine stood still, or was too busy to tell, in {sum(noisy)} of {len(noisy)} runs")
    pytest.fail("\n".join(complaints))


PLANTED: dict[str, tuple[str, str]] = {
    "swap_rows": ("b", "nobody wrote that row"),
    "drop_age": ("d", "its age is another"),
    "serve_past_limit": ("c", "served past the hard limit"),
    "lose_permit": ("g", "of"),
}


# One run rather than four: these bugs break different promises, so it shows whether each is found. The fifth,
# keep_cancelled_connection, takes up to a minute to show: `make soak SOAK_S=60 SOAK_PLANT=keep_cancelled_connection`.
@pytest.mark.parametrize("plants", [("swap_rows", "serve_past_limit", "lose_permit", "drop_age")], ids=str)
def test_planted_bugs_are_found(plants: tuple[str, ...], tmp_path: Path) -> None:
    planted = [f"--plant={plant}" for plant in plants]

    hidden, said = list(plants), ""
    for attempt in range(PLANT_ATTEMPTS):  # a machine that is too busy may end a run before all of them have shown
        folder = tmp_path / f"{attempt}"
        code, _, said, history = soaked(folder, "--seconds", f"{PLANT_SECONDS}", "--seed", f"{PLANT_SEED}", *planted)

        assert code == VIOLATED, said
        hidden = [plant for plant in plants if not shows(judge(history), *PLANTED[plant])]
        if not hidden:
            return
    pytest.fail(f"not found: {hidden}\n{said}")


def shows(judged: Judged, letter: str, words: str) -> bool:
    """Whether a promise was found broken in that way."""
    return any(words in text for text in judged.violations.get(letter, ()))
