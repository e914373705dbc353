"""`python -m tests.live.service`: a serving process under a steady load, which keeps all it was answered.

A process of its own, as a service is: with pytest's heap a full garbage collection takes longer than the
deadline. Stops when its stdin is closed, and leaves what it saw in a file.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from featurechaos import AsyncFeatureClient, FeatureClient
from featurechaos.clock import SystemClock
from tests.live.truth import ENTITIES, FEATURES, VIEWS, codes, told_of
from tests.live.watchdog import hasten

ROWS = 6
STEADY = 30
_STEADY_MOST_S = 15.0
_now = SystemClock().monotonic


@dataclass
class Diary:
    """Every request: when it began and ended, what failed, and what each row of each view said."""

    answers: list[tuple[float, float, Any, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def answered(self, began: float, ended: float, keys: Any, response: Any) -> None:
        """Keep an answer; it is read at the end, so that reading it holds up no other request."""
        self.answers.append((began, ended, keys, response))

    def is_steady(self) -> bool:
        """Whether the last answers were all the primary's."""
        last = self.answers[-STEADY:]
        return len(last) == STEADY and not any(response.any_degraded for _, _, _, response in last)

    @staticmethod
    def _told(keys: Any, response: Any) -> dict[str, Any]:
        told: dict[str, Any] = {"key": keys, "wall_us": np.full(len(keys), response.wall_us)}
        for view in VIEWS:
            name = view["name"]
            for feature in view["features"]:
                column = response.columns[feature]
                null = response.nulls[feature]
                if column.dtype == object:
                    column = np.array(["" if word is None else word for word in column], np.str_)
                told[f"{name}.value.{feature}"], told[f"{name}.null.{feature}"] = column, null
            for fact, array in told_of(response, name).items():
                told[f"{name}.truth.{fact}"] = array
        told["degraded"] = response.degraded
        return told

    def saved(self, path: Path) -> None:
        rows = [self._told(keys, response) for _, _, keys, response in self.answers]
        columns = {name: np.concatenate([one[name] for one in rows]) for name in rows[0]}
        began, ended, _, _ = zip(*self.answers, strict=True)
        whole: dict[str, Any] = {"began": began, "ended": ended, "failed": np.array(self.failed, np.str_)}
        np.savez(path, allow_pickle=False, **whole, **columns)


def drawn(rng: Random) -> tuple[Any, dict[str, Any]]:
    """Some keys, at times one twice, and the entity rows that ask for them."""
    keys = np.array([rng.randrange(ENTITIES) for _ in range(ROWS)])
    return keys, {"tail": keys, "code": codes(keys)}


def threads(client: FeatureClient, many: int, pause_s: float, seed: int) -> Diary:
    """A steady load from threads, until stdin is closed."""
    client.ready(freeze=True)
    diary, stop = Diary(), threading.Event()

    def work(rng: Random) -> None:
        while not stop.wait(pause_s * rng.uniform(0.5, 1.5)):
            keys, rows = drawn(rng)
            began = _now()
            try:
                response = client.get_online_features(FEATURES, rows)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed request
                diary.failed.append(repr(error))
            else:
                diary.answered(began, _now(), keys, response)

    workers = [threading.Thread(target=work, args=(Random(seed + at),)) for at in range(many)]
    for worker in workers:
        worker.start()
    most = _now() + _STEADY_MOST_S
    while not diary.is_steady() and _now() < most:
        stop.wait(0.05)
    _say_ready()
    sys.stdin.read()
    stop.set()
    for worker in workers:
        worker.join()
    client.close()
    return diary


async def tasks(client: AsyncFeatureClient, many: int, pause_s: float, seed: int) -> Diary:
    """The same from tasks of one event loop."""
    await client.ready(freeze=True)
    diary, stop = Diary(), asyncio.Event()

    async def work(rng: Random) -> None:
        while not stop.is_set():
            await asyncio.sleep(pause_s * rng.uniform(0.5, 1.5))
            keys, rows = drawn(rng)
            began = _now()
            try:
                response = await client.get_online_features(FEATURES, rows)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed request
                diary.failed.append(repr(error))
            else:
                diary.answered(began, _now(), keys, response)

    workers = [asyncio.create_task(work(Random(seed + at))) for at in range(many)]
    most = _now() + _STEADY_MOST_S
    while not diary.is_steady() and _now() < most:  # noqa: ASYNC110 - answers are kept, nothing more
        await asyncio.sleep(0.05)
    _say_ready()
    await asyncio.to_thread(sys.stdin.read)
    stop.set()
    await asyncio.gather(*workers)
    await client.close()
    return diary


def _say_ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def main(argument: str) -> None:
    hasten()
    job = json.loads(argument)
    pace = (job["many"], job["pause_s"], job["seed"])
    kinds: dict[str, Callable[[], Diary]] = {
        "threads": lambda: threads(FeatureClient.from_config(job["config"]), *pace),
        "tasks": lambda: asyncio.run(tasks(AsyncFeatureClient.from_config(job["config"]), *pace)),
    }
    kinds[job["kind"]]().saved(Path(job["path"]))


if __name__ == "__main__":
    main(sys.argv[1])
