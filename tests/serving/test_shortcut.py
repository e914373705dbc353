"""The shortcut and the layers say the same of every read, count the same and remember the same."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurechaos import FeatureClient
from featurechaos.errors import StoreTimeout, StoreUnavailable
from featurechaos.readings import Request, Started
from featurechaos.serving import Call, Serving
from featurechaos.shortcut import Shortcut
from featurechaos.stores import Answer, Ask
from featurechaos.testing import ManualClock
from tests.serving.kit import CLOCK_S, store_of, write

CONFIG: dict[str, Any] = {
    "project": "t",
    "sources": {"primary": {"type": "memory", "role": "primary", "timeout_s": 0.015}},
    "views": [
        {"name": "v", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}}, "ttl_s": 60},
        {
            "name": "w",
            "join_keys": {"k": "int64"},
            "features": {"g": {"dtype": "int64", "default": 7}},
            "max_age_s": 90,
        },
        {"name": "t", "join_keys": {"k": "int64"}, "features": {"s": {"dtype": "string"}}},
    ],
    "policy": {
        "retry": {"wait_first_s": 0},
        "breaker": {"min_calls": 3, "slow_s": 0.01, "open_s": 2, "healthy_s": 1, "ramp_s": 3},
        "last_known": {"keep_s": 200},
    },
}
FEATURES = ["v:f", "w:g", "t:s"]


@dataclass
class House:
    """A client whose primary takes its time and may fail, on a clock of its own."""

    client: FeatureClient
    clock: ManualClock
    takes_s: float = 0.001

    @classmethod
    def of(cls) -> House:
        clock = ManualClock(CLOCK_S)
        client = FeatureClient.from_config(CONFIG, clock=clock)
        house, store = cls(client, clock), store_of(client)
        for gate in client._serving.breaker.gates.values():  # type: ignore[union-attr]
            gate._rng = Random(1)
        read = store.read

        def slow(asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
            clock.advance(min(house.takes_s, until - clock.monotonic()))
            return read(asks, until, as_of_us=as_of_us)

        store.read = slow  # type: ignore[method-assign]
        return house

    def do(self, step: tuple[Any, ...]) -> Any:
        store = store_of(self.client)
        match step:
            case ("write", keys):
                failing, store.fail_with = store.fail_with, None
                at = [self.clock.wall()] * len(keys)
                self.client.write_to_online_store("v", {"k": keys, "f": keys, "event_timestamp": _dates(at)})
                self.client.write_to_online_store("w", {"k": keys, "g": keys, "event_timestamp": _dates(at)})
                self.client.write_to_online_store(
                    "t", {"k": keys, "s": list(map(str, keys)), "event_timestamp": _dates(at)}
                )
                store.fail_with = failing
            case ("wait", seconds):
                self.clock.advance(seconds)
            case ("takes", seconds):
                self.takes_s = seconds
            case ("fails", error):
                store.fail_with = error
            case ("loses", key):
                store.rows.pop(self.client.settings.views["v"].head + b"%d" % key, None)
            case ("damages", key):
                for versions in [v for name, v in store.rows.items() if name.endswith(b"%d" % key) and v]:
                    versions[-1] = versions[-1][:-1] + bytes([versions[-1][-1] ^ 1])
            case ("reads", keys, deadline_s):
                response = self.client.get_online_features(FEATURES, {"k": keys}, deadline_s=deadline_s, request_id="r")
                told = response.to_dict(include_event_timestamps=True, include_provenance=True)
                causes = [response.provenance(view).cause.tolist() for view in response.views]
                return repr(told), causes, response.elapsed_s  # as text: NaN is not NaN
        return None

    def state(self) -> Any:
        serving = self.client._serving
        gate = serving.breaker.gates["primary"]  # type: ignore[union-attr]
        remembered = {view: serving.memory.find(view, [b"%d" % k for k in range(5)]) for view in ("v", "w", "t")}
        assert serving.budget is not None
        assert serving.empty is not None
        known = serving.empty.watches["primary"].known
        stats = self.client.stats()
        for incident in stats["incidents"]:
            del incident["id"]  # ends in random digits
        run = gate._run if self.clock.monotonic() <= gate._bad_until else 0  # later it is over, looked at or not
        return stats, gate.state, list(gate._buckets), run, remembered, serving.budget._tokens, known


def _dates(seconds: Sequence[float]) -> list[Any]:
    import datetime as dt

    return [dt.datetime.fromtimestamp(each, dt.UTC) for each in seconds]


KEYS = st.lists(st.sampled_from([0, 1, 2, 3, 4]), min_size=1, max_size=4)
STEPS = st.one_of(
    st.tuples(st.just("reads"), KEYS, st.sampled_from([None, None, 0.004, 0.0015, 0])),
    st.tuples(st.just("reads"), KEYS, st.none()),
    st.tuples(st.just("write"), st.lists(st.sampled_from([0, 1, 2, 3, 4]), min_size=1, max_size=4, unique=True)),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.5, 20.0, 45.0])),
    st.tuples(st.just("takes"), st.sampled_from([0.0, 0.001, 0.012, 0.02])),
    st.tuples(st.just("fails"), st.sampled_from([None, None, StoreTimeout("late"), StoreUnavailable("gone")])),
    st.tuples(st.just("loses"), st.sampled_from([0, 1, 2])),
    st.tuples(st.just("damages"), st.sampled_from([3, 4])),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=25))
def test_the_layers_alone_would_have_done_the_same(steps: list[tuple[Any, ...]]) -> None:
    quick, layered = House.of(), House.of()
    layered.client._serving.shortcut.begin = lambda *_: None  # type: ignore[method-assign]
    for step in [("write", [0, 1, 2, 3, 4]), *steps]:
        assert quick.do(step) == layered.do(step), step
        assert quick.state() == layered.state(), step


def test_it_is_taken_where_all_is_well_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above compares the layers with themselves."""
    taken: list[bool] = []
    end = Serving.end

    def seen(self: Serving, call: Call, started: Started) -> Any:
        reading = end(self, call, started)
        taken.append(reading is not None)
        return reading

    monkeypatch.setattr(Serving, "end", seen)
    house = House.of()
    house.do(("write", [1, 2]))

    house.do(("reads", [1, 2], None))
    house.do(("reads", [1, 2, 1], None))
    house.do(("reads", [1, 9], None))

    assert taken == [True, True, False]


