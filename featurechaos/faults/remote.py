"""Faults in another process, held from here by one open connection.

    with hold("http://127.0.0.1:9911/faults", token, Outage("primary"), share=0.01, lease_s=300, seed=7,
              reason="a drill") as held:
        ...

When the `with` ends, or this process does, the faults do.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from featurechaos.errors import ChaosRefused, SpecError
from featurechaos.faults import Fault
from featurechaos.faults.orders import body_of

_ANSWER_MOST_S = 90.0
"""A fault that needs old rows is ready once they are hydrated."""
_IS_IT_UP = "is the service up, has it begun to read, and did it start with a FEATURECHAOS_TOKEN?"
_NOT_ITS_TOKEN = "the token given is not the one that the service started with"  # noqa: S105 - words


class Held:
    """Faults on in another process, as it last told of them."""

    def __init__(self, first: dict[str, Any]) -> None:
        self._told = first

    @property
    def applied(self) -> int:
        """How many calls and rows they had hit by the last word of that process; all of them after the `with`."""
        return int(self._told["applied"])

    @property
    def not_applied(self) -> int:
        return int(self._told["not_applied"])

    @property
    def control(self) -> int:
        return int(self._told["control"])

    @property
    def state(self) -> str:
        """`on`; after the `with` how they ended: `released` by us, `ended` with the lease, or `cleared` by another."""
        return str(self._told["state"])

    def heard(self, told: dict[str, Any]) -> None:
        self._told = told


@contextmanager
def hold(
    endpoint: str,
    token: str,
    *faults: Fault,
    share: float,
    lease_s: float,
    seed: int,
    reason: str,
    control: bool = True,
) -> Iterator[Held]:
    """Turn faults on in the process that listens at `endpoint` until the `with` ends.

    Arguments are those of `client.chaos.inject`; when the `with` has ended, no later read there is affected.

    Raises:
        ChaosRefused: nobody listens there, or it will not have it; in its words.
    """
    order = {
        "faults": [body_of(fault) for fault in faults], "share": share, "lease_s": lease_s, "seed": seed,
        "reason": reason, "control": control, "who": _who(),
    }  # fmt: skip
    connection = _connected(endpoint)
    try:
        answer = _asked(connection, "POST", endpoint, token, json.dumps(order))
        held = Held(json.loads(answer.readline()))
        try:
            yield held
        finally:
            _let_go(connection, answer, held)
            answer.close()
    finally:
        connection.close()


def listed(endpoint: str, token: str) -> list[dict[str, Any]]:
    """The faults that are on there."""
    faults: list[dict[str, Any]] = _whole("GET", endpoint, token)["faults"]
    return faults


def clear(endpoint: str, token: str) -> int:
    """End every fault there, whoever holds it; how many there were."""
    return int(_whole("DELETE", endpoint, token)["cleared"])


def status(endpoint: str, token: str) -> dict[str, Any]:
    """What goes on in the process that listens at `endpoint`: as `client.status()` there."""
    return _whole("GET", _beside(endpoint, "/status"), token)


def steer(endpoint: str, token: str, source: str, order: str, *, reason: str) -> dict[str, Any]:
    """Drain or hold a source there, or have it decided on again: as `client.steer` there."""
    body = json.dumps({"order": order, "reason": reason, "who": _who()})
    return _whole("POST", _beside(endpoint, f"/sources/{quote(source, safe='')}"), token, body)


def reload(endpoint: str, token: str) -> dict[str, Any]:
    """Have the service there read its own config anew: as `client.reload()` there.

    Raises SpecError, in its words, where it does not take it and goes on as it did.
    """
    return _whole("POST", _beside(endpoint, "/reload"), token, json.dumps({"who": _who()}))


def _beside(endpoint: str, path: str) -> str:
    return urlunsplit(urlsplit(endpoint)._replace(path=path))


def _whole(method: str, endpoint: str, token: str, body: str | None = None) -> dict[str, Any]:
    connection = _connected(endpoint)
    try:
        answer = _asked(connection, method, endpoint, token, body).read()
    finally:
        connection.close()
    try:
        told: dict[str, Any] = json.loads(answer)
    except ValueError as error:
        raise ChaosRefused(f"{_about(endpoint)}: wanted an answer in JSON, got {answer[:60]!r}") from error
    return told


def _connected(endpoint: str) -> HTTPConnection:
    parts = urlsplit(endpoint)
    if parts.scheme != "http" or parts.hostname is None:
        raise ChaosRefused(f"faults elsewhere want an endpoint like http://127.0.0.1:9911/faults, got {endpoint!r}")
    return HTTPConnection(parts.hostname, parts.port, timeout=_ANSWER_MOST_S)


def _asked(connection: HTTPConnection, method: str, endpoint: str, token: str, body: str | None = None) -> Any:
    try:
        headers = {"Authorization": f"Bearer {token}"}
        connection.connect()
        sock = connection.sock
        connection.request(method, urlsplit(endpoint).path or "/faults", body, headers)
        answer = connection.getresponse()
        # http.client lets its socket go once a reply says that it ends with the connection.
        connection.sock = sock
    except (OSError, HTTPException) as error:
        hint = f"; {_IS_IT_UP}" if isinstance(error, ConnectionRefusedError) else ""
        raise ChaosRefused(f"{_about(endpoint)}: no answer: {error or type(error).__name__}{hint}") from error
    if answer.status == HTTPStatus.UNPROCESSABLE_ENTITY:
        raise SpecError(_problem(answer.read()))
    if answer.status != 200:
        hint = f"; {_NOT_ITS_TOKEN}" if answer.status == HTTPStatus.UNAUTHORIZED else ""
        raise ChaosRefused(f"{_about(endpoint)}: {_problem(answer.read())}{hint}")
    return answer


def _about(endpoint: str) -> str:
    path = urlsplit(endpoint).path
    return f"{'faults' if path in ('', '/faults') else 'orders'} at {endpoint}"


def _problem(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return f"refused with {body[:100]!r}"


def _let_go(connection: HTTPConnection, answer: Any, held: Held) -> None:
    """Half-close, and read to the last line: it comes once the faults are off."""
    with suppress(OSError):
        connection.sock.shutdown(socket.SHUT_WR)
    with suppress(OSError, ValueError, HTTPException):
        for line in answer:
            held.heard(json.loads(line))


def _who() -> str:
    return f"{_user()}, pid {os.getpid()}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return f"uid {os.getuid()}"
