"""Async callers that give up at every moment: no answer is ever another request's, and nothing is left behind."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from featurechaos import AsyncFeatureClient, Response
from featurechaos.clock import SystemClock
from featurechaos.demo.proxy import Mode, TrickleProxy
from featurechaos.demo.servers import ValkeyServer
from tests.live.conftest import Answers, World
from tests.live.service import Diary, drawn
from tests.live.truth import FEATURES

pytestmark = pytest.mark.live

REQUESTS, AT_A_TIME = 1200, 24
MODES: tuple[Mode, ...] = ("pass", "hang", "pass", "reset", "pass", "trickle")
_now = SystemClock().monotonic


@pytest.mark.parametrize("is_hurt", [False, True], ids=["healthy", "hurt"])
def test_a_storm_of_cancels_never_hands_an_answer_to_another(
    is_hurt: bool, filled: World, seed: int, tell: Callable[[str], None]
) -> None:
    with TrickleProxy(filled.valkey.port) as proxy:
        threads, clients = threading.active_count(), connected(filled.valkey)
        diary, ends = asyncio.run(storm(filled, proxy, seed, is_hurt=is_hurt))

    tell(f"{dict(ends)}")
    assert diary.failed == []
    assert ends["answered"] > REQUESTS / 10
    assert ends["cancelled"] > REQUESTS / 10
    path = filled.folder / "diary.npz"
    diary.saved(path)
    told = Answers.read(path)
    assert [told.seen(view).check(filled.base_us) for view in ("plane", "airport")] == [[], []]
    assert (threading.active_count(), connected(filled.valkey)) == (threads, clients)


async def storm(world: World, proxy: TrickleProxy, seed: int, *, is_hurt: bool) -> tuple[Diary, Counter[str]]:
    """Requests of many tasks, each given up after a time of its own; the proxy changes its mode meanwhile."""
    url = f"redis://127.0.0.1:{proxy.port}/0"
    # A long deadline: here the callers decide when it is enough.
    policy = {"deadline_s": 0.5, "breaker": None}
    config = world.config(primary={"url": url, "timeout_s": 0.1}, policy=policy)
    diary, ends, rng = Diary(), Counter[str](), Random(seed)
    async with AsyncFeatureClient.from_config(config) as client:
        await client.get_online_features(FEATURES, drawn(rng)[1])
        queue = iter(range(REQUESTS))

        async def work() -> None:
            for _ in queue:
                ends[await one(client, diary, rng)] += 1

        workers = [asyncio.create_task(work()) for _ in range(AT_A_TIME)]
        turns = 0
        while is_hurt and not all(worker.done() for worker in workers):
            await asyncio.to_thread(proxy.turn, MODES[turns % len(MODES)])
            turns += 1
            await asyncio.sleep(0.1)
        await asyncio.gather(*workers)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return diary, ends


async def one(client: AsyncFeatureClient, diary: Diary, rng: Random) -> str:
    """One request, cancelled from outside, timed out, or let be."""
    keys, rows = drawn(rng)
    began = _now()
    task = asyncio.create_task(client.get_online_features(FEATURES, rows))
    try:
        if rng.random() < 0.3:
            await asyncio.sleep(rng.expovariate(400))
            task.cancel()
            response = await task
        else:
            response = await asyncio.wait_for(task, 10 ** rng.uniform(-3.5, -1))
    except (asyncio.CancelledError, TimeoutError):
        return "cancelled"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed request
        diary.failed.append(repr(error))
        return "failed"
    diary.answered(began, _now(), keys, response)
    return "answered"


def connected(server: ValkeyServer) -> int:
    """How many clients a server has, this one not counted."""
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.settimeout(5)
        connection.sendall(b"INFO clients\r\n")
        told = b""
        while b"connected_clients:" not in told or not told.endswith(b"\n"):
            told += connection.recv(4096)
    return int(told.partition(b"connected_clients:")[2].split(b"\r\n")[0]) - 1


AT_ONCE = 64


def test_reads_of_a_frozen_store_hold_no_thread(filled: World) -> None:
    before, amid, answers = asyncio.run(beside_a_frozen_store(filled))

    assert amid <= before
    assert len(answers) == AT_ONCE
    assert all(isinstance(each, Response) and each.any_degraded for each in answers)


async def beside_a_frozen_store(world: World) -> tuple[int, int, list[Any]]:
    """The threads that the kernel counts before many reads at once and in their midst; what each read gave."""
    config = world.config(primary={"timeout_s": 0.8}, policy={"deadline_s": 1.0, "breaker": None, "retry": None})
    async with AsyncFeatureClient.from_config(config) as client:

        def reads() -> list[asyncio.Task[Response]]:
            asked = [drawn(Random(seed))[1] for seed in range(AT_ONCE)]
            return [asyncio.create_task(client.get_online_features(FEATURES, rows)) for rows in asked]

        await asyncio.gather(*reads())
        world.valkey.freeze()
        try:
            before, asked = kernel_threads(), reads()
            await asyncio.sleep(0.3)
            amid = kernel_threads()
            assert not any(one.done() for one in asked)
            answers: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
        finally:
            world.valkey.thaw()
    return before, amid, answers


def kernel_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))
