"""One server of ours: a child process on a free loopback port, from start to stop."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from featurechaos.clock import SystemClock
from featurechaos.demo.leash import spawn
from featurechaos.demo.tempdir import TempDir
from featurechaos.errors import FeatureError

_now = SystemClock().monotonic

_START_ATTEMPTS = 3
_DEATH_MOST_S = 10.0
_LOG_TAIL_BYTES = 2000


class ServerFailed(FeatureError):
    """A server of ours did not start, or is not running when it should be."""


class HeldPort:
    """A free loopback port that stays ours while nothing listens on it, between a kill and a restart.

    A bound socket that never listens refuses connections as a dead server does, lets a listener
    with SO_REUSEADDR in beside it, and keeps the kernel from giving the port to anyone else, be it
    to a client of ours as the source port of a connection to itself. That is so on Linux;
    elsewhere the port is only found, and let go before the server takes it.
    """

    __slots__ = ("_socket", "number")

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        # After the bind: with it set before, the kernel may hand out a port that someone else holds.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.number: int = self._socket.getsockname()[1]
        if sys.platform != "linux":
            self._socket.close()

    def close(self) -> None:
        self._socket.close()


class Server(ABC):
    """A child process that we start, hurt and stop by its pid; a context manager.

    `stop` is called at the end of the `with`, at the interpreter's exit, and by the kernel if we
    are killed (see `leash`). A forked child of ours may hurt the server but never stops it.
    """

    name: ClassVar[str]
    start_most_s: ClassVar[float] = 30.0
    poll_every_s: ClassVar[float] = 0.01

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._dir: TempDir | None = None
        self._ports: dict[str, HeldPort] = {}
        self._owner = os.getpid()
        self._lock = threading.RLock()

    @abstractmethod
    def _argv(self) -> list[str]:
        """The command, given `self.folder` and `self._port(name)`."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether it answers now; must itself be bounded."""

    def _pass_fds(self) -> tuple[int, ...]:
        return ()

    def _tidy(self) -> None:  # noqa: B027 - most have nothing to tidy.
        """Remove what it leaves outside its folder; it is dead by now."""

    def start(self) -> Self:
        """Start it and wait until it answers; ServerFailed with the end of its log if it does not."""
        with self._lock:
            if self.is_running:
                msg = f"{self.name} is already running, with pid {self.pid}"
                raise ServerFailed(msg)
            self._owner = os.getpid()
            self._dir = self._dir or TempDir()
            _running.add(self)
            try:
                self._start()
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> None:
        """End it, frozen or not, and remove its folder; never raises for one that is gone already."""
        if self._owner != os.getpid():
            return
        with self._lock:
            self.kill()
            self._tidy()
            self._let_ports_go()
            if self._dir is not None:
                self._dir.close()
                self._dir = None
            _running.discard(self)

    def kill(self) -> None:
        """SIGKILL it and wait until it is dead; its port refuses connections from then on."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.kill()
        process.wait(_DEATH_MOST_S)

    def freeze(self) -> None:
        """SIGSTOP it: connections are still accepted by the kernel, and nobody answers."""
        self._signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):
            # A stop is delivered a moment after kill() returns, in which one more reply could slip out.
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """SIGCONT it: it answers what has queued up meanwhile."""
        self._signal(signal.SIGCONT)

    def restart(self) -> Self:
        """Kill it if it still runs, and start it again on the same port, with the data it keeps."""
        with self._lock:
            self.kill()
            return self.start()

    @property
    def pid(self) -> int:
        """The pid of the running process, or of the last one."""
        if self._process is None:
            msg = f"{self.name} was never started"
            raise ServerFailed(msg)
        return self._process.pid

    @property
    def port(self) -> int:
        """Its TCP port on 127.0.0.1; the same after a restart."""
        return self._port("port")

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def folder(self) -> Path:
        """Its private folder, removed by `stop`."""
        if self._dir is None:
            msg = f"{self.name} is not started"
            raise ServerFailed(msg)
        return self._dir.path

    def log(self) -> str:
        """The end of what it printed."""
        if self._dir is None or not (path := self._dir.path / "server.log").exists():
            return ""
        return path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()

    def _port(self, name: str) -> int:
        """The number of one of its ports, found on first use and held until `stop`."""
        with self._lock:
            if name not in self._ports:
                self._ports[name] = HeldPort()
            return self._ports[name].number

    def _start(self) -> None:
        may_move = not self._ports
        for left in reversed(range(_START_ATTEMPTS)):
            argv, log = self._argv(), self.folder / "server.log"
            try:
                self._process = spawn(argv, cwd=self.folder, log=log, pass_fds=self._pass_fds())
            except OSError as error:
                msg = f"{self.name} could not be started: {error}"
                raise ServerFailed(msg) from error
            if self._became_ready():
                return
            if not (left and may_move):
                break
            self._let_ports_go()
        code = self._process and self._process.returncode
        msg = f"{self.name} ended with code {code} instead of starting; it said: {self.log()}"
        raise ServerFailed(msg)

    def _became_ready(self) -> bool:
        """True once it answers, False once it is dead; ServerFailed past `start_most_s`."""
        until = _now() + self.start_most_s
        while not self._died_within(self.poll_every_s):
            if self._is_ready():
                return self.is_running
            if _now() > until:
                msg = f"{self.name} did not answer within {self.start_most_s:g} s; it said: {self.log()}"
                raise ServerFailed(msg)
        return False

    def _died_within(self, wait_s: float) -> bool:
        assert self._process is not None
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _let_ports_go(self) -> None:
        for port in self._ports.values():
            port.close()
        self._ports = {}

    def _signal(self, number: signal.Signals) -> None:
        if not self.is_running:
            msg = f"{self.name} is not running, so {number.name} has no one to go to"
            raise ServerFailed(msg)
        os.kill(self.pid, number)

    def __enter__(self) -> Self:
        return self if self.is_running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"pid {self._process.pid}" if self._process is not None and self.is_running else "stopped"
        return f"<{type(self).__name__} {state}>"


_running: set[Server] = set()


@atexit.register
def _stop_all() -> None:
    for server in list(_running):
        server.stop()
