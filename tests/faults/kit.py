"""A client whose stores are in memory and that may inject, on a clock turned by hand."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from featurechaos import FeatureClient, Response
from featurechaos.testing import ManualClock, MemoryStore

DAY_S = 86_400.0


class House:
    """View `v` (float f by int k) on a primary, a replica and a snapshot that keeps history."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, armed: bool = True, **config: Any) -> None:
        monkeypatch.setenv("FEATURECHAOS_CHAOS", "armed" if armed else "no")
        self.clock = ManualClock()
        self.client = FeatureClient.from_config(
            {
                "project": "t",
                "sources": {
                    "primary": {"type": "memory", "role": "primary"},
                    "second": {"type": "memory", "role": "replica"},
                    "standby": {"type": "memory", "role": "snapshot"},
                },
                "views": [
                    {"name": "v", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}}, "ttl_s": DAY_S},
                    {"name": "w", "join_keys": {"k": "int64"}, "features": {"g": {"dtype": "float32"}}, "ttl_s": None},
                ],
                "policy": {"retry": None, "last_known": None, "breaker": None, "order": ["primary", "standby"]},
                "chaos": {"enabled": True, "max_share": 1.0},
            }
            | config,
            clock=self.clock,
        )

    def store(self, name: str) -> MemoryStore:
        store = self.client.store(name)
        assert isinstance(store, MemoryStore)
        return store

    def has(self, source: str, values: Mapping[int, float], *, age_s: float = 1.0, view: str = "v") -> None:
        """Rows written `age_s` ago; a store keeps every version."""
        at = dt.datetime.fromtimestamp(self.clock.wall() - age_s, dt.UTC)
        feature = {"v": "f", "w": "g"}[view]
        table = {"k": list(values), feature: list(values.values()), "event_timestamp": [at] * len(values)}
        self.store(source).write(self.client._batch(view, table), self.clock.monotonic() + 5)

    def get(
        self, keys: Sequence[int] = (1,), *, request_id: str = "r", features: Sequence[str] = ("v:f",), **more: Any
    ) -> Response:
        return self.client.get_online_features(list(features), {"k": list(keys)}, request_id=request_id, **more)

    def sleeps(self) -> list[float]:
        """From now on waits turn the clock; the list they are kept in."""
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            self.clock.advance(seconds)

        self.client._world.sleep = sleep
        return slept

    def inject(self, *faults: Any, share: float = 1.0, lease_s: float = 60, seed: int = 7, **more: Any) -> Any:
        given: dict[str, Any] = {"control": False, "reason": "a test", **more}
        return self.client.chaos.inject(*faults, share=share, lease_s=lease_s, seed=seed, **given)


def values(response: Response) -> list[Any]:
    return response.to_dict()["f"]
