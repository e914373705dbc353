"""Orders taken from another process: a control endpoint on loopback, for those who know the token.

    GET    /faults          the faults that are on
    POST   /faults          turn some on, for as long as the connection stays open; a line of JSON a second
    DELETE /faults          end all of them
    GET    /status          what goes on in this process
    POST   /sources/NAME    drain or hold a source, or decide on it again: {"order": "drain", "reason": "..."}
    POST   /reload          read its own config anew, and serve under its policy

The process that injects holds the connection: when it dies, hangs up or half-closes, or the lease ends, its
faults are cleared at once. A browser is refused by its Origin header, a body over 64 KiB unread.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import unquote

from featurechaos.errors import FeatureError, RequestError, SpecError
from featurechaos.faults.board import Board, Injection
from featurechaos.faults.orders import Order, ReloadOrder, SteerOrder, told_of
from featurechaos.locks import Locked

log = logging.getLogger(__name__)

MOST_BODY_BYTES = 64 * 1024
PATH, STATUS, SOURCES, RELOAD = "/faults", "/status", "/sources/", "/reload"
_MOST_CONNECTIONS = 16
_TICK_S = 1.0
_STALLED_S = 5.0


class Steer(Protocol):
    """`client.steer`."""

    def __call__(self, source: str, order: Any, *, reason: str) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Desk:
    """How a client obeys an operator, each on the thread that asks."""

    status: Callable[[], dict[str, Any]]
    steer: Steer
    reload: Callable[[], dict[str, Any]]


def listen(board: Board, at: str, token: str, now: Callable[[], float], desk: Desk | None = None) -> Control | None:
    """Take orders at `HOST:PORT` for a board and a client; None, and a line in the log, where the port cannot be had.

    Serving goes on then. Of several processes on one machine the first has the port.
    """
    host, _, port = at.rpartition(":")
    try:
        control = Control(board, (host.strip("[]"), int(port)), token, now, desk)
    except OSError as error:
        log.warning("chaos.listen: %s: %s; no orders are taken from other processes here", at, error)
        return None
    if board.refusal:
        log.warning("orders on sources are taken from other processes at %s; no faults", control.url)
    else:
        board.listening = control.url
        log.warning("faults, and orders on sources, are taken from other processes at %s", control.url)
    return control


class Control(Locked):
    """A running endpoint; `close` ends it, the faults it took, its threads and its sockets.

    State: the connections open and their threads, under one lock; at most 16. In a forked child there is
    none of it: the port, the faults and who holds them stay the parent's.
    """

    def __init__(
        self,
        board: Board,
        address: tuple[str, int],
        token: str,
        now: Callable[[], float],
        desk: Desk | None = None,
    ) -> None:
        super().__init__()
        self.board, self.now, self.desk = board, now, desk
        self._token = token.encode()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._is_closing = False
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._server = _Server(self, address, family)
        self.url = f"http://{_bracketed(address[0])}:{self._server.server_port}{PATH}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="featurechaos-control", daemon=True
        )
        self._thread.start()

    def knows(self, header: str | None) -> bool:
        """Whether a request carries the token."""
        scheme, _, token = (header or "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token)

    def serve(self, connection: socket.socket, work: Callable[[], None]) -> bool:
        """Work on a connection on a thread of its own; False if there are too many."""
        thread = threading.Thread(target=self._work, args=(connection, work), name="featurechaos-held", daemon=True)
        with self._lock:
            if self._is_closing or len(self._open) >= _MOST_CONNECTIONS:
                return False
            thread.start()
            self._open[connection] = thread  # In this order: the thread's last act waits for the lock.
        return True

    def _work(self, connection: socket.socket, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            with self._lock:
                self._open.pop(connection, None)

    def close(self) -> None:
        """Idempotent; waits for the threads, which see their connection end."""
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
            held = dict(self._open)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in held:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in held.values():
            thread.join(_STALLED_S)

    def forked(self) -> None:
        """In a child: let go of the parent's sockets without ending what goes on over them."""
        self._is_closing = True
        self._server.socket.close()
        for connection in self._open:
            os.close(connection.detach())
        self._open = {}

    def __repr__(self) -> str:
        return f"Control({self.url})"


