"""A process is killed, and every source with it: the next one serves what the last one read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from featurechaos import Cause, FeatureClient, Origin
from featurechaos.demo.servers import S3Server, ValkeyServer
from tests.live.conftest import World, eventually, open_files
from tests.live.truth import ENTITIES, LIVE, VIEWS, codes, is_online, table, values

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
FEATURES = ["plane:number", "plane:ratio", "plane:word", "airport:delay", "airport:count"]
READER = """
import json, sys, time
from featurechaos import FeatureClient
client = FeatureClient.from_config(json.loads(sys.argv[1]))
client.get_online_features(json.loads(sys.argv[2]), json.loads(sys.argv[3]), deadline_s=5)
client._keepsakes.step()
print("written", flush=True)
while True:
    client.get_online_features(json.loads(sys.argv[2]), json.loads(sys.argv[3]), deadline_s=5)
    client._serving.memory.renew()
    client._keepsakes.step()
"""


@pytest.fixture
def world(armed: None, s3: S3Server, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack, ValkeyServer() as valkey:
        yield World.on(valkey, s3, tmp_path, stack)


def test_killed_with_every_source_the_next_process_has_what_the_last_one_read(
    world: World, tell: Callable[[str], None]
) -> None:
    config = world.config(policy={"last_known": {}, "retry": None})
    with FeatureClient.from_config(config) as writer:
        for view in VIEWS:
            writer.write_to_online_store(view["name"], table(view["name"], LIVE, world.base_us))
    keys = np.arange(ENTITIES)
    rows = {"tail": keys.tolist(), "code": codes(keys)}
    arguments = [json.dumps(config), json.dumps(FEATURES), json.dumps(rows)]
    with subprocess.Popen([sys.executable, "-c", READER, *arguments], stdout=subprocess.PIPE, cwd=ROOT) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"written\n"
        eventually(lambda: list(world.cache.rglob(".making-*")))
        reader.kill()
    world.valkey.kill()

    client = world.client(config)
    client.refresh(1)
    response = client.get_online_features(FEATURES, rows, deadline_s=0.5)

    there = is_online(keys)
    for name in ("plane", "airport"):
        truth = response.provenance(name)
        assert set(truth.origin[there].tolist()) == {Origin.LAST_KNOWN}
        assert Cause.NONE not in truth.cause
        assert Origin.LAST_KNOWN not in truth.origin[~there]
    wanted = values(keys, LIVE)
    for feature in ("number", "ratio", "delay", "count"):
        assert (response.columns[feature][there] == wanted[feature][there]).all()
    assert response.columns["word"][there].tolist() == wanted["word"][there].tolist()
    size = sum(path.stat().st_size for path in world.cache.rglob("*.rows"))
    tell(f"{int(there.sum())} rows of two views in {size / 1024:.0f} KiB")


def test_a_row_deleted_before_the_end_does_not_come_back_with_everything_down(world: World) -> None:
    config = world.config(policy={"last_known": {}, "retry": None})
    first = FeatureClient.from_config(config)
    for view in VIEWS:
        first.write_to_online_store(view["name"], table(view["name"], LIVE, world.base_us))
    ask = {"tail": [1, 2], "code": ["K1", "K2"]}
    first.get_online_features(FEATURES, ask, deadline_s=5)
    assert first._keepsakes is not None
    first._keepsakes.step()
    first.delete("plane", {"tail": [1]})
    world.valkey.kill()

    # The first one has not written since: it might as well have been killed.
    client = world.client(config)
    client.refresh(1)
    response = client.get_online_features(FEATURES, ask, deadline_s=0.5)
    first.close()

    assert response.provenance("plane").origin.tolist() == [Origin.NONE, Origin.LAST_KNOWN]
    assert response.provenance("airport").origin.tolist() == [Origin.LAST_KNOWN, Origin.LAST_KNOWN]


def test_close_leaves_no_thread_and_no_descriptor_and_another_may_write(world: World) -> None:
    config = world.config(policy={"last_known": {}, "retry": None})

    def life() -> None:
        with FeatureClient.from_config(config) as client:
            client.get_online_features(FEATURES, {"tail": [1], "code": ["K1"]}, deadline_s=5)
            assert client._keepsakes is not None
            client._keepsakes.step()
            assert client._keepsakes._writer is not None

    life()
    threads, files = set(threading.enumerate()), open_files()
    life()

    assert set(threading.enumerate()) == threads
    assert open_files() == files


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_does_not_write_while_its_parent_does(world: World) -> None:
    config = world.config(policy={"last_known": {}, "retry": None})
    client = world.client(config)
    client.get_online_features(FEATURES, {"tail": [1], "code": ["K1"]}, deadline_s=5)
    assert client._keepsakes is not None
    client._keepsakes.step()

    child = os.fork()
    if child == 0:
        is_writer = client._keepsakes._is_writer()
        os._exit(int(is_writer))
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert client._keepsakes._is_writer(), "and the parent still does"
