"""Whatever the driver raises becomes one of ours."""

from __future__ import annotations

import errno
import inspect
import socket
import ssl

import hiredis
import pytest
from redis import exceptions as theirs

from featurechaos.errors import StoreError, StoreRefused, StoreTimeout, StoreUnavailable, translating
from featurechaos_redis.errors import ERRORS, BadReply, DialFailure, Dropped, error_reply

REFUSED = {
    "AuthenticationError",
    "AuthenticationWrongNumberOfArgsError",
    "AuthorizationError",
    "NoPermissionError",
}
THEIRS = [kind for _, kind in inspect.getmembers(theirs, inspect.isclass) if issubclass(kind, Exception)]


def made(kind: type[Exception]) -> Exception:
    """An instance, without the constructors that parse a server's line."""
    return kind.__new__(kind, "what the server said")


def ours(error: Exception) -> type[Exception]:
    with pytest.raises(StoreError) as caught, translating(ERRORS, source="primary"):
        raise error
    assert caught.value.__cause__ is error
    assert str(caught.value).startswith("source 'primary': ")
    return caught.type


def test_there_are_exceptions_to_walk() -> None:
    assert len(THEIRS) > 20


@pytest.mark.parametrize("kind", THEIRS, ids=lambda kind: kind.__name__)
def test_every_public_exception_of_the_driver_is_mapped(kind: type[Exception]) -> None:
    wanted = (
        StoreRefused if kind.__name__ in REFUSED else StoreTimeout if kind is theirs.TimeoutError else StoreUnavailable
    )

    assert ours(made(kind)) is wanted


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (TimeoutError("timed out"), StoreTimeout),
        (ConnectionResetError(errno.ECONNRESET, "reset"), StoreUnavailable),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), StoreUnavailable),
        (BrokenPipeError(errno.EPIPE, "pipe"), StoreUnavailable),
        (socket.gaierror(-2, "Name or service not known"), StoreUnavailable),
        (ssl.SSLError(1, "wrong version number"), StoreUnavailable),
        (ssl.SSLCertVerificationError(1, "self-signed certificate"), StoreUnavailable),
        (OSError(errno.EMFILE, "Too many open files"), StoreUnavailable),
        (hiredis.ProtocolError("Protocol error"), StoreUnavailable),
        (BadReply("not an answer"), StoreUnavailable),
        (Dropped("closed"), StoreUnavailable),
        (error_reply("NOAUTH Authentication required."), StoreRefused),
        (error_reply("LOADING loading"), StoreUnavailable),
        (error_reply("WRONGTYPE Operation against a key"), StoreUnavailable),
    ],
    ids=repr,
)
def test_other_failures_are_mapped(error: Exception, wanted: type[Exception]) -> None:
    assert ours(error) is wanted


def test_mistake_of_our_own_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), translating(ERRORS, source="primary"):
        raise ZeroDivisionError


def test_secret_in_a_failed_dial_is_left_out_of_message_and_cause() -> None:
    error = theirs.ResponseError("unknown command 'AUTH', with args beginning with: 'hunter2'")

    told = DialFailure.of(error, source="primary", secrets=("hunter2",)).error()

    assert type(told) is StoreUnavailable
    assert str(told).endswith("with args beginning with: '***'")
    assert told.__cause__ is None
    assert told.__context__ is None


def test_failed_dial_is_a_new_exception_for_each_caller() -> None:
    failure = DialFailure.of(OSError("refused"), source="primary", secrets=("unrelated",))

    one, other = failure.error(), failure.error()

    assert one is not other
    assert isinstance(one.__cause__, OSError)
