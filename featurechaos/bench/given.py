"""A server that is not ours, named by its pid: frozen and let go again whatever becomes of us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from featurechaos.clock import SystemClock
from featurechaos.errors import RequestError

_READY_MOST_S = 10.0
_STOP_MOST_S = 1.0
_LOOK_S = 0.001

# Lets the process go once its stdin ends (we let go, or died) or the time is over, whichever comes first.
_KEEPER = """
import os, select, signal, sys
sys.stdout.write("ready\\n")
sys.stdout.flush()
select.select([0], [], [], float(sys.argv[2]))
try:
    os.kill(int(sys.argv[1]), signal.SIGCONT)
except OSError:
    pass
"""


class Given:
    """One process by its pid. It is never left stopped for more than `most_s`; `thaw` may be called again.

    Raises RequestError where there is no such process, it may not be signalled, or it is no server of a store.
    """

    def __init__(self, pid: int, *, most_s: float) -> None:
        self.pid = pid
        self._most_s = most_s
        self._keeper: subprocess.Popen[str] | None = None
        self._must_be_there()
        self._born = _born(pid)
        self.name = _name(pid)

    def freeze(self) -> None:
        """SIGSTOP it, with a keeper beside us that lets it go should we be killed."""
        self._must_be_the_same()
        if self._keeper is None:
            self._keeper = self._kept()
        os.kill(self.pid, signal.SIGSTOP)
        self._await_stop()

    def thaw(self) -> None:
        """SIGCONT it; one that ended meanwhile has nothing left to undo."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        try:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)
        finally:
            with keeper:  # its stdin ends here, and so does it
                pass

    def kill(self) -> None:
        """SIGKILL it: whether it comes back is up to whoever watches over it."""
        self._must_be_the_same()
        os.kill(self.pid, signal.SIGKILL)

    def restart(self) -> None:
        """Refused: it is not ours to start."""
        msg = f"process {self.pid} is not ours to start"
        raise RequestError(msg)

    @property
    def is_there(self) -> bool:
        """Whether the very process that was named still runs."""
        return _state(self.pid) not in {"gone", "Z"} and _born(self.pid) == self._born

    def _must_be_there(self) -> None:
        if self.pid in {os.getpid(), os.getppid()} or self.pid <= 1:
            msg = f"process {self.pid} runs this command: wanted the pid of a store's server"
            raise RequestError(msg)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            msg = f"there is no process {self.pid}"
            raise RequestError(msg) from None
        except PermissionError:
            msg = f"process {self.pid} may not be signalled by this user"
            raise RequestError(msg) from None
        if _state(self.pid) == "T":
            msg = f"process {self.pid} is stopped already: let it go first (kill -CONT {self.pid})"
            raise RequestError(msg)

    def _must_be_the_same(self) -> None:
        if not self.is_there:
            msg = f"process {self.pid} has ended since it was named"
            raise RequestError(msg)

    def _kept(self) -> subprocess.Popen[str]:
        keeper = subprocess.Popen(  # noqa: S603 - our own few lines
            [sys.executable, "-I", "-S", "-c", _KEEPER, str(self.pid), str(self._most_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C in a terminal is for us, and the keeper outlives us
        )
        assert keeper.stdout is not None
        told: list[str] = []
        reader = threading.Thread(target=lambda out=keeper.stdout: told.append(out.readline()), daemon=True)
        reader.start()
        reader.join(_READY_MOST_S)
        if told != ["ready\n"]:
            keeper.kill()
            with keeper:
                pass
            msg = f"nobody would let process {self.pid} go should we end early, so it is not stopped"
            raise RequestError(msg)
        return keeper

    def _await_stop(self) -> None:
        """A stop is delivered a moment after `kill` returns, in which one more reply could slip out."""
        clock = SystemClock()
        until = clock.monotonic() + _STOP_MOST_S
        while _state(self.pid) not in {"T", "gone", "unknown"} and clock.monotonic() < until:
            threading.Event().wait(_LOOK_S)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name, which may hold anything; None where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _state(pid: int) -> str:
    """One letter as Linux has it, `gone`, or `unknown` elsewhere."""
    if not Path("/proc/self/stat").exists():
        return "unknown"
    fields = _stat(pid)
    return fields[0] if fields else "gone"


def _born(pid: int) -> str:
    """When it started, in the kernel's ticks: a pid that is given again has another."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
