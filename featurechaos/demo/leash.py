"""Child processes that die with us, however we die."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

_START_MOST_S = 10.0

# Asks the kernel to SIGKILL this process when the thread that made it ends, then becomes the
# server: the mark survives exec. The parent may have died in between, hence the second look.
# A wrapper rather than preexec_fn, which may deadlock in a process that has threads.
_LEASH = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclass(slots=True)
class _Job:
    argv: list[str]
    cwd: Path
    log: Path
    pass_fds: tuple[int, ...]
    done: Future[subprocess.Popen[bytes]] = field(default_factory=Future)


class _Spawner:
    """One thread that starts every child and lives as long as the process.

    The kernel ties the leash to the *thread* that forked: a child started by a short-lived worker
    would be killed when that worker ends. So no caller forks; this thread does.
    """

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="featurechaos-spawner", daemon=True).start()

    def spawn(self, job: _Job) -> subprocess.Popen[bytes]:
        self._jobs.put(job)
        return job.done.result(_START_MOST_S)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job.done.set_result(_popen(job))
            except OSError as error:
                job.done.set_exception(error)
            # Held until the next job otherwise, and a Popen warns when it is dropped late.
            del job


_lock = threading.Lock()
_spawner: _Spawner | None = None


def spawn(argv: Sequence[str], *, cwd: Path, log: Path, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
    """Start a process that is SIGKILLed by the kernel when ours ends, by whatever death (Linux).

    It runs in a session of its own, so that Ctrl-C in a terminal reaches us and not it. Elsewhere
    than on Linux it dies with a normal end of ours only.

    Args:
        argv: the program, looked up on PATH, and its arguments.
        log: where its stdout and stderr are added.

    Raises:
        OSError: it could not be started.
    """
    global _spawner  # noqa: PLW0603 - one thread for the process, made on first use and after a fork.
    with _lock:
        if _spawner is None or _spawner.owner != os.getpid():
            _spawner = _Spawner()
        spawner = _spawner
    return spawner.spawn(_Job([*_leashed(), *argv], cwd, log, pass_fds))


def _leashed() -> list[str]:
    if sys.platform != "linux":
        return []
    return [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid())]


def _popen(job: _Job) -> subprocess.Popen[bytes]:
    with job.log.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own command line.
            job.argv,
            cwd=job.cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=job.pass_fds,
            start_new_session=True,
        )


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it at the fork.
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
