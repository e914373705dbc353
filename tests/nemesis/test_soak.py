"""A minute of every fault on real servers breaks no promise, and bugs planted in the readers are found."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nemesis.checker import Judged, judge
from tests.nemesis.history import History
from tests.nemesis.soak import HELD, NOT_COVERED, VIOLATED
from tests.nemesis.times import NOISY_SHARE, still_share

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.long]

SEED, SECONDS = 7, 60
ATTEMPTS = 2
PLANT_SEED, PLANT_SECONDS = 22, 15
_MOST_S = 140
_OF_TIME = {"a", "g"}
"""Promises that a machine which stands still keeps nobody from breaking."""


def soaked(folder: Path, *arguments: str) -> tuple[int, str, str, History]:
    """A run of the command: its exit code, its last line, all it said, and what it left behind."""
    command = [sys.executable, "-m", "tests.nemesis.soak", "--keep", str(folder), *arguments]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=_MOST_S, check=False)
    assert done.stdout, done.stderr
    return done.returncode, done.stdout.splitlines()[-1], done.stderr, History.read(folder)


def test_no_promise_is_broken(tmp_path: Path, tell: Callable[[str], None]) -> None:
    late: list[dict[str, list[str]]] = []
    for attempt in range(ATTEMPTS):
        code, line, said, history = soaked(tmp_path / f"{attempt}", "--seconds", f"{SECONDS}", "--seed", f"{SEED}")
        tell(line)
        judged = judge(history)

        # The command judges as we do, and says so.
        assert line == judged.line
        assert code == (VIOLATED if judged.violations else NOT_COVERED if judged.uncovered else HELD)
        # These hold on any machine; what was not in time counts only where the machine let it be.
        assert judged.uncovered == [], said
        assert set(judged.violations) <= _OF_TIME, said
        if not judged.violations:
            return
        if still_share(history) > NOISY_SHARE:
            pytest.xfail(f"the machine stood still too much to tell: {line}")
        late.append(judged.violations)
    pytest.fail(f"not in time, on a machine that did not stand still: {late}")


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

    code, _, said, history = soaked(tmp_path, "--seconds", f"{PLANT_SECONDS}", "--seed", f"{PLANT_SEED}", *planted)

    assert code == VIOLATED, said
    judged: Judged = judge(history)
    for plant in plants:
        letter, words = PLANTED[plant]
        assert any(words in text for text in judged.violations.get(letter, ())), (plant, said)