class _Server(ThreadingHTTPServer):
    def __init__(self, control: Control, address: tuple[str, int], family: int) -> None:
        self.control = control
        self.address_family = family
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own looks its name up, which may ask a DNS server.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.socket.getsockname()[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.control.serve(request, lambda: self.process_request_thread(request, client_address)):
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A controller that goes away while it is spoken to is no news."""
        log.debug("the connection of a controller broke: %s", sys.exception())


class _Handler(BaseHTTPRequestHandler):
    timeout = _STALLED_S
    server: _Server
    server_version, sys_version = "featurechaos", ""

    def do_GET(self) -> None:
        if not self._is_welcome():
            return
        if self.path == STATUS and self.server.control.desk is not None:
            self._answer(HTTPStatus.OK, self.server.control.desk.status())
        elif self.path != PATH:
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, {"error": f"{self.path} wants a POST"})
        else:
            board, now = self.server.control.board, self.server.control.now()
            self._answer(HTTPStatus.OK, {"faults": [told_of(lease, now) for lease in board.live()]})

    def do_DELETE(self) -> None:
        if self._is_welcome(PATH):
            cleared = len(self.server.control.board.live())
            self.server.control.board.clear_all()
            log.warning("all faults off: cleared by %s, %d ended", self._whence(), cleared)
            self._answer(HTTPStatus.OK, {"cleared": cleared})

    def do_POST(self) -> None:
        if not self._is_welcome() or (body := self._body()) is None:
            return
        try:
            if self.path == RELOAD:
                self._reload(ReloadOrder.read(body))
                return
            if self.path != PATH:
                self._steer(SteerOrder.read(body))
                return
            order = Order.read(body)
            with self._injected(order) as injection:
                self._hold(injection)
        except SpecError as error:
            self._answer(HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(error)})
        except (FeatureError, ValueError) as error:
            self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})

    def _reload(self, order: ReloadOrder) -> None:
        """Read the config anew; who wanted it is on record before what came of it."""
        desk = self.server.control.desk
        if desk is None:
            raise RequestError(f"there is nobody to obey at {self.path}")
        log.warning("reload: by %r", f"{order.who or 'someone'}, {self._whence()}")
        self._answer(HTTPStatus.OK, desk.reload())

    def _steer(self, order: SteerOrder) -> None:
        """Obey an order on a source; it stays on record."""
        desk, source = self.server.control.desk, unquote(self.path.removeprefix(SOURCES))
        if desk is None or self.path == STATUS:
            raise RequestError(f"there is nobody to obey at {self.path}")
        told = desk.steer(source, order.order, reason=order.reason)
        log.warning("source %s: %s by %r: %r", source, order.order, f"{order.who or 'someone'}, {self._whence()}",
                    order.reason)  # fmt: skip
        self._answer(HTTPStatus.OK, told)

    @contextmanager
    def _injected(self, order: Order) -> Iterator[Injection]:
        """The faults of an order, cleared at the end whatever happens; both are on record."""
        injection = self.server.control.board.inject(
            *order.made(),
            share=order.share,
            lease_s=order.lease_s,
            seed=order.seed,
            reason=order.reason,
            control=order.control,
        )
        # %r: what comes from outside cannot begin a line of its own.
        names = ", ".join(lease.fault.name for lease in injection.leases)
        who = f"{order.who or 'someone'}, {self._whence()}"
        log.warning("faults on: %s; share %g, %g s, by %r: %r", names, order.share, order.lease_s, who, order.reason)
        try:
            yield injection
        finally:
            injection.clear()
            log.warning("faults off: %s; applied %d, by %r", names, injection.applied, who)

    def _hold(self, injection: Injection) -> None:
        """Tell how it goes, a line a second, while the controller listens and the lease runs."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        state = "on"
        with suppress(OSError):  # it died while we spoke: what is left is to clear
            while state == "on":
                self._say(injection, state)
                state = self._next(injection)
        injection.clear()
        with suppress(OSError):
            self._say(injection, state)

    def _next(self, injection: Injection) -> str:
        """Wait for a second, or until the controller lets go or the lease ends; what is the case then."""
        control = self.server.control
        left_s = injection.until - control.now()
        let_go = _is_readable(self.connection, min(_TICK_S, left_s)) and not self.connection.recv(4096)
        if control.now() >= injection.until:
            return "ended"
        if not control.board.holds(injection):
            return "cleared"
        return "released" if let_go else "on"

    def _say(self, injection: Injection, state: str) -> None:
        counts = {"applied": injection.applied, "not_applied": injection.not_applied, "control": injection.control}
        left_s = round(max(0.0, injection.until - self.server.control.now()), 3)
        self.wfile.write(json.dumps({"state": state, "left_s": left_s, **counts}).encode() + b"\n")

    def _is_welcome(self, *paths: str) -> bool:
        """Whether the request may be looked at; it is told why not. `paths`: those it may be about, else all."""
        problem: tuple[HTTPStatus, str] | None = None
        if "Origin" in self.headers:
            problem = HTTPStatus.FORBIDDEN, "a browser may not order faults"
        elif not self.server.control.knows(self.headers.get("Authorization")):
            problem = HTTPStatus.UNAUTHORIZED, "wanted the header Authorization: Bearer and the token"
        elif self.path not in (paths or (PATH, STATUS, RELOAD)) and (paths or not self.path.startswith(SOURCES)):
            problem = HTTPStatus.NOT_FOUND, f"there is only {PATH}, {STATUS}, {RELOAD} and {SOURCES}NAME"
        if problem is None:
            return True
        log.warning("refused: %s %s by %s: %s", self.command, repr(self.path)[:80], self._whence(), problem[1])
        self._answer(problem[0], {"error": problem[1]})
        return False

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self._answer(HTTPStatus.LENGTH_REQUIRED, {"error": "wanted a Content-Length"})
        elif int(length) > MOST_BODY_BYTES:
            error = f"wanted at most {MOST_BODY_BYTES} bytes, got {int(length)}"
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": error})
        else:
            return self.rfile.read(int(length))
        return None

    def _answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _whence(self) -> str:
        return f"{self.client_address[0]}:{self.client_address[1]}"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """What matters is logged by name."""


def _is_readable(connection: socket.socket, within_s: float) -> bool:
    poller = select.poll()  # Not select(): a serving process may have more than 1,024 descriptors.
    poller.register(connection, select.POLLIN)
    return bool(poller.poll(max(0.0, within_s) * 1000))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
