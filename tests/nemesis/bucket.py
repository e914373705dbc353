"""What only someone with the keys of the bucket can do: announce an image that was never wholly published."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

from featurechaos.clock import SystemClock
from featurechaos.demo.servers import SeaweedServer
from tests.nemesis.worlds import BUCKET

_AHEAD_S = 30


@contextmanager
def half_published(s3: SeaweedServer, project: str, view: str) -> Iterator[str]:
    """For a while CURRENT names an image whose manifest ends in its middle; its date keeps others from moving it.

    Gives the image's id.
    """
    from featurechaos_s3.manifest import Current, current_key, home, snapshot_id

    client = s3.client()

    def put(key: str, content: bytes) -> None:
        client.put_object(Bucket=BUCKET, Key=f"{project}/{key}", Body=content)

    def got(key: str) -> bytes:
        content: bytes = client.get_object(Bucket=BUCKET, Key=f"{project}/{key}")["Body"].read()
        return content

    try:
        before = got(current_key(view))
        whole = got(f"{home(view)}v={json.loads(before)['snapshot']}/manifest.json")
        when = int((SystemClock().wall() + _AHEAD_S) * 1e6)
        name = snapshot_id(when, hashlib.sha256(whole).hexdigest())
        half = whole[: len(whole) // 2]
        put(f"{home(view)}v={name}/manifest.json", half)
        put(current_key(view), Current(name, when, hashlib.sha256(half).hexdigest()).to_json())
        try:
            yield name
        finally:
            put(current_key(view), before)
            client.delete_object(Bucket=BUCKET, Key=f"{project}/{home(view)}v={name}/manifest.json")
    finally:
        client.close()
