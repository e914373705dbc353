"""A TCP proxy that can be told to behave badly while connections are open."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import ClassVar, Literal, get_args

from featurechaos.demo.process import Server, ServerFailed
from featurechaos.errors import RequestError

Mode = Literal["pass", "trickle", "hang", "reset"]
_ANSWER_MOST_S = 5.0


class TrickleProxy(Server):
    """Stands before a server on loopback; `port` is where to connect instead.

    Its modes, which change at once for open connections too:
    - `pass`: bytes go through.
    - `trickle`: the server's replies go one byte each `every_s`. Time-outs that start anew with
      each received byte never end.
    - `hang`: connections are accepted, nothing moves in either direction.
    - `reset`: open and new connections get a TCP reset.

    A process of its own, so that neither its work nor its garbage is in the caller's latencies;
    `kill` makes it refuse connections, `freeze` makes the kernel accept them and nobody answer.
    """

    name: ClassVar[str] = "the proxy"

    def __init__(self, target_port: int) -> None:
        super().__init__()
        self.target_port = target_port
        self._mode: Mode = "pass"
        self._ours: socket.socket | None = None
        self._theirs: socket.socket | None = None

    @property
    def mode(self) -> Mode:
        return self._mode

    def turn(self, mode: Mode, *, every_s: float = 0.005) -> None:
        """Put a mode in force; it is when this returns."""
        if mode not in get_args(Mode):
            msg = f"a proxy's mode is one of {', '.join(get_args(Mode))}, got {mode!r}"
            raise RequestError(msg)
        if not 0 < every_s <= 1:
            msg = f"every_s wants seconds within 0 and 1, got {every_s}"
            raise RequestError(msg)
        if self._ours is None or not self.is_running:
            msg = "the proxy is not running, so it cannot change its mode"
            raise ServerFailed(msg)
        if not self._told(self._ours, f"{mode} {every_s}\n"):
            msg = f"the proxy ended instead of changing its mode; it said: {self.log()}"
            raise ServerFailed(msg)
        self._mode = mode

    def kill(self) -> None:
        super().kill()
        self._close_control()

    def _close_control(self) -> None:
        for end in filter(None, (self._ours, self._theirs)):
            end.close()
        self._ours = self._theirs = None
        self._mode = "pass"

    def _argv(self) -> list[str]:
        self._close_control()
        self._ours, self._theirs = socket.socketpair()
        self._ours.settimeout(_ANSWER_MOST_S)
        relay = Path(__file__).with_name("relay.py")
        numbers = (self._theirs.fileno(), self.port, self.target_port)
        return [sys.executable, "-I", "-S", str(relay), *map(str, numbers)]

    def _pass_fds(self) -> tuple[int, ...]:
        return () if self._theirs is None else (self._theirs.fileno(),)

    def _is_ready(self) -> bool:
        """It sends one byte when it listens."""
        if self._theirs is not None:
            # With our copy of its end closed, its death ends our wait.
            self._theirs.close()
            self._theirs = None
        return self._ours is not None and self._answered(self._ours)

    def _told(self, ours: socket.socket, order: str) -> bool:
        try:
            ours.sendall(order.encode())
        except ConnectionError:
            return False
        return self._answered(ours)

    def _answered(self, ours: socket.socket) -> bool:
        """Wait for its one byte; False when it closed its end, that is, ended."""
        try:
            return bool(ours.recv(1))
        except ConnectionError:
            return False
        except OSError as error:
            msg = f"the proxy did not answer within {_ANSWER_MOST_S:g} s: {error}"
            raise ServerFailed(msg) from error