def test_a_caller_that_gives_up_is_counted_as_in_the_layers() -> None:
    def counted(house: House) -> Any:
        store_of(house.client).read = _interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            house.do(("reads", [1], None))
        return house.client.stats()["source_calls_total"]

    quick, layered = House.of(), House.of()
    layered.client._serving.shortcut.begin = lambda *_: None  # type: ignore[method-assign]

    assert counted(quick) == counted(layered) == [{"source": "primary", "outcome": "cancelled", "value": 1}]


def _interrupted(asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
    raise KeyboardInterrupt


def test_nothing_is_started_where_no_time_is_left_or_a_fault_is_on() -> None:
    house = House.of()
    shortcut: Shortcut = house.client._serving.shortcut
    now = house.clock.monotonic()
    asks = house.client._serving.call(
        ["v:f"],
        [{"k": 1}],
        full_feature_names=False,
        deadline_s=None,
        max_age_s=None,
        on_exhausted=None,
        request_id=None,
    ).asks

    assert shortcut.begin(Request(asks, [], until=now + 0.0015, wall_us=0), "primary") is None
    assert shortcut.begin(Request([], [], until=now + 1, wall_us=0), "primary") is None
    assert shortcut.begin(Request(asks, [], until=now + 1, wall_us=0), None) is None
    assert shortcut.begin(Request(asks, [], until=now + 1, wall_us=0), "primary") is not None
    house.client.chaos.active = ("a lease",)  # type: ignore[assignment]
    assert shortcut.begin(Request(asks, [], until=now + 1, wall_us=0), "primary") is None


@pytest.mark.parametrize("touch", [False, True])
def test_a_healthy_read_calls_no_python_for_each_row(touch: bool) -> None:
    """Counted, not timed: a read of 1,000 rows makes exactly the calls of one of 200, of 100 those of 40, of 20 of 5.

    Between them lie steps: more than 128 rows are counted at once, fewer wait for others; fewer than 32 ids are looked
    up without their marks.
    """
    house = House.of()
    rows = list(range(1000))
    write(house.client, "v", k=rows, f=rows)
    write(house.client, "w", k=rows, g=rows)

    def calls(n: int) -> int:
        asked = [{"k": key} for key in rows[:n]]
        count = 0

        def count_one(frame: Any, event: str, arg: Any) -> None:
            nonlocal count
            # The store in memory is no part of the path: it is the test's own database.
            if event == "call" and "testing" not in frame.f_code.co_filename:
                count += 1

        gc.collect()
        gc.disable()  # what it calls back is not the read's
        sys.setprofile(count_one)
        try:
            response = house.client.get_online_features(["v:f", "w:g"], asked)
            if touch:
                response.columns["f"], response.provenance("v"), response.provenance("w")
        finally:
            sys.setprofile(None)
            gc.enable()
        return count

    for _ in range(3):  # until every row is remembered, and known by its mark
        calls(5), calls(20), calls(40), calls(100), calls(200), calls(1000)
    house.client.stats()  # nothing waits to be counted

    assert calls(200) == calls(1000)
    assert calls(40) == calls(100)
    assert calls(5) == calls(20)
