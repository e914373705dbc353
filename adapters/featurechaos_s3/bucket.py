"""The few things we ask of an S3 server, with its errors in our words.

botocore's own retries are off and both its timeouts explicit: left at their defaults, one dead server
is minutes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO

from featurechaos.errors import DecodeError, StoreError, StoreRefused, StoreTimeout, StoreUnavailable

if TYPE_CHECKING:
    from featurechaos_s3.spec import S3Spec

CONNECT_S, READ_S = 3.0, 15.0
_CHUNK = 1 << 20


class Absent(StoreError):
    """There is no such object."""


class Unchanged(StoreError):
    """The object is still the one we know."""


class Changed(StoreError):
    """The object is not the one we know."""


_BY_STATUS: Mapping[int, type[StoreError]] = {
    304: Unchanged,
    401: StoreRefused,
    403: StoreRefused,
    404: Absent,
    409: Changed,
    412: Changed,
}


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a listing: its key, ETag, size and when it was last written (seconds since the epoch)."""

    key: str
    etag: str
    size_bytes: int
    written_s: float


@dataclass(frozen=True, slots=True)
class Address:
    """Where the images are, and how to get there; plain values, so that it crosses to a child as JSON."""

    source: str
    bucket: str
    prefix: str
    endpoint_url: str | None = None
    region: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: S3Spec, source: str) -> Address:
        return cls(source, spec.bucket, spec.prefix, spec.endpoint_url, spec.region, dict(spec.options))


class Bucket:
    """One bucket and prefix; keys are given without the prefix. Making one imports boto3."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._client = _client(address)

    def get(self, key: str, *, most_bytes: int, known: str | None = None) -> tuple[bytes, str]:
        """An object's bytes and ETag. Raises Absent, Unchanged (it is `known`), DecodeError when too big."""
        given = {"IfNoneMatch": known} if known else {}
        with self._speaking(key):
            answer = self._client.get_object(Bucket=self.address.bucket, Key=self._full(key), **given)
            with answer["Body"] as body:
                content = body.read(most_bytes + 1)
        if len(content) > most_bytes:
            msg = f"{key} is longer than {most_bytes} bytes"
            raise DecodeError(msg)
        return content, answer["ETag"]

    def pull(
        self, key: str, into: BinaryIO, *, etag: str | None = None, most_bytes: int | None = None
    ) -> tuple[int, str]:
        """Stream an object into a file; its size and SHA-256. Raises Absent, Changed (it isn't `etag`)."""
        digest, size = hashlib.sha256(), 0
        given = {"IfMatch": etag} if etag else {}
        with self._speaking(key):
            answer = self._client.get_object(Bucket=self.address.bucket, Key=self._full(key), **given)
            with answer["Body"] as body:
                while chunk := body.read(_CHUNK):
                    into.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
                    if most_bytes is not None and size > most_bytes:
                        break
        return size, digest.hexdigest()

    def put(self, key: str, content: bytes | BinaryIO, *, only_if: str | None = None, only_new: bool = False) -> str:
        """Store an object; its ETag. Raises Changed when it isn't `only_if`, or there though `only_new`."""
        given = {"IfMatch": only_if} if only_if else {"IfNoneMatch": "*"} if only_new else {}
        with self._speaking(key):
            answer = self._client.put_object(Bucket=self.address.bucket, Key=self._full(key), Body=content, **given)
        return str(answer["ETag"])

    def things(self, prefix: str) -> list[Thing]:
        """Every object under a prefix, in key order."""
        return [
            Thing(
                one["Key"].removeprefix(self.address.prefix),
                one["ETag"],
                one["Size"],
                one["LastModified"].timestamp(),
            )
            for page in self._pages(prefix)
            for one in page.get("Contents", ())
        ]

    def folders(self, prefix: str) -> list[str]:
        """The names right under a prefix that are themselves prefixes."""
        return [
            one["Prefix"].removeprefix(self._full(prefix)).rstrip("/")
            for page in self._pages(prefix, Delimiter="/")
            for one in page.get("CommonPrefixes", ())
        ]

    def remove(self, key: str) -> None:
        """Delete an object; an absent one is fine."""
        with self._speaking(key):
            self._client.delete_object(Bucket=self.address.bucket, Key=self._full(key))

    def close(self) -> None:
        self._client.close()

    def _full(self, key: str) -> str:
        return self.address.prefix + key

    def _pages(self, prefix: str, **given: str) -> Iterator[dict[str, Any]]:
        with self._speaking(prefix):
            paginator = self._client.get_paginator("list_objects_v2")
            yield from paginator.paginate(Bucket=self.address.bucket, Prefix=self._full(prefix), **given)

    @contextmanager
    def _speaking(self, key: str) -> Iterator[None]:
        """Turn botocore's exceptions into ours, once, naming the source and the object."""
        from boto3.exceptions import Boto3Error
        from botocore import exceptions as theirs
        from urllib3 import exceptions as wire

        place = f"source {self.address.source!r}, s3://{self.address.bucket}/{self._full(key)}"
        try:
            yield
        except theirs.ClientError as error:
            raise _translated(error, place) from error
        # Within a `with`, a body is read from the driver below botocore, whose errors are its own.
        except (theirs.ConnectTimeoutError, theirs.ReadTimeoutError, wire.TimeoutError) as error:
            msg = f"{place}: no answer in time from {self.address.endpoint_url or 'AWS'}"
            raise StoreTimeout(msg) from error
        except (
            theirs.NoCredentialsError,
            theirs.PartialCredentialsError,
            theirs.CredentialRetrievalError,
        ) as error:
            msg = f"{place}: {error}"
            raise StoreRefused(msg) from error
        except (theirs.BotoCoreError, Boto3Error, wire.HTTPError) as error:
            msg = f"{place}: {error}"
            raise StoreUnavailable(msg) from error


def _translated(error: Any, place: str) -> StoreError:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = error.response.get("Error", {}).get("Code", status)
    ours = StoreUnavailable if code == "NoSuchBucket" else _BY_STATUS.get(status, StoreUnavailable)
    return ours(f"{place}: {code}, {error.response.get('Error', {}).get('Message', 'no message')}")


@cache
def _loader() -> Any:
    """What reads botocore's descriptions of S3: a tenth of a second the first time, shared from then on."""
    from botocore.loaders import create_loader

    return create_loader()


def _client(address: Address) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.session import Session

    options = dict(address.options)
    config = {
        "connect_timeout": CONNECT_S,
        "read_timeout": READ_S,
        "retries": {"total_max_attempts": 1},
        # Servers that are not AWS are rarely reached by a host name for each bucket.
        "s3": {"addressing_style": "path" if address.endpoint_url else "auto"},
        **options.pop("config", {}),
    }
    given = {"endpoint_url": address.endpoint_url, "region_name": address.region, **options}
    session = Session()
    session.register_component("data_loader", _loader())
    return boto3.Session(botocore_session=session).client("s3", config=Config(**config), **given)
