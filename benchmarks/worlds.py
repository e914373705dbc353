"""The rows that are read: three views of one entity in a Valkey of their own, written by a client nobody reads with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from random import Random
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featurechaos import FeatureClient, Response
from featurechaos.clock import SystemClock
from featurechaos.demo.servers import ValkeyServer

KEY = "user_id"
FLOATS, DIM = 20, 128
VIEWS = ("wide", "b", "c")
"""`wide` has an embedding beside its floats."""
MARK = "b_f00"
"""The feature that is written before each turn; of the view that every request asks for."""
PATIENT: Mapping[str, Any] = {
    "deadline_s": 30.0,
    "breaker": {"slow_s": 9.0},
}
"""Waits that a busy machine does not run into; nothing that a healthy read does hangs on them."""

Ids = NDArray[np.int64]


def features_of(view: str, floats: int = FLOATS) -> list[str]:
    names = [f"{view}_f{at:02d}" for at in range(floats)]
    return [*names, "embedding"] if view == "wide" else names


def dtype_of(feature: str) -> str:
    return f"float32[{DIM}]" if feature == "embedding" else "float32"


def view_of(view: str, floats: int = FLOATS) -> dict[str, Any]:
    """A view as a config has it."""
    return {
        "name": view,
        "join_keys": {KEY: "int64"},
        "features": {name: {"dtype": dtype_of(name)} for name in features_of(view, floats)},
        "ttl_s": 86_400,
    }


def references(views: Sequence[str], floats: int = FLOATS) -> list[str]:
    return [f"{view}:{name}" for view in views for name in features_of(view, floats)]


def values_of(feature: str, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.random((count, DIM) if feature == "embedding" else count, dtype=np.float32)


def views_for(many: int) -> tuple[str, ...]:
    """The views of a request: one is the plain one, three are all."""
    return ("b",) if many == 1 else VIEWS[:many]


@dataclass
class ReadWorld:
    """A server with every row of every view in it; a context manager."""

    entities: int
    seed: int
    views: tuple[str, ...] = VIEWS
    floats: int = FLOATS
    server: ValkeyServer = field(default_factory=ValkeyServer)
    _ends: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self._ends.enter_context(self.server)
        self.rng, self.draws = Random(self.seed), np.random.default_rng(self.seed)
        self.now = SystemClock().wall
        self.writer = self.client()
        for view in self.views:
            self.writer.write_to_online_store(view, self.table(view))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def config(self, **policy: Any) -> dict[str, Any]:
        """The defaults but for `policy` and for waits."""
        return {
            "project": "bench",
            "sources": {"primary": {"type": "redis", "url": self.server.url, "timeout_s": 10.0}},
            "views": [view_of(view, self.floats) for view in self.views],
            "policy": {**PATIENT, **policy},
        }

    def client(self, **policy: Any) -> FeatureClient:
        client = FeatureClient.from_config(self.config(**policy))
        self._ends.callback(client.close)
        return client

    def table(self, view: str) -> dict[str, Any]:
        """Every row of a view, an hour old at most."""
        rng = np.random.default_rng([self.seed, *view.encode()])
        columns: dict[str, Any] = {KEY: np.arange(self.entities)}
        for name in features_of(view, self.floats):
            values = values_of(name, self.entities, rng)
            columns[name] = list(values) if values.ndim == 2 else values
        columns["event_timestamp"] = [self.when() - timedelta(hours=1)] * self.entities
        return columns

    def when(self) -> Any:
        from datetime import datetime

        return datetime.fromtimestamp(self.now(), UTC)

    def draw(self, many: int) -> Ids:
        """Distinct entities; others each time."""
        return self.draws.choice(self.entities, many, replace=False)

    def mark(self, ids: Ids) -> float:
        """Write a new value for one of these entities, past the clients that read; the value as float32 has it."""
        value = float(np.float32(self.rng.random()))
        row: dict[str, Any] = {KEY: [int(ids[-1])], "event_timestamp": [self.when()]}
        row |= {name: [0.5] for name in features_of("b", self.floats)} | {MARK: [value]}
        self.writer.write_to_online_store("b", row)
        return value

    def keys(self, views: Sequence[str], ids: Ids) -> list[bytes]:
        """The stored keys of some rows, view by view, as another client would write them."""
        heads = [self.writer.settings.views[view].head for view in views]
        return [b"%b%d}" % (head, one) for head in heads for one in ids.tolist()]


def rows_of(ids: Ids) -> list[dict[str, int]]:
    """Entity rows as Feast has them."""
    return [{KEY: one} for one in ids.tolist()]


def touch(response: Response) -> Response:
    """Every column and the provenance of every view; refuses an answer that a healthy primary did not give."""
    columns = response.columns
    for name in columns:
        columns[name]
    for view in response.views:
        response.provenance(view)
    if response.any_degraded:
        msg = f"a read that was to be timed is degraded: {response.degraded.sum()} rows"
        raise AssertionError(msg)
    return response
