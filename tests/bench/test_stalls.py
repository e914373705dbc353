"""When the machine was busy elsewhere: counted once, and really seen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest

from featurechaos.bench import stalls as stalling
from featurechaos.bench.stalls import Stalls, busy_s
from featurechaos.clock import SystemClock

_now = SystemClock().monotonic
BURN = "import time; until = time.monotonic() + 20\nwhile time.monotonic() < until: pass"


def test_spans_that_overlap_are_counted_once() -> None:
    spans = ((1.0, 2.0), (1.5, 2.5), (4.0, 4.1))
    begin, end = np.array([0.0, 1.2, 2.4, 2.6, 4.05, 5.0]), np.array([10.0, 1.3, 2.7, 3.0, 9.0, 6.0])

    assert busy_s(spans, begin, end) == pytest.approx([1.6, 0.1, 0.1, 0.0, 0.05, 0.0])
    assert busy_s((), begin, end).tolist() == [0.0] * 6


@pytest.fixture
def a_session_as_any_other() -> Iterator[None]:
    """Other tests may have let theirs go before others: who watches has one of its own, and would get no turn."""
    group = Path("/proc/self/autogroup")
    try:
        niceness = group.read_text().split()[-1]
        group.write_text("0\n")
    except (OSError, IndexError):  # Linux does not share this machine out by sessions
        yield
        return
    yield
    with suppress(OSError):
        group.write_text(f"{niceness}\n")


@pytest.mark.slow
@pytest.mark.usefixtures("a_session_as_any_other")
@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="Linux counts it")
def test_a_process_that_gets_no_core_is_seen_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalling, "MOST_CORES", 0)  # by what Linux says, and not by those who look at the time
    cores = len(os.sched_getaffinity(0))
    with ExitStack() as ending, Stalls() as stalls:
        began = _now()
        for _ in range(3 * cores):
            burner = ending.enter_context(subprocess.Popen([sys.executable, "-I", "-S", "-c", BURN]))
            ending.callback(burner.kill)
        # The work of a request, again and again, while three others want each core.
        while not (seen := stalls.since(began)) and _now() - began < 15:
            sum(range(10_000))

    assert seen
    assert all(first < last for first, last in seen)
