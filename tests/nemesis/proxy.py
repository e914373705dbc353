"""A TCP proxy that damages, cuts, slows and refuses, speaks HTTP errors, and notes every read it carried."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any, ClassVar

from featurechaos.demo.process import Server, ServerFailed

_ANSWER_MOST_S = 10.0


class FaultProxy(Server):
    """Stands before a server on loopback; `port` is where to connect instead. See `relay.py` for its modes.

    `pass`, `trickle` (replies byte by byte), `wrong_bytes` (some bytes of replies changed), `truncate` (replies that
    end early, with or without the connection), `reset`, `gone` (nobody listens), and for HTTP `500`, `503`, `slow`.
    """

    name: ClassVar[str] = "the fault proxy"

    def __init__(self, target_port: int, log: Path, seed: int) -> None:
        super().__init__()
        self._target_port, self._log, self._seed = target_port, log, seed
        self._ours: socket.socket | None = None
        self._theirs: socket.socket | None = None
        self._rest = b""

    def turn(self, mode: str, *, every_s: float = 0.005) -> dict[str, Any]:
        """Put a mode in force; it is when this returns. Gives the counts so far."""
        return self._told({"mode": mode, "every_s": every_s})

    def watch(self, text: str) -> int:
        """From now on count what is asked for with this text in it; the count so far."""
        count: int = self._told({"watch": text})["counts"].get("watched", 0)
        return count

    def counts(self) -> dict[str, Any]:
        """How often each fault took effect so far, under `counts`, and how many connections are `open`."""
        return self._told({})

    def kill(self) -> None:
        super().kill()
        for end in filter(None, (self._ours, self._theirs)):
            end.close()
        self._ours = self._theirs = None

    def _told(self, order: dict[str, Any]) -> dict[str, Any]:
        if self._ours is None:
            msg = "the proxy is not running"
            raise ServerFailed(msg)
        self._ours.sendall(json.dumps(order).encode() + b"\n")
        return self._answered(self._ours)

    def _answered(self, ours: socket.socket) -> dict[str, Any]:
        while b"\n" not in self._rest:
            piece = ours.recv(1 << 16)
            if not piece:
                msg = f"the proxy ended; it said: {self.log()}"
                raise ServerFailed(msg)
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _argv(self) -> list[str]:
        self._ours, self._theirs = socket.socketpair()
        self._ours.settimeout(_ANSWER_MOST_S)
        relay = Path(__file__).with_name("relay.py")
        numbers = (self._theirs.fileno(), self.port, self._target_port)
        return [sys.executable, "-I", "-S", str(relay), *map(str, numbers), str(self._log), str(self._seed)]

    def _pass_fds(self) -> tuple[int, ...]:
        return () if self._theirs is None else (self._theirs.fileno(),)

    def _is_ready(self) -> bool:
        if self._theirs is not None:
            # With our copy of its end closed, its death ends our wait.
            self._theirs.close()
            self._theirs = None
        try:
            return self._ours is not None and self._answered(self._ours) == {}
        except ServerFailed:
            return False
