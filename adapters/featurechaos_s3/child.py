"""The serving process's side of hydration: start the child, wait for its lines, end it in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

NICE = 10
# Before any import: these take a third of a second of CPU, beside a process that serves. Where Linux shares a machine
# out by sessions ("autogroup"), niceness counts within one only, and the child has a session of its own.
_PROGRAM = f"""
import os, sys
os.nice({NICE})
try:
    with open("/proc/self/autogroup", "w") as file:
        file.write("{NICE}")
except OSError:
    pass
from featurechaos_s3.hydrate import main
sys.exit(main())
"""


class Hydrator:
    """Runs one child at a time for each caller; `stop` ends those still at work.

    State: the children at work, under one lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[bytes]] = set()
        self._is_stopped = False

    def run(self, job: Mapping[str, Any], timeout_s: float) -> tuple[dict[str, dict[str, Any]], str]:
        """Have a job done.

        Returns:
            what became of each view that was finished in time, by its name; and in one sentence why there
            may be views missing, empty when the child ended well.
        """
        content = json.dumps({**job, "parent": os.getpid()}).encode()
        child = self._started()
        if child is None:
            return {}, "the source is closed"
        try:
            out, told = child.communicate(content, timeout=max(0.0, timeout_s))
            why = "" if child.returncode == 0 else _last_words(child.returncode, told)
        except subprocess.TimeoutExpired:
            child.kill()
            out, _ = child.communicate()
            why = f"hydration did not finish in {timeout_s:.3g} s"
        finally:
            self._ended(child)
        return _outcomes(out), why

    def stop(self) -> None:
        """End the children at work and start no more."""
        with self._lock:
            self._is_stopped = True
            for child in self._children:
                child.kill()

    def _started(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._is_stopped:
                return None
            # -P: a `json.py` in the working directory is no part of us. The child's niceness, umask and death
            # are its own doing, since nothing safe runs between fork and exec in a process with threads.
            child = subprocess.Popen(  # noqa: S603 - all of it is ours
                [sys.executable, "-P", "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
            self._children.add(child)
            return child

    def _ended(self, child: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._children.discard(child)
        if child.poll() is None:
            child.kill()
            child.wait()


def _last_words(code: int, told: bytes) -> str:
    if code < 0:
        return f"the hydrating process was killed by signal {-code}"
    lines = told.decode(errors="replace").strip().splitlines() or ["without a word"]
    return f"the hydrating process ended with {code}: {lines[-1][:300]}"


def _outcomes(out: bytes) -> dict[str, dict[str, Any]]:
    found = {}
    for line in out.splitlines():
        with suppress(ValueError, KeyError, TypeError):  # a line cut off by the kill
            outcome = json.loads(line)
            found[outcome["view"]] = outcome
    return found
