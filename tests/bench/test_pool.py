"""Entities to ask about, and what is to be broken as it is typed."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest

from featurechaos.bench.breaks import breaks_of
from featurechaos.bench.pool import Pool, packed, unpacked
from featurechaos.config import load
from featurechaos.drills.faults import DelaySpec, OutageSpec
from featurechaos.errors import RequestError

CONFIG = {
    "project": "shop",
    "sources": {"primary": {"type": "memory"}, "standby": {"type": "memory", "role": "snapshot"}},
    "views": [{"name": "user", "join_keys": {"id": "int64"}, "features": {"score": {"dtype": "float32"}}}],
    "chaos": {"enabled": True},
}


def test_entities_that_belong_together_are_drawn_together_and_each_at_most_once() -> None:
    pool = Pool(({"user": list(range(50)), "item": [f"i{k}" for k in range(50)]}, {"shop": ["a", "b"]}), "a test")

    drawn = pool.draw(Random(7), 20)

    assert len(set(drawn["user"])) == 20
    assert drawn["item"] == [f"i{k}" for k in drawn["user"]]
    assert set(drawn["shop"]) == {"a", "b"} and len(drawn["shop"]) == 20, "too few: some twice"
    assert pool.draw(Random(7), 20) == drawn, "a seed draws the same"
    assert len(pool) == 50


def test_entities_of_every_kind_go_through_json_and_back() -> None:
    times = np.array(["2024-06-01T05:00:00", "1969-01-01"], "M8[us]")
    columns = {"at": times, "raw": [b"\x00\xff", b""], "name": ["\u00e9", ""], "id": [1, -2]}

    back = unpacked(json.loads(json.dumps(packed(columns))))

    assert back["at"].dtype == times.dtype and back["at"].tolist() == times.tolist()
    assert {name: back[name] for name in ("raw", "name", "id")} == {
        name: columns[name] for name in ("raw", "name", "id")
    }


def test_faults_are_read_as_they_are_typed() -> None:
    settings = load(CONFIG, environ={"FEATURECHAOS_CHAOS": "armed"})

    one, two = breaks_of(settings, ["hang:primary", "delay:standby:50ms"], [], signal="stop", for_s=1)

    assert one.spec == OutageSpec(fault="outage", source="primary", mode="hang")
    assert two.spec == DelaySpec(fault="delay", source="standby", delay_s=0.05)
    assert (one.name, two.name) == ("primary silent", "standby 50 ms slower")


@pytest.mark.parametrize(
    ("faults", "pids", "said"),
    [
        (["outage"], [], "--fault wants outage:SOURCE, hang:SOURCE or delay:SOURCE:50ms, got 'outage'"),
        (["stale:user"], [], "--fault wants outage:SOURCE"),
        (["outage:primary:5s"], [], "--fault wants outage:SOURCE"),
        (["delay:primary"], [], "--fault wants outage:SOURCE"),
        (["delay:primary:50"], [], "wanted a time such as 50ms or 0.2s, got '50'"),
        (["delay:primary:0ms"], [], "wanted a time such as 50ms or 0.2s, got '0ms'"),
        (["outage:primry"], [], "--fault: there is no source 'primry', did you mean 'primary'?"),
        ([], ["primary"], "--pid wants SOURCE=PID, got 'primary'"),
        ([], ["primary=x"], "--pid wants SOURCE=PID, got 'primary=x'"),
        ([], ["primry=12"], "--pid: there is no source 'primry', did you mean 'primary'?"),
        ([], ["primary=1"], "--pid: process 1 runs this command"),
        (["outage:primary", "delay:primary:1s"], [], "source 'primary' is to be broken twice at once"),
    ],
)
def test_a_mistake_is_a_sentence(faults: list[str], pids: list[str], said: str) -> None:
    settings = load(CONFIG, environ={"FEATURECHAOS_CHAOS": "armed"})

    with pytest.raises(RequestError) as refused:
        breaks_of(settings, faults, pids, signal="stop", for_s=1)

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("enabled", "environ", "said"),
    [
        (False, {"FEATURECHAOS_CHAOS": "armed"}, "chaos.enabled: wanted true"),
        (True, {}, "FEATURECHAOS_CHAOS: wanted 'armed'"),
    ],
)
def test_nothing_is_broken_unless_config_and_environment_both_say_so(
    enabled: bool, environ: dict[str, str], said: str
) -> None:
    settings = load({**CONFIG, "chaos": {"enabled": enabled}}, environ=environ)

    with pytest.raises(RequestError, match=said):
        breaks_of(settings, ["outage:primary"], [], signal="stop", for_s=1)
    assert breaks_of(settings, [], [], signal="stop", for_s=1) == ()
