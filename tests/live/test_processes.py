"""Clients over a fork, in a pickle, and gone: nothing shared that should not be, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featurechaos import AsyncFeatureClient, FeatureClient, Origin
from tests.live.conftest import Answers, World, now, open_files
from tests.live.truth import FEATURES, IMAGE, LIVE

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
CHAOS = {"enabled": True, "max_share": 1.0, "listen": "127.0.0.1:0"}
ROWS = {"tail": [3], "code": ["K3"]}


@pytest.fixture
def full(filled: World) -> dict[str, Any]:
    """The config of a client with everything on that has a thread or a socket; its rows are stored."""
    return filled.config(chaos=CHAOS, metrics={"port": 0})


def test_children_and_parent_read_on_while_one_forks(full: dict[str, Any], filled: World) -> None:
    base = str(filled.folder / "fork")

    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.live.forker", json.dumps(full), base],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )

    assert (done.stdout, done.returncode) == ("well\n", 0), done.stderr
    diaries = sorted(filled.folder.glob("fork.*.npz"))
    assert len(diaries) == 6 + 4
    for path in diaries:
        told = Answers.read(path)
        assert [told.seen(view).check(filled.base_us) for view in ("plane", "airport")] == [[], []]


def read_elsewhere(client: FeatureClient, answers: Any) -> None:
    """In a process that got the client as a pickle."""
    for deadline_s in (5, 0):
        response = client.get_online_features(FEATURES, ROWS, deadline_s=deadline_s)
        answers.send((response.columns["number"].tolist(), response.provenance("plane").origin.tolist()))
    client.close()
    answers.send(threading.active_count())


def test_a_client_pickles_as_its_config(full: dict[str, Any]) -> None:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    with FeatureClient.from_config(full) as client:
        assert client.get_online_features(FEATURES, ROWS).columns["number"].tolist() == [3 * 16 + LIVE]
        process = spawn.Process(target=read_elsewhere, args=(client, theirs))
        process.start()
    theirs.close()

    told = [ours.recv() for _ in range(3)]
    process.join(30)

    assert told == [([3 * 16 + LIVE], [Origin.PRIMARY]), ([3 * 16 + IMAGE], [Origin.SNAPSHOT]), 1]
    assert process.exitcode == 0


def use(config: dict[str, Any]) -> None:
    """A client's whole life: both tiers read, both endpoints up, closed twice."""
    client = FeatureClient.from_config(config)
    for deadline_s in (5, 0):
        client.get_online_features(FEATURES, ROWS, deadline_s=deadline_s)
    assert client.chaos.listening
    client.refresh(30)
    client.close()
    client.close()


async def ause(config: dict[str, Any]) -> None:
    client = AsyncFeatureClient.from_config(config)
    for deadline_s in (5, 0):
        await client.get_online_features(FEATURES, ROWS, deadline_s=deadline_s)
    assert client.chaos.listening
    await client.refresh(30)
    await client.close()
    await client.close()


@pytest.mark.parametrize("life", [use, lambda config: asyncio.run(ause(config))], ids=["threads", "tasks"])
def test_close_leaves_no_thread_and_no_descriptor(life: Callable[[dict[str, Any]], None], full: dict[str, Any]) -> None:
    life(full)  # what is opened once for all, such as the machine's random source, is open then
    threads, files = set(threading.enumerate()), open_files()

    life(full)

    assert set(threading.enumerate()) == threads
    assert open_files() == files


FORGETFUL = """
import json, sys
from featurechaos import FeatureClient
client = FeatureClient.from_config(json.loads(sys.argv[1]))
print(client.get_online_features(["plane:number"], {"tail": [3]}, deadline_s=5).columns["number"].tolist(), flush=True)
"""


def test_a_process_that_never_closes_its_client_ends_all_the_same(full: dict[str, Any]) -> None:
    begun = now()

    done = subprocess.run(
        [sys.executable, "-c", FORGETFUL, json.dumps(full)], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stdout, done.returncode) == (f"[{3 * 16 + LIVE}]\n", 0), done.stderr
    assert "Traceback" not in done.stderr
    assert now() - begun < 20
