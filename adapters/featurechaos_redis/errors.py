"""What can go wrong between us and a server, and what each becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import hiredis
from redis import exceptions as theirs

from featurechaos.errors import StoreError, StoreRefused, StoreTimeout, StoreUnavailable

_REFUSING = frozenset({"NOAUTH", "WRONGPASS", "NOPERM", "DENIED"})


class ErrorReply(Exception):
    """The server answered with an error; `code` is its first word, as in LOADING or WRONGTYPE."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.partition(" ")[0]


class RefusedReply(ErrorReply):
    """The server answered that we may not."""


class MisplacedReply(ErrorReply):
    """The server is not the one to ask: a primary that became a replica, a cluster's node."""


class BadReply(Exception):
    """Bytes that are no answer to what was asked."""


class NotAsked(TimeoutError):
    """Time ran out before a byte was sent, so the connection is as good as before."""


class Dropped(ConnectionError):
    """The other side closed the connection."""


def error_reply(text: str) -> ErrorReply:
    """An error line without its `-`, as an exception."""
    code = text.partition(" ")[0]
    if code in _REFUSING:
        return RefusedReply(text)
    if code in ("READONLY", "MOVED", "ASK"):
        return MisplacedReply(text)
    return ErrorReply(text)


ERRORS: Mapping[type[Exception], type[StoreError]] = {
    RefusedReply: StoreRefused,
    ErrorReply: StoreUnavailable,
    BadReply: StoreUnavailable,
    theirs.AuthenticationError: StoreRefused,
    theirs.AuthenticationWrongNumberOfArgsError: StoreRefused,
    theirs.AuthorizationError: StoreRefused,
    theirs.NoPermissionError: StoreRefused,
    theirs.TimeoutError: StoreTimeout,
    theirs.RedisError: StoreUnavailable,
    theirs.RedisClusterException: StoreUnavailable,
    theirs.ChildDeadlockedError: StoreUnavailable,
    # The last is new in redis-py 7.
    getattr(theirs, "IncorrectPolicyType", theirs.RedisError): StoreUnavailable,
    hiredis.HiredisError: StoreUnavailable,
    TimeoutError: StoreTimeout,
    OSError: StoreUnavailable,
}
"""A driver's exception -> ours, the first match in order; OSError covers sockets, names and TLS."""


def ours(error: Exception, where: str) -> StoreError:
    """One of our errors for a driver's or an adapter's, saying where it happened."""
    kind = next((mine for wanted, mine in ERRORS.items() if isinstance(error, wanted)), StoreUnavailable)
    made = kind(f"{where}: {str(error) or type(error).__name__}")
    made.__cause__ = error
    return made


@dataclass(frozen=True, slots=True)
class DialFailure:
    """Why there is no connection: told to each caller that waited for it, as an exception of its own."""

    kind: type[StoreError]
    message: str
    cause: BaseException | None = None

    @classmethod
    def of(
        cls, error: BaseException, *, source: str, secrets: tuple[str, ...], what: str = "no connection"
    ) -> DialFailure:
        """Judge what ended a dial. A server that does not know AUTH repeats the password: it is left out."""
        if isinstance(error, StoreError):  # A dial's, of those that this one is made of.
            return cls(type(error), f"source {source!r}: {what}: {str(error).removeprefix(f'source {source!r}: ')}")
        kind = next((ours for wanted, ours in ERRORS.items() if isinstance(error, wanted)), StoreUnavailable)
        text = told = str(error) or type(error).__name__
        for secret in secrets:
            told = told.replace(secret, "***")
        cause = error.with_traceback(None) if told == text else None
        return cls(kind, f"source {source!r}: {what}: {told}", cause)

    def error(self) -> StoreError:
        """A new exception: one that several callers raised would gather the tracebacks of all."""
        error = self.kind(self.message)
        error.__cause__ = self.cause
        return error

    def tell(self) -> NoReturn:
        raise self.error()
