"""A fault ends with its lease, and is over when `clear` returns; told by the values that are served."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from featurechaos import Cause, FeatureClient, Origin
from featurechaos.clock import SystemClock
from featurechaos.errors import ChaosRefused
from featurechaos.faults import Delay, Outage
from featurechaos.faults.when import draw_call, salt_of
from featurechaos.testing import ManualClock
from tests.live.conftest import World, now, pause
from tests.live.truth import FEATURES, IMAGE, LIVE, codes

pytestmark = pytest.mark.live

KEYS = np.arange(20)
LEASE_S = 0.6
CHAOS = {"enabled": True, "max_share": 1.0}
BARE = {"retry": None, "breaker": None}
REASON: dict[str, Any] = {"seed": 7, "reason": "a test"}


def opened(world: World, clock: Any = None) -> FeatureClient:
    return world.client(world.config(chaos=CHAOS, policy=BARE), clock)


def version(client: FeatureClient, request_id: str | None = None) -> int:
    """Which version of every row of both views is served."""
    response = client.get_online_features(FEATURES, {"tail": KEYS, "code": codes(KEYS)}, request_id=request_id)
    (found,) = {*(response.columns["number"] - KEYS * 16), *(response.columns["count"] - KEYS * 16)}
    truth = response.provenance("plane")
    assert set(truth.origin) == {Origin.PRIMARY if found == LIVE else Origin.SNAPSHOT}
    assert set(truth.injected) == {found == IMAGE}
    assert not np.any((truth.cause != Cause.NONE) & (found == LIVE))
    return int(found)


def test_it_ends_to_the_moment_by_the_clients_clock(filled: World) -> None:
    clock = ManualClock(SystemClock().wall())
    client = opened(filled, clock)

    with client.chaos.inject(Outage("primary"), share=1.0, lease_s=60, control=False, **REASON) as injection:
        before = version(client)
        clock.advance(59.999)
        last = version(client)
        clock.advance(0.001)
        after = version(client)

    assert (before, last, after) == (IMAGE, IMAGE, LIVE)
    assert injection.applied == 2
    assert client.chaos.live() == ()


def test_it_ends_by_itself_in_real_time(filled: World) -> None:
    client = opened(filled)
    assert version(client) == LIVE
    least = now() + LEASE_S
    client.chaos.inject(Outage("primary"), share=1.0, lease_s=LEASE_S, control=False, **REASON)
    most = now() + LEASE_S

    seen = []
    while now() < most + 0.4:
        asked = now()
        seen.append((asked, version(client), now()))
        pause(0.01)

    assert {found for _, found, ended in seen if ended < least} == {IMAGE}
    assert {found for asked, found, _ in seen if asked > most} == {LIVE}


def test_when_clear_returns_no_later_read_is_affected(filled: World) -> None:
    client = opened(filled)

    for _ in range(20):
        injection = client.chaos.inject(Outage("primary"), share=1.0, lease_s=60, control=False, **REASON)
        assert version(client) == IMAGE
        injection.clear()
        assert version(client) == LIVE
        injection.clear()


def test_a_share_of_requests_is_hit_and_the_control_group_spared(filled: World) -> None:
    client = opened(filled)
    ids = [f"request {number}" for number in range(60)]
    draws = np.array([draw_call(one, salt_of(7, "outage:primary")) for one in ids])

    with client.chaos.inject(Outage("primary"), share=0.3, lease_s=60, **REASON) as injection:
        found = [version(client, one) for one in ids]

    assert found == np.where(draws < 0.3, IMAGE, LIVE).tolist()
    assert 0 < injection.applied == (draws < 0.3).sum()
    assert 0 < injection.control == ((draws >= 0.3) & (draws < 0.6)).sum()


def test_together_they_stay_within_the_cap(filled: World) -> None:
    client = opened(filled)
    inject = client.chaos.inject
    with inject(Outage("primary"), share=0.3, lease_s=60, **REASON):
        with pytest.raises(ChaosRefused, match=r"within 1\.0, got 1\.2"):
            inject(Delay("primary", 0.001), share=0.3, lease_s=60, **REASON)
        with inject(Delay("primary", 0.001), share=0.2, lease_s=60, **REASON):
            assert len(client.chaos.live()) == 2
    with pytest.raises(ChaosRefused, match="and an end, got inf"):
        inject(Outage("primary"), share=0.1, lease_s=float("inf"), **REASON)
    assert version(client) == LIVE
