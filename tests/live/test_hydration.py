"""A client while its snapshot is hydrated anew, and while that goes wrong: the old values are served, or the new."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurechaos import FeatureClient, Origin, Status
from featurechaos_s3.hydrate import STEPS, STOP_AT
from tests.live.conftest import World, eventually, refreshed

pytestmark = pytest.mark.live

VIEW = {"name": "score", "join_keys": {"key": "int64"}, "features": {"number": {"dtype": "int64"}}, "ttl_s": None}
KEYS = np.arange(50)


def publish(world: World, version: int) -> None:
    """By another client, which is gone before anything else happens: what it hydrates is in a folder of its own."""
    config = world.config(views=[VIEW])
    config["sources"]["standby"]["cache_dir"] = str(world.folder / "elsewhere")
    when = np.full(len(KEYS), world.base_us - (1000 - version) * 1_000_000).astype("M8[us]")
    with FeatureClient.from_config(config) as client:
        client.publish_snapshot("score", {"key": KEYS, "number": KEYS * 100 + version, "event_timestamp": when})


def version(client: FeatureClient) -> int | None:
    """Which image answers; None if none does."""
    response = client.get_online_features(["score:number"], {"key": KEYS}, deadline_s=0)
    truth = response.provenance("score")
    if set(truth.origin) == {Origin.NONE}:
        assert set(truth.status) == {Status.UNAVAILABLE}
        assert response.nulls["number"].all()
        return None
    assert set(truth.origin) == {Origin.SNAPSHOT}
    assert not response.nulls["number"].any()
    (found,) = set((response.columns["number"] - KEYS * 100).tolist())
    return int(found)


def stopped_child() -> int | None:
    """The pid of a hydrating process of ours that has stopped itself."""
    for listing in Path("/proc/self/task").glob("*/children"):
        for pid in listing.read_text().split():
            is_hydrating = b"hydrate" in Path(f"/proc/{pid}/cmdline").read_bytes()
            if is_hydrating and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return int(pid)
    return None


def refresh_into(client: FeatureClient, told: list[Any]) -> None:
    told.extend(client.refresh(60)["standby"])


@pytest.mark.slow
def test_killing_the_hydrating_process_at_any_step_leaves_the_old_values(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = world.client(world.config(views=[VIEW]))
    publish(world, 0)
    eventually(lambda: version(client) == 0)  # by its own background, which is done with it then

    for number, step in enumerate(STEPS, start=1):
        before = version(client)
        publish(world, number)
        with monkeypatch.context() as patch:
            patch.setenv(STOP_AT, step)
            told: list[Any] = []
            caller = threading.Thread(target=refresh_into, args=(client, told))
            caller.start()
            child = eventually(stopped_child)
            at_work = version(client)
            os.kill(child, signal.SIGKILL)
            caller.join()

        assert told[0].state == "failed"
        assert (before, at_work, version(client)) == (0, 0, 0), step
    refreshed(client)
    assert version(client) == len(STEPS)


def test_none_is_none_until_it_is_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = world.client(world.config(views=[VIEW]))
    publish(world, 1)
    with monkeypatch.context() as patch:
        patch.setenv(STOP_AT, "rename")
        before = version(client)  # its first use: its background begins
        child = eventually(stopped_child)
        at_work = version(client)
        os.kill(child, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{child}").exists())

    assert (before, at_work, version(client)) == (None, None, None)
    refreshed(client)
    assert version(client) == 1


def test_readers_see_one_image_or_the_next_while_they_are_swapped(world: World, tell: Callable[[str], None]) -> None:
    client = world.client(world.config(views=[VIEW]))
    publish(world, 0)
    refreshed(client)
    stop, wrong, seen = threading.Event(), list[BaseException](), [list[int]() for _ in range(3)]

    def work(mine: list[int]) -> None:
        try:
            while not stop.wait(0.005):
                found = version(client)
                assert found is not None
                mine.append(found)
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    for number in (1, 2, 3):
        publish(world, number)
        refreshed(client)
        assert version(client) == number
    eventually(lambda: wrong or all(mine[-1] == number for mine in seen))
    stop.set()
    for thread in threads:
        thread.join()

    tell(f"{sum(map(len, seen))} reads beside three swaps")
    assert wrong == []
    for mine in seen:
        assert mine == sorted(mine)
        assert {0, 3} <= set(mine) <= {0, 1, 2, 3}
