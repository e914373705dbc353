"""A process that is not ours: stopped, and let go again whatever becomes of us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurechaos.bench.given import Given
from featurechaos.clock import SystemClock
from featurechaos.errors import RequestError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="states of processes are read from /proc")
_now = SystemClock().monotonic

# Freezes the process it is given and says so; then it waits to be killed.
_FREEZER = """
import sys, threading
from featurechaos.bench.given import Given
Given(int(sys.argv[1]), most_s=60).freeze()
print("frozen", flush=True)
threading.Event().wait(60)
"""


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process to hurt."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(120)"]) as process:
        yield process
        process.kill()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def becomes_running(pid: int, within_s: float = 20.0) -> bool:
    until = _now() + within_s
    while state(pid) == "T":
        if _now() > until:
            return False
        threading.Event().wait(0.005)
    return True


def test_a_frozen_process_is_stopped_at_once_and_runs_on_when_it_is_let_go(victim: subprocess.Popen[bytes]) -> None:
    given = Given(victim.pid, most_s=60)

    given.freeze()
    assert state(victim.pid) == "T"
    given.thaw()

    assert becomes_running(victim.pid, 0.5)
    given.thaw()  # again, which does nothing


def test_it_runs_on_when_whoever_froze_it_is_killed(victim: subprocess.Popen[bytes]) -> None:
    command = [sys.executable, "-c", _FREEZER, str(victim.pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as freezer:
        assert freezer.stdout is not None and freezer.stdout.readline() == "frozen\n"
        assert state(victim.pid) == "T"

        freezer.kill()

        assert becomes_running(victim.pid)


def test_it_runs_on_when_the_time_is_over(victim: subprocess.Popen[bytes]) -> None:
    given = Given(victim.pid, most_s=0.2)

    given.freeze()

    assert becomes_running(victim.pid)
    given.thaw()


def test_one_that_ended_while_it_was_stopped_leaves_nothing_to_undo(victim: subprocess.Popen[bytes]) -> None:
    given = Given(victim.pid, most_s=60)
    given.freeze()
    victim.kill()
    victim.wait()

    given.thaw()

    assert not given.is_there
    with pytest.raises(RequestError, match="has ended since it was named"):
        given.freeze()
    with pytest.raises(RequestError, match="has ended since it was named"):
        given.kill()


def test_it_is_killed_only_when_asked(victim: subprocess.Popen[bytes]) -> None:
    Given(victim.pid, most_s=60).kill()

    assert victim.wait(20) == -signal.SIGKILL


def test_who_may_not_be_hurt_is_refused(victim: subprocess.Popen[bytes]) -> None:
    for pid in (os.getpid(), os.getppid(), 1, 0):
        with pytest.raises(RequestError, match="runs this command"):
            Given(pid, most_s=60)
    victim.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, victim.pid, os.WSTOPPED | os.WNOWAIT)
    with pytest.raises(RequestError, match="is stopped already"):
        Given(victim.pid, most_s=60)
    victim.kill()
    victim.wait()
    with pytest.raises(RequestError, match=f"there is no process {victim.pid}"):
        Given(victim.pid, most_s=60)
