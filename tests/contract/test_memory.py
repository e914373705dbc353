"""The contract, kept by the store in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from featurechaos.model import View
from featurechaos.stores import Ask, Place
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
