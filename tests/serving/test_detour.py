"""The detour and the layers say the same of every read that local tiers answer, count the same and tell the same."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurechaos import AsyncFeatureClient, Cause, FeatureClient, Origin, Response
from featurechaos.detour import Way
from featurechaos.errors import StoreUnavailable
from featurechaos.faults import Outage
from featurechaos.readings import Rules
from featurechaos.stores import Answer, Ask, Block
from featurechaos.testing import ManualClock, MemoryStore
from tests.serving.test_shortcut import CONFIG, FEATURES, KEYS, House

VIEWS = ("v", "w", "t")
PRIMARY = {"type": "memory", "role": "primary", "timeout_s": 0.015}
REPLICA = {"type": "memory", "role": "replica", "timeout_s": 0.012}
STANDBY = {"type": "memory", "role": "snapshot"}
SOURCES: Mapping[str, Mapping[str, Any]] = {
    "local alone": {"standby": STANDBY},
    "one online": {"primary": PRIMARY, "standby": STANDBY},
    "two online": {"primary": PRIMARY, "second": REPLICA, "standby": STANDBY},
    "no local": {"primary": PRIMARY},
}


def config_of(sources: str, **policy: Any) -> dict[str, Any]:
    return {
        **CONFIG,
        "chaos": {"enabled": True, "max_share": 1.0},
        "sources": dict(SOURCES[sources]),
        "policy": {**CONFIG["policy"], "deadline_s": 0.1, **policy},
    }


@dataclass
class Pair:
    """A client whose sources are filled from the primary of another house, and all it was told."""

    client: Any
    writer: House
    clock: ManualClock
    notes: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, sources: str, *, make: Any = FeatureClient, **policy: Any) -> Self:
        writer = House.of()
        client = make.from_config(config_of(sources, **policy), clock=writer.clock)
        pair = cls(client, writer, writer.clock)
        assert client._serving.breaker is not None
        for gate in client._serving.breaker.gates.values():
            gate._rng = Random(1)
        client.observer.listeners.append(lambda *note: pair.notes.append(note))
        for name in client.settings.sources:
            store = pair.store(name)
            if name != "standby":
                store.rows = writer_rows(writer)
            else:
                store.read = in_blocks(store)  # type: ignore[method-assign]
        return pair

    def store(self, name: str) -> MemoryStore:
        store = self.client.store(name)
        assert isinstance(store, MemoryStore)
        return store

    def do(self, step: tuple[Any, ...]) -> Any:  # noqa: C901 - one case a line
        online = [name for name in self.client.settings.sources if name != "standby"]
        match step:
            case ("image", keys):
                if "standby" in self.client.settings.sources:
                    rows = {name: versions[-1:] for name, versions in writer_rows(self.writer).items()}
                    kept = {name: row for name, row in rows.items() if int(name.split(b"{")[1]) in keys}
                    self.store("standby").rows.update(kept)
            case ("breaks", how_many):
                for name in online[:how_many]:
                    self.store(name).fail_with = StoreUnavailable("gone")
                return [self.do(("reads", [1], {})) for _ in range(3)]
            case ("mends",):
                for name in online:
                    self.store(name).fail_with = None
            case ("local fails", error):
                if "standby" in self.client.settings.sources:
                    self.store("standby").fail_with = error
            case ("orders", order) if online:
                self.client.steer(online[0], order, reason="a test")
            case ("fault", is_on) if online:
                board = self.client._serving.board
                board.active = ("a lease",) if is_on else ()
            case ("reads", keys, options):
                response = self.client.get_online_features(FEATURES, {"k": keys}, request_id="r", **options)
                return said(response, self.client.reference(response))
            case (("write" | "wait" | "loses" | "damages"), *_):
                self.writer.do(step)
        return None

    def state(self) -> Any:
        serving = self.client._serving
        assert serving.breaker is not None
        gates = [(gate.state, list(gate._buckets)) for gate in serving.breaker.gates.values()]
        wanted = {name: repr(request) for name, request in serving.breaker.wanted.items()}
        remembered = {view: serving.memory.find(view, [b"%d" % k for k in range(5)]) for view in VIEWS}
        stats = self.client.stats()
        for incident in stats["incidents"]:
            del incident["id"]  # ends in random digits
        tokens = None if serving.budget is None else serving.budget._tokens
        return stats, gates, wanted, remembered, tokens, repr(self.notes)


def said(response: Response, clean: Response) -> Any:
    """All that an answer and its reference say."""
    told = response.to_dict(include_event_timestamps=True, include_provenance=True)
    truth = [[each.tolist() for each in response.provenance(view)] for view in VIEWS]
    defaults = response.columns["g"].tolist()
    facts = [response.degraded.tolist(), response.injected.tolist(), response.any_degraded]
    referred = clean.to_dict(include_event_timestamps=True, include_provenance=True)
    return repr((told, truth, defaults, facts, referred)), response.elapsed_s


def writer_rows(writer: House) -> dict[bytes, list[bytes]]:
    store = writer.client.store("primary")
    assert isinstance(store, MemoryStore)
    return store.rows


def in_blocks(store: MemoryStore) -> Any:
    """Reads rows of fixed width as a replica gives them."""
    read = store.read

    def blocks(asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        answers = read(asks, until, as_of_us=as_of_us)
        return [_block(ask, answer) for ask, answer in zip(asks, answers, strict=True)]

    return blocks


def _block(ask: Ask, answer: Any) -> Answer:
    if ask.layout.has_tail or any(blob is not None and len(blob) != 8 * ask.layout.words for blob in answer):
        return answer  # type: ignore[no-any-return]
    empty = bytes(8 * ask.layout.words)
    words = np.frombuffer(bytearray().join(blob or empty for blob in answer), np.uint64)
    return Block(words.reshape(len(answer), -1), np.array([blob is not None for blob in answer]))


SOME = st.lists(st.sampled_from([0, 1, 2, 3, 4]), min_size=1, max_size=5, unique=True)
OPTIONS = st.sampled_from([{}, {}, {}, {"max_age_s": 30.0}, {"deadline_s": 0}])
READS = st.tuples(st.just("reads"), st.one_of(KEYS, SOME, st.just([1, None])), OPTIONS)
STEPS = st.one_of(
    READS,
    READS,
    READS,
    st.tuples(st.just("write"), SOME),
    st.tuples(st.just("image"), SOME),
    st.just(("image", [0, 1, 2, 3, 4])),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.5, 20.0, 45.0])),
    st.tuples(st.just("breaks"), st.sampled_from([1, 2])),
    st.just(("mends",)),
    st.tuples(st.just("local fails"), st.sampled_from([None, None, StoreUnavailable("gone")])),
    st.tuples(st.just("orders"), st.sampled_from(["drain", "hold", "auto"])),
    st.tuples(st.just("fault"), st.booleans()),
    st.tuples(st.just("loses"), st.sampled_from([0, 1, 2])),
    st.tuples(st.just("damages"), st.sampled_from([3, 4])),
)
FIRST: list[tuple[Any, ...]] = [("write", [0, 1, 2, 3, 4]), ("image", [0, 1, 2, 3, 4])]


@pytest.mark.parametrize("sources", SOURCES)
@settings(max_examples=120, deadline=None)
@given(steps=st.lists(STEPS, min_size=5, max_size=20))
def test_the_layers_alone_would_have_done_the_same(sources: str, steps: list[tuple[Any, ...]]) -> None:
    quick, layered = Pair.of(sources), Pair.of(sources)
    layered.client._serving.refusals = lambda _: None
    for step in [*FIRST, *steps]:
        assert quick.do(step) == layered.do(step), step
        assert quick.state() == layered.state(), step


@dataclass
class Taken:
    """Whether each read that could take the detour was answered there."""

    seen: list[bool]

    @classmethod
    def of(cls, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Taken:
        taken, serving = cls([]), pair.client._serving
        end = serving.end_local

        def told(*args: Any) -> Any:
            response = end(*args)
            taken.seen.append(response is not None)
            return response

        monkeypatch.setattr(serving, "end_local", told)
        return taken


def test_it_is_taken_where_local_tiers_answer_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above compares the layers with themselves."""
    pair = Pair.of("one online")
    taken = Taken.of(pair, monkeypatch)
    for step in FIRST:
        pair.do(step)

    pair.do(("reads", [1, 2], {}))
    assert taken.seen == []  # the primary answers
    pair.do(("breaks", 1))
    taken.seen.clear()
    pair.do(("reads", [1, 2], {}))  # the same rows in both tiers
    pair.do(("reads", [3, 4], {}))  # nobody remembers these
    pair.do(("reads", [2, 3], {}))  # nor one of these, which is for the layers to merge
    pair.do(("reads", [1, 9], {}))
    assert taken.seen == [True, True, False, False]


