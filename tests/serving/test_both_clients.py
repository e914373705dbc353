"""One script, two clients: threads and asyncio give the same answers, count the same and tell the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurechaos import AsyncFeatureClient
from featurechaos.errors import StoreUnavailable
from featurechaos.testing import MemoryStore
from tests.serving.test_detour import FIRST, SOURCES, STEPS, Pair, said
from tests.serving.test_shortcut import FEATURES


class AsyncPair(Pair):
    """The same for asyncio."""

    def store(self, name: str) -> MemoryStore:
        opened = self.client._world.stores[name]
        store = opened.store if hasattr(opened, "store") else self.client._snapshots[name]
        assert isinstance(store, MemoryStore)
        return store

    async def played(self, step: tuple[Any, ...]) -> Any:
        match step:
            case ("breaks", how_many):
                for name in [name for name in self.client.settings.sources if name != "standby"][:how_many]:
                    self.store(name).fail_with = StoreUnavailable("gone")
                return [await self.played(("reads", [1], {})) for _ in range(3)]
            case ("reads", keys, options):
                response = await self.client.get_online_features(FEATURES, {"k": keys}, request_id="r", **options)
                return said(response, await self.client.reference(response))
            case _:
                return self.do(step)


@pytest.mark.parametrize("sources", SOURCES)
@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, min_size=5, max_size=20))
def test_one_script_has_one_history(sources: str, steps: list[tuple[Any, ...]]) -> None:
    threads = Pair.of(sources)

    async def both() -> None:
        tasks = AsyncPair.of(sources, make=AsyncFeatureClient)
        for step in [*FIRST, *steps]:
            assert await tasks.played(step) == threads.do(step), step
            assert tasks.state() == threads.state(), step

    asyncio.run(both())
