"""The contract, kept by the store in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from featurechaos.codec import Packed
from featurechaos.model import View
from featurechaos.stores import Answer, Ask, Place
from featurechaos.testing import AsyncMemoryStore, AsyncStoreContract, MemorySpec, MemoryStore, StoreContract


class TestMemoryStore(StoreContract):
    is_local: ClassVar[bool] = True
    keeps_history: ClassVar[bool] = True

    def setup_method(self) -> None:
        super().setup_method()
        self.kept = MemoryStore("it")

    def open(self, place: Place) -> MemoryStore:
        """One store a test: opened again, it is the same memory."""
        assert isinstance(MemoryStore.open(MemorySpec(), place), MemoryStore)
        return self.kept

    def put(self, store: MemoryStore, ask: Ask, blobs: Sequence[bytes]) -> None:
        store.put(ask, blobs)


class PackedStore(MemoryStore):
    """What it answers is in one piece where every row is there and they are of one length."""

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        return [in_one_piece(answer) for answer in super().read(asks, until, as_of_us=as_of_us)]


def in_one_piece(answer: Any) -> Answer:
    sizes = {blob and len(blob) for blob in answer}
    if len(sizes) != 1 or not (size := sizes.pop()) or size % 8:
        return answer  # type: ignore[no-any-return]
    return Packed(np.frombuffer(bytearray().join(answer), np.uint64).reshape(len(answer), -1))


class TestPackedStore(TestMemoryStore):
    def setup_method(self) -> None:
        super().setup_method()
        self.kept = PackedStore("it")


class TestAsyncMemoryStore(AsyncStoreContract):
    is_local: ClassVar[bool] = True
    keeps_history: ClassVar[bool] = True

    def setup_method(self) -> None:
        super().setup_method()
        self.kept = AsyncMemoryStore(MemoryStore("it"))

    def open(self, place: Place) -> AsyncMemoryStore:
        return self.kept

    def put(self, store: AsyncMemoryStore, ask: Ask, blobs: Sequence[bytes]) -> None:
        store.store.put(ask, blobs)

    def prepare(self, store: Any, view: View, as_of_us: int) -> None:
        assert store is self.kept
