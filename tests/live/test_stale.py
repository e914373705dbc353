"""Rows as they were known days ago, from dated images: exactly those are served, and only where there are any."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import numpy as np
import pytest

from featurechaos import AsyncFeatureClient, Cause, FeatureClient, Origin, Status
from featurechaos.codec import encode_keys
from featurechaos.faults import Stale
from featurechaos.faults.when import draw_rows, salt_of
from tests.live.conftest import World, refreshed

pytestmark = pytest.mark.live

DAY_S = 86_400
DAYS = (3, 2, 1)
KEYS = np.arange(40)
NEWER = 30
"""Keys from here on are in no image: they came in today."""
CHAOS = {"enabled": True, "max_share": 1.0}
WHOLE: dict[str, Any] = {"share": 1.0, "control": False, "lease_s": 60, "seed": 7, "reason": "a test"}
FEATURES = ["score:number", "score:word"]


def view(ttl_s: float | None) -> dict[str, Any]:
    features = {"number": {"dtype": "int64"}, "word": {"dtype": "string"}}
    return {"name": "score", "join_keys": {"key": "int64"}, "features": features, "ttl_s": ttl_s}


def rows(days_ago: int, base_us: int, *, keys: Any = KEYS) -> dict[str, Any]:
    """What each key was so many days ago: a value that says when."""
    return {
        "key": keys,
        "number": number(days_ago, keys),
        "word": words(days_ago, keys),
        "event_timestamp": event_us(days_ago, base_us, keys).view("M8[us]"),
    }


def number(days_ago: int, keys: Any = KEYS) -> Any:
    return keys * 10 + days_ago


def words(days_ago: int, keys: Any = KEYS) -> list[str]:
    return [f"{key}, {days_ago} days ago" for key in keys.tolist()]


def event_us(days_ago: int, base_us: int, keys: Any = KEYS) -> Any:
    return base_us - (days_ago * DAY_S + 60) * 1_000_000 - keys * 1000


def opened(world: World, ttl_s: float | None = None) -> FeatureClient:
    """A client whose primary has today's rows of all keys, and three images of days before, of the older keys."""
    client = world.client(world.config(views=[view(ttl_s)], chaos=CHAOS))
    client.write_to_online_store("score", rows(0, world.base_us))
    for days_ago in DAYS:
        client.publish_snapshot("score", rows(days_ago, world.base_us, keys=KEYS[:NEWER]))
    return client


def read(client: FeatureClient, keys: Any = KEYS) -> Any:
    return client.get_online_features(FEATURES, {"key": keys})


def served(response: Any, days_ago: int, base_us: int, keys: Any) -> None:
    """The values of a day, and nothing of another."""
    assert response.columns["number"].tolist() == number(days_ago, keys).tolist()
    assert response.columns["word"].tolist() == words(days_ago, keys)


def test_three_dates_give_three_values(world: World) -> None:
    client, old = opened(world), KEYS[:NEWER]
    today = event_us(0, world.base_us, old)

    for days_ago, is_visible in [*((days_ago, True) for days_ago in DAYS), (2, False)]:
        with client.chaos.inject(Stale("score", days_ago * DAY_S, visible=is_visible), **WHOLE) as injection:
            response = read(client, old)
            reference = client.reference(response)

        truth = response.provenance("score")
        told = event_us(days_ago, world.base_us, old) if is_visible else today
        served(response, days_ago, world.base_us, old)
        assert truth.event_time.tolist() == told.tolist()
        assert truth.age_s.tolist() == ((response.wall_us - told) / 1e6).tolist()
        assert {*truth.origin, *truth.status, *truth.cause} == {Origin.PRIMARY, Status.PRESENT, Cause.NONE}
        assert truth.injected.all()
        assert not response.any_degraded
        assert (injection.applied, injection.not_applied) == (NEWER, 0)
        served(reference, 0, world.base_us, old)
        assert reference.provenance("score").event_time.tolist() == today.tolist()
        assert not reference.any_degraded
    served(read(client, old), 0, world.base_us, old)


