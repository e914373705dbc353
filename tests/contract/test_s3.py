"""The contract, kept by the s3 adapter: rows come as whole images, and reads are answered from local replicas."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from featurechaos.codec import Layout
from featurechaos.demo.servers import S3Server
from featurechaos.model import View
from featurechaos.stores import Batch, Place
from featurechaos.testing import StoreContract
from featurechaos_s3 import S3Spec, S3Store
from tests.s3.conftest import refresh_here

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server(buckets=("features",)) as server:
        yield server


class TestS3Store(StoreContract):
    is_local: ClassVar[bool] = True
    is_writable: ClassVar[bool] = False
    keeps_history: ClassVar[bool] = True

    @pytest.fixture(autouse=True)
    def _server(self, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server, self.cache = s3, tmp_path / "cache"
        for name, value in s3.credentials().items():
            monkeypatch.setenv(name, value)

    def open(self, place: Place) -> S3Store:
        given: dict[str, Any] = {
            "endpoint_url": self.server.endpoint_url,
            "region": "us-east-1",
            "cache_dir": str(self.cache),
        }
        return S3Store.open(S3Spec(url="s3://features/contract", **given), place)

    def fill(self, store: S3Store, view: View, table: Mapping[str, Any]) -> None:
        store.publish(view, Layout.of(view), dict(table), as_of_us=None, allow_shrink=True)
        self.take_in(store, view)

    def take_in(self, store: S3Store, view: View) -> None:
        assert refresh_here(store, view).state in {"hydrated", "current"}

    def prepare(self, store: S3Store, view: View, as_of_us: int) -> None:
        assert store.prepare(view.base, as_of_us, 60) == as_of_us

    def bury(self, store: S3Store, batch: Batch) -> None:
        store.bury(batch)

    @contextmanager
    def down(self, store: S3Store) -> Generator[None]:
        self.server.kill()
        try:
            yield
        finally:
            self.server.restart()