def test_younger_rows_that_are_remembered_go_before_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair.of("one online")
    taken = Taken.of(pair, monkeypatch)
    for step in [*FIRST, ("wait", 20.0), ("write", [1, 2]), ("reads", [1, 2], {}), ("breaks", 1)]:
        pair.do(step)
    taken.seen.clear()

    response = pair.client.get_online_features(FEATURES, {"k": [1, 2]})

    assert taken.seen == [True]
    truth = response.provenance("v")
    assert truth.origin.tolist() == [Origin.LAST_KNOWN] * 2
    assert truth.cause.tolist() == [Cause.BREAKER_OPEN] * 2
    assert response.degraded.all()


def test_rows_of_both_tiers_are_for_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair.of("one online")
    taken = Taken.of(pair, monkeypatch)
    for step in [*FIRST, ("reads", [1], {}), ("wait", 20.0), ("write", [2]), ("reads", [2], {}), ("breaks", 1)]:
        pair.do(step)
    taken.seen.clear()

    response = pair.client.get_online_features(FEATURES, {"k": [1, 2]})

    assert taken.seen == [False]
    assert response.provenance("v").origin.tolist() == [Origin.SNAPSHOT, Origin.LAST_KNOWN]


@pytest.mark.parametrize(("wait_s", "options"), [(61.0, {}), (31.0, {"max_age_s": 30.0})])
def test_rows_that_are_too_old_are_for_the_layers(
    wait_s: float, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair.of("local alone")
    taken = Taken.of(pair, monkeypatch)
    for step in [*FIRST, ("wait", wait_s - 1), ("reads", [1], options), ("wait", 1.0), ("reads", [1], options)]:
        pair.do(step)

    assert taken.seen == [True, False]


def test_views_that_ask_differently_are_for_the_layers() -> None:
    def way(*rules: Rules) -> Way | None:
        return Way.of(rules)

    assert way(Rules(("a", "b"), ("s",)), Rules(("a", "b"), ("s",))) == Way(("a", "b"), "s")
    assert way(Rules((), ())) == Way((), None)
    assert way(Rules(("a",), ("s",)), Rules(("b",), ("s",))) is None
    assert way(Rules(("a",), ("s",)), Rules(("a",), ())) is None
    assert way(Rules(("a",), ("s", "t"))) is None


def test_a_gate_that_is_to_be_probed_is_for_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair.of("one online")
    taken = Taken.of(pair, monkeypatch)
    for step in [*FIRST, ("breaks", 1), ("wait", 20.0)]:
        pair.do(step)
    taken.seen.clear()

    pair.do(("reads", [1], {}))

    assert taken.seen == []
    assert "breaker.probed" in [name for name, *_ in pair.notes]


def test_a_fault_on_the_local_source_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURECHAOS_CHAOS", "armed")
    pair = Pair.of("local alone", last_known=None)
    for step in FIRST:
        pair.do(step)
    assert pair.client.get_online_features(FEATURES, {"k": [1]}).provenance("v").origin.tolist() == [Origin.SNAPSHOT]

    with pair.client.chaos.inject(Outage("standby"), share=1.0, lease_s=60, seed=1, reason="a test"):
        struck = pair.client.get_online_features(FEATURES, {"k": [1]}).provenance("v")

    assert (struck.origin.tolist(), struck.injected.tolist()) == ([Origin.NONE], [True])


def test_asyncio_takes_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read() -> tuple[list[Any], list[int]]:
        pair = Pair.of("local alone")
        for step in FIRST:
            pair.do(step)
        async with AsyncFeatureClient.from_config(config_of("local alone"), clock=pair.clock) as client:
            store: Any = client._world.stores["standby"]
            store.store.rows = pair.store("standby").rows
            played: list[Any] = []
            asked = client._serving.asked

            def noted(call: Any) -> Any:
                played.append(call)
                return asked(call)

            monkeypatch.setattr(client._serving, "asked", noted)
            response = await client.get_online_features(FEATURES, {"k": [1, 2]})
            return played, response.provenance("v").origin.tolist()

    assert asyncio.run(read()) == ([], [Origin.SNAPSHOT] * 2)