def test_rows_without_a_past_are_left_alone_and_counted(world: World) -> None:
    client = opened(world)

    with client.chaos.inject(Stale("score", DAY_S), **WHOLE) as injection:
        response = read(client)

    was_old = KEYS < NEWER
    assert response.columns["number"].tolist() == np.where(was_old, number(1), number(0)).tolist()
    assert response.provenance("score").injected.tolist() == was_old.tolist()
    assert (injection.applied, injection.not_applied) == (NEWER, len(KEYS) - NEWER)


def test_no_image_is_old_enough(world: World) -> None:
    client = opened(world)

    with client.chaos.inject(Stale("score", 9 * DAY_S), **WHOLE) as injection:
        response = read(client)

    served(response, 0, world.base_us, KEYS)
    assert not response.injected.any()
    assert (injection.applied, injection.not_applied) == (0, len(KEYS))
    assert client.reference(response) is response


@pytest.mark.parametrize("is_visible", [True, False])
def test_only_what_is_visible_is_caught_by_the_ttl(is_visible: bool, world: World) -> None:
    client, old = opened(world, ttl_s=1.5 * DAY_S), KEYS[:NEWER]
    refreshed(client)  # its newest image is a day old: younger than what is injected, and within the ttl

    with client.chaos.inject(Stale("score", 2 * DAY_S, visible=is_visible), **WHOLE):
        response = read(client, old)
        reference = client.reference(response)

    truth = response.provenance("score")
    served(response, 1 if is_visible else 2, world.base_us, old)
    caught = {Origin.SNAPSHOT, Status.PRESENT, Cause.EXPIRED}
    assert {*truth.origin, *truth.status, *truth.cause} == (
        caught if is_visible else {Origin.PRIMARY, Status.PRESENT, Cause.NONE}
    )
    assert response.degraded.all() == is_visible == response.any_degraded
    assert truth.injected.all()
    served(reference, 0, world.base_us, old)
    assert not reference.any_degraded


def test_a_share_is_hit_and_another_spared_the_same_on_every_read(world: World) -> None:
    client, old = opened(world), KEYS[:NEWER]
    keys, _, _ = encode_keys(client.settings.views["score"].join_keys, [old])
    draws = draw_rows(keys.own, salt_of(11, "stale:score"))
    hit, spared = draws < 0.4, (draws >= 0.4) & (draws < 0.8)

    whole = WHOLE | {"share": 0.4, "control": True, "seed": 11}
    with client.chaos.inject(Stale("score", DAY_S), **whole) as injection:
        responses = [read(client, old) for _ in range(3)]

    assert 0 < hit.sum() < NEWER
    assert spared.any()
    for response in responses:
        assert response.columns["number"].tolist() == np.where(hit, number(1, old), number(0, old)).tolist()
        assert response.provenance("score").injected.tolist() == hit.tolist()
    assert (injection.applied, injection.not_applied) == (3 * hit.sum(), 0)
    assert injection.control == 3 * spared.sum()


def test_an_async_client_serves_the_same(world: World) -> None:
    opened(world).close()
    old = KEYS[:NEWER]

    async def run() -> Any:
        async with AsyncFeatureClient.from_config(world.config(views=[view(None)], chaos=CHAOS)) as client:
            fault = Stale("score", 2 * DAY_S)
            with await asyncio.to_thread(lambda: client.chaos.inject(fault, **WHOLE)):
                response = await client.get_online_features(FEATURES, {"key": old})
            return response, await client.reference(response)

    response, reference = asyncio.run(run())

    served(response, 2, world.base_us, old)
    served(reference, 0, world.base_us, old)


def test_images_out_of_reach_leave_the_rows_alone(world: World, caplog: pytest.LogCaptureFixture) -> None:
    opened(world).close()
    config = world.config(views=[view(None)], chaos=CHAOS)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        config["sources"]["standby"] |= {"endpoint_url": f"http://127.0.0.1:{nobody.getsockname()[1]}"}
        client = world.client(config)
        with client.chaos.inject(Stale("score", DAY_S), **WHOLE) as injection:
            response = read(client)

    served(response, 0, world.base_us, KEYS)
    assert (injection.applied, injection.not_applied) == (0, len(KEYS))
    assert "no rows for stale:score" in caplog.text
