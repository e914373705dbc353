"""Every exception the driver has comes out as one of ours, naming the source and the object."""

from __future__ import annotations

import inspect
import socket
import struct
import threading
from typing import Any, cast

import pytest
from botocore import exceptions as theirs
from urllib3 import exceptions as wire

from featurechaos.errors import StoreError, StoreRefused, StoreTimeout, StoreUnavailable
from featurechaos_s3.bucket import Absent, Address, Bucket, Changed, Unchanged

BUCKET = Bucket(Address("standby", "features", "live/", "http://127.0.0.1:1", "us-east-1"))
ALL = [one for _, one in inspect.getmembers(theirs, inspect.isclass) if one.__module__ == theirs.__name__]


def raised(error: Exception) -> StoreError:
    with pytest.raises(StoreError) as ours, BUCKET._speaking("key"):
        raise error
    assert "source 'standby', s3://features/live/key" in str(ours.value)
    assert ours.value.__cause__ is error
    return ours.value


@pytest.mark.parametrize("kind", [one for one in ALL if issubclass(one, theirs.BotoCoreError)])
def test_every_public_exception_is_translated(kind: type[theirs.BotoCoreError]) -> None:
    # Not made as usual: each wants other arguments.
    error: theirs.BotoCoreError = cast("Any", kind).__new__(kind)
    Exception.__init__(error, "said so")

    assert isinstance(raised(error), StoreUnavailable | StoreRefused)


@pytest.mark.parametrize(
    ("status", "code", "ours"),
    [
        (304, "304", Unchanged),
        (401, "Unauthorized", StoreRefused),
        (403, "AccessDenied", StoreRefused),
        (404, "NoSuchKey", Absent),
        (404, "NoSuchBucket", StoreUnavailable),
        (409, "ConditionalRequestConflict", Changed),
        (412, "PreconditionFailed", Changed),
        (500, "InternalError", StoreUnavailable),
        (503, "SlowDown", StoreUnavailable),
    ],
)
def test_an_answer_is_what_its_status_says(status: int, code: str, ours: type[StoreError]) -> None:
    answer = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}

    assert type(raised(theirs.ClientError(answer, "GetObject"))) is ours


def test_a_timeout_is_a_timeout() -> None:
    assert isinstance(raised(theirs.ReadTimeoutError(endpoint_url="x")), StoreTimeout)
    assert isinstance(raised(theirs.ConnectTimeoutError(endpoint_url="x")), StoreTimeout)


def test_what_the_driver_below_raises_is_translated_too() -> None:
    assert isinstance(raised(wire.ProtocolError("Connection broken")), StoreUnavailable)
    assert isinstance(raised(wire.ReadTimeoutError(cast("Any", None), "x", "too slow")), StoreTimeout)


def test_an_object_that_breaks_off_is_no_answer() -> None:
    begun = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 900\r\n\r\n{"format"'
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_half() -> None:
            connection, _ = listener.accept()
            connection.recv(1 << 16)
            connection.sendall(begun)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()  # with a reset

        thread = threading.Thread(target=answer_half)
        thread.start()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        bucket = Bucket(Address("standby", "features", "live/", endpoint, "us-east-1"))
        with pytest.raises(StoreUnavailable, match="standby"):
            bucket.get("CURRENT", most_bytes=1000)
        thread.join()
        bucket.close()
