"""The parts of a read, to be measured apart: the one place here that knows a client's inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from featurechaos import AsyncFeatureClient, FeatureClient, Response
from featurechaos.effects import stack
from featurechaos.engine import arun, run
from featurechaos.faults.exercise import Exercise
from featurechaos.readings import Reading, Request
from featurechaos.serving import Call

SOURCE = "primary"


class Parts:
    """What `get_online_features` of these features is made of, for a client whose first source is `primary`."""

    def __init__(self, client: FeatureClient | AsyncFeatureClient, features: Sequence[str]) -> None:
        self.features, self._serving = features, client._serving

    def call(self, rows: Any) -> Call:
        """The caller's words checked, entity rows to keys."""
        return self._serving.call(
            self.features,
            rows,
            full_feature_names=False,
            deadline_s=None,
            max_age_s=None,
            on_exhausted=None,
            request_id=None,
        )

    def request(self, rows: Any) -> Request:
        return self.call(rows)

    def addressed(self, rows: Any) -> Request:
        """The request as the innermost layer gets it."""
        return self.request(rows).to(SOURCE)


class SyncParts(Parts):
    """The parts that ask a store, for threads; all but `whole` take an addressed request."""

    def __init__(self, client: FeatureClient, features: Sequence[str]) -> None:
        super().__init__(client, features)
        self.client = client
        self._store, self._world = client.store(SOURCE), client._world
        serving = self._serving
        hook = Exercise(serving.board, serving.clock, history={}, online=frozenset([SOURCE]), known=serving.known)
        self._hooked = stack([hook], serving.fetch)

    def bare(self, request: Request) -> Any:
        """The store's own call: bytes."""
        return self._store.read(request.asks, request.until)

    def fetched(self, request: Request) -> Reading:
        """Read and decoded, ages judged."""
        return run(self._serving.fetch(request), self._world)

    def hooked(self, request: Request) -> Reading:
        """The same under the layer that meets faults, none of which is on."""
        return run(self._hooked(request), self._world)

    def layered(self, request: Request) -> Reading:
        """Through every layer that the policy has, one after another."""
        return run(self._serving.asked(request), self._world)

    def whole(self, call: Call) -> Response:
        """As a call goes: all of the policy, its answer made; in a straight line where nothing is wrong."""
        return self.client._read(self._serving, call)


class AsyncParts(Parts):
    """The same for asyncio."""

    def __init__(self, client: AsyncFeatureClient, features: Sequence[str]) -> None:
        super().__init__(client, features)
        self.client = client
        self._store, self._world = client._world.stores[SOURCE], client._world

    async def bare(self, request: Request) -> Any:
        return await self._store.read(request.asks, request.until)

    async def layered(self, request: Request) -> Reading:
        return await arun(self._serving.asked(request), self._world)

    async def whole(self, call: Call) -> Response:
        return await self.client._read(self._serving, call)


def mark_at(client: FeatureClient, view: str, feature: str) -> int:
    """Where a float32 feature lies in a packed row, in elements of 4 bytes."""
    spot = client._serving.layouts[view].spots[feature]
    return spot.run.at + spot.at


def packed(client: FeatureClient, view: str, table: Any) -> tuple[list[bytes], list[bytes]]:
    """A table as stored: keys and rows."""
    batch = client._batch(view, table)
    head = client.settings.views[view].head
    return [b"%b%b}" % (head, one) for one in batch.ask.keys.ids], list(batch.blobs)


def each(part: Callable[[Any], Any]) -> Callable[[Sequence[Any]], Any]:
    """A call that does a batch, one after another."""

    def call(batch: Sequence[Any]) -> Any:
        got = None
        for one in batch:
            got = part(one)
        return got

    return call


def aeach(part: Callable[[Any], Any]) -> Callable[[Sequence[Any]], Any]:
    async def call(batch: Sequence[Any]) -> Any:
        got = None
        for one in batch:
            got = await part(one)
        return got

    return call
