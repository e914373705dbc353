"""What stderr is told while something takes long."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from featurechaos.cli import progress
from featurechaos.cli.progress import Working

SCRIPT = """
from featurechaos.cli.progress import Working
with Working("scanning primary", takes_s=10) as working:
    working.say("[bold]a line that stays")
    working.tell("scanning primary: 5 rows")
    working._bar.refresh()
"""


def test_something_short_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Working("publishing"):
        pass

    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_it_says_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_FIRST_BEAT_S", 0.0)
    monkeypatch.setattr(progress, "_BEAT_S", 0.01)

    with Working("publishing") as working:
        working.tell("publishing: 5 rows")
        working.say("a line that stays")
        said = ""
        while "rows" not in said:
            said += capsys.readouterr().err

    assert "a line that stays\n" in said
    assert "publishing: 5 rows (0 s)\n" in said
    assert "\x1b" not in said


def test_on_a_terminal_it_draws_and_leaves_only_what_stays() -> None:
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    subprocess.run([sys.executable, "-c", SCRIPT], stderr=theirs, env=environ, check=True)
    os.close(theirs)

    drawn = os.read(ours, 1 << 16).decode()
    os.close(ours)

    assert "[bold]a line that stays" in drawn
    assert "scanning primary: 5 rows" in drawn
    assert drawn.rstrip().endswith(("\x1b[2K", "\x1b[1A\x1b[2K"))
