"""Who is judged has a core as soon as it wants one, and whom it asks and who watches it; nobody else does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.watchdog import command, put_ahead, queued_s

_AHEAD = """
import json, os, subprocess, sys, threading
from tests.live.watchdog import go_ahead
go_ahead()
threads = []
thread = threading.Thread(target=lambda: threads.append(os.sched_getscheduler(0)))
thread.start()
thread.join()
with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
    policy = os.sched_getscheduler(child.pid)
    child.communicate(b"\\n")
print(json.dumps({"threads": [os.sched_getscheduler(0), *threads], "child": policy}))
"""


def may_go_ahead() -> bool:
    """Whether a process of this user may have a real-time priority."""
    ask = "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"
    return subprocess.run([sys.executable, "-c", ask], capture_output=True, check=False).returncode == 0


def test_every_thread_goes_ahead_and_no_child_does(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _AHEAD], cwd=root, capture_output=True, check=True)

    policy = os.SCHED_RR if may_go_ahead() else os.SCHED_OTHER
    assert json.loads(done.stdout) == {"threads": [policy, policy], "child": os.SCHED_OTHER}


def test_a_server_that_is_put_ahead_goes_ahead() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as server:
        put_ahead(server.pid)
        policy = os.sched_getscheduler(server.pid)
        server.communicate(b"\n")

    assert policy == (os.SCHED_RR if may_go_ahead() else os.SCHED_OTHER)


@pytest.mark.parametrize("ahead", [False, True])
def test_who_watches_goes_ahead_of_whom_it_watches(ahead: bool) -> None:
    watching = command(min(os.sched_getaffinity(0)), 0.0, ahead=ahead)
    with subprocess.Popen(watching, stdout=subprocess.PIPE) as watcher:
        assert watcher.stdout is not None
        watcher.stdout.readline()
        policy, turn = os.sched_getscheduler(watcher.pid), os.sched_getparam(watcher.pid).sched_priority
        watcher.kill()

    assert (policy, turn) == ((os.SCHED_RR, 2) if ahead and may_go_ahead() else (os.SCHED_OTHER, 0))


def test_seconds_that_somebody_waited_for_a_core_only_grow() -> None:
    before = queued_s()

    assert 0 <= before <= queued_s()
