"""The clock a client is given is what its waits are measured by, whatever its stores; draws are a process's own."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from featurechaos import AsyncFeatureClient, Origin
from featurechaos.layers.breaker import Breaker
from featurechaos.layers.retry import Retry
from featurechaos.stores import Ask
from featurechaos.testing import ManualClock, MemoryStore
from tests.serving.kit import CLOCK_S, CONFIG, client_of, write


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores in memory that say they keep no deadline, with no form for asyncio."""
    monkeypatch.setattr(MemoryStore, "bounded", False)
    monkeypatch.delattr(MemoryStore, "aopen")


@pytest.mark.usefixtures("unbounded")
def test_a_store_that_keeps_no_deadline_answers_by_a_clock_turned_by_hand() -> None:
    with client_of() as client:
        write(client, k=[1], f=[1.5], g=[10])

        response = client.get_online_features(["v:f"], {"k": [1]})

    assert response.provenance("v").origin.tolist() == [Origin.PRIMARY]
    assert response.to_dict()["f"] == [1.5]


@pytest.mark.usefixtures("unbounded")
def test_so_it_does_for_asyncio() -> None:
    async def answered() -> list[Any]:
        async with AsyncFeatureClient.from_config(CONFIG, clock=ManualClock(CLOCK_S)) as client:
            response = await client.get_online_features(["v:f"], {"k": [1]})
            return list(response.provenance("v").origin)

    assert asyncio.run(answered()) == [Origin.PRIMARY], "it said that there is no such row"


class OverASocket(MemoryStore):
    """A store whose reads are begun, and waited for beside others."""

    def begin(self, asks: Sequence[Ask], until: float) -> Any:
        answers = self.read(asks, until)

        class Pending:
            def __init__(self) -> None:
                self.ours, self.theirs = socket.socketpair()
                self.timer = threading.Timer(0.005, self.theirs.send, [b"x"])
                self.timer.start()

            def fileno(self) -> int:
                return self.ours.fileno()

            def advance(self) -> Any:
                if not select.select([self.ours], [], [], 0)[0]:
                    return None
                self.abandon()
                return answers

            def abandon(self) -> None:
                self.timer.join()
                self.ours.close()
                self.theirs.close()

        return Pending()


def test_reads_side_by_side_are_timed_by_the_same_clock() -> None:
    """Two sources at once are waited for together; a clock far from the machine's must not make them late."""
    clock = ManualClock(CLOCK_S)
    clock.advance(-1e9)
    sources = {name: {"type": "memory", "role": "primary"} for name in ("one", "two")}
    views = [
        {
            "name": name,
            "join_keys": {"k": "int64"},
            "features": {"f": {"dtype": "float32"}},
            "policy": {"order": [source]},
        }
        for name, source in (("v", "one"), ("w", "two"))
    ]
    policy = {"retry": None, "last_known": None, "breaker": None, "order": ["one"]}
    with client_of(clock, sources=sources, views=views, policy=policy, services={}) as client:
        for name in sources:
            client._world.stores[name] = OverASocket()  # type: ignore[index]

        response = client.get_online_features(["v:f", "w:f"], {"k": [1]}, full_feature_names=True)

    assert [int(response.provenance(view).origin[0]) for view in ("v", "w")] == [Origin.PRIMARY] * 2


def test_workers_forked_from_one_client_draw_apart() -> None:
    """Else all of them retry, and come back to a source, at the same moments."""
    with client_of(policy={"retry": {"attempts": 2}, "breaker": {"min_calls": 3}}) as client:
        layers = [each for each in _within(client._serving.plan) if isinstance(each, Retry | Breaker)]
        assert len(layers) == 2
        draws = [_drawn_in_a_child(layers) for _ in range(3)]

    assert len(set(draws)) == 3
    assert len(draws[0].split()) == 2


def _within(plan: Any) -> list[Any]:
    """The layers of a stack, outermost first."""
    held = {
        name: cell.cell_contents for name, cell in zip(plan.__code__.co_freevars, plan.__closure__ or (), strict=True)
    }
    inner = held.get("inner")
    return [held["layer"], *(_within(inner) if hasattr(inner, "__code__") else [])]


def _drawn_in_a_child(layers: Sequence[Any]) -> str:
    ours, theirs = os.pipe()
    if (pid := os.fork()) == 0:
        rngs = [each._rng if isinstance(each, Retry) else next(iter(each.gates.values()))._rng for each in layers]
        os.write(theirs, " ".join(str(rng.random()) for rng in rngs).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as told:
        drawn = told.read()
    os.waitpid(pid, 0)
    return drawn
