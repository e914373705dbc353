"""A service under steady load, in a process of its own; it keeps when each request began and ended, and who answered.

`python -m benchmarks.load JOB` runs ours or redis-py's MultiDBClient; Feast's process (`feast_load.py`) does so too, so
this module imports nothing that is not in the standard library until it knows what to run.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

KEY, MARK, VIEW, WHO = "user_id", "b_f00", "b", "who"
ENTITIES, ASKED = 200, 10
PRIMARY, REPLICA, LOCAL, WRONG = "primary", "replica", "local", "wrong"
"""Who answered: one of the servers, something kept on this side, or with values nobody wrote."""

Read = Callable[[Sequence[int]], str]
_LAST_S = 3.0
_HASTE = -10
_STARTS = 5
_now = time.monotonic  # noqa: TID251 - the clock of a load, read beside the client's


@dataclass
class Load:
    """Threads that each ask every `pace_s` or, when an answer took longer, at once."""

    read: Read
    threads: int
    pace_s: float
    seed: int
    answers: list[tuple[float, float, str]] = field(default_factory=list)
    waiting: dict[int, float] = field(default_factory=dict)
    """When the request that each thread waits for began."""

    def run(self, until: Callable[[], Any]) -> None:
        """Ask until `until` returns; then wait a little for those under way."""
        stop = threading.Event()
        workers = [threading.Thread(target=self._work, args=(stop, at), daemon=True) for at in range(self.threads)]
        for worker in workers:
            worker.start()
        until()
        stop.set()
        end = _now() + _LAST_S
        for worker in workers:
            worker.join(max(0.0, end - _now()))

    def _work(self, stop: threading.Event, at: int) -> None:
        rng = Random(self.seed * 100 + at)
        due = _now() + self.pace_s * rng.random()
        while not stop.wait(max(0.0, due - _now())):
            ids = rng.sample(range(ENTITIES), ASKED)
            began = self.waiting[at] = _now()
            try:
                told = self.read(ids)
            except Exception as error:  # noqa: BLE001 - whatever it is, the request failed
                told = f"error {type(error).__name__}"
            ended = _now()
            del self.waiting[at]
            self.answers.append((began, ended, told))
            due = max(due + self.pace_s, ended)  # by the clock: what a wait oversleeps is not lost

    def save(self, path: str) -> None:
        """Keep what was seen; requests that were never answered end now."""
        ended = _now()
        unanswered = [(began, ended, "error no answer") for began in self.waiting.values()]
        Path(path).write_text(json.dumps([*self.answers, *unanswered]), encoding="utf-8")


def play(read: Read, job: Mapping[str, Any]) -> None:
    """Read once, say so, and stay under load until stdin is closed."""
    logging.disable(logging.CRITICAL)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _HASTE)
    end = _now() + _LAST_S
    while read(range(ASKED)) != PRIMARY and _now() < end:
        threading.Event().wait(0.05)
    gc.collect()
    gc.freeze()
    load = Load(read, job["threads"], job["pace_s"], job["seed"])

    def until() -> None:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.read()

    load.run(until)
    load.save(job["path"])
    # Threads that wait for a server that never answers would keep the process.
    os._exit(0)


def hammer(read: Read, job: Mapping[str, Any]) -> None:
    """For each line on stdin ask as fast as can be for `for_s`; say how many answers came and how long they took."""
    read(range(ASKED))
    gc.collect()
    gc.freeze()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        took_s: list[float] = []
        workers = [
            threading.Thread(target=_hammered, args=(read, took_s, Random(job["seed"] + at), job["for_s"]))
            for at in range(job["threads"])
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        took_s.sort()
        sys.stdout.write(json.dumps({"answers": len(took_s), "p50_us": took_s[len(took_s) // 2] * 1e6}) + "\n")
        sys.stdout.flush()


def _hammered(read: Read, took_s: list[float], rng: Random, for_s: float) -> None:
    end = _now() + for_s
    while (began := _now()) < end:
        ids = rng.sample(range(ENTITIES), ASKED)
        if read(ids) != PRIMARY:
            raise WrongAnswer(ids)
        took_s.append(_now() - began)


class WrongAnswer(Exception):
    """A reader gave something else than what is stored for these ids."""


def bare(job: Mapping[str, Any]) -> Read:
    """redis-py's `mget`, of which only the last row is looked at."""
    import struct

    import redis

    client: Any = redis.Redis(port=job["ports"][0])
    head, value_of = job["head"].encode(), struct.Struct("<f").unpack_from

    def read(ids: Sequence[int]) -> str:
        rows = client.mget([b"%b%d}" % (head, one) for one in ids])
        return PRIMARY if int(value_of(rows[-1], job["at"])[0]) == ids[-1] else WRONG

    return read


def ours(job: Mapping[str, Any]) -> Read:
    """Our client; an answer that is not wholly one online server's is told as `local`."""
    from featurechaos import FeatureClient, Origin

    client = FeatureClient.from_config(job["config"])
    wanted = [f"{VIEW}:{name}" for name in job["features"]]

    def read(ids: Sequence[int]) -> str:
        response = client.get_online_features(wanted, {KEY: ids})
        columns = response.columns
        for name in columns:
            columns[name]
        origin = response.provenance(VIEW).origin
        if columns[MARK].tolist() != list(ids):
            return WRONG
        if (origin == Origin.PRIMARY).all():
            return PRIMARY
        return REPLICA if (origin <= Origin.REPLICA).all() else LOCAL

    return read


def multidb(job: Mapping[str, Any]) -> Read:
    """redis-py's client of several databases, as it comes or tuned by hand for a feature read."""
    import struct
    import warnings

    warnings.filterwarnings("ignore")
    from redis.backoff import ExponentialWithJitterBackoff
    from redis.multidb.client import MultiDBClient
    from redis.multidb.config import DatabaseConfig, MultiDbConfig
    from redis.multidb.exception import InitialHealthCheckFailedError
    from redis.retry import Retry

    options: dict[str, Any] = {}
    waits: dict[str, Any] = {}
    if job["is_tuned"]:
        waits = {"socket_timeout": 0.2, "socket_connect_timeout": 0.2}
        options = {
            "min_num_failures": 5,
            "failure_rate_threshold": 0.1,
            "failures_detection_window": 2,
            "health_check_interval": 1,
            "health_check_probes": 1,
            "health_check_timeout": 0.5,
            "health_check_delay": 0.1,
            "failover_delay": 0.1,
            "failover_attempts": 10,
            "auto_fallback_interval": 5,
            "command_retry": Retry(ExponentialWithJitterBackoff(base=0.005, cap=0.05), 3),
        }
    databases = [
        DatabaseConfig(client_kwargs={"host": "127.0.0.1", "port": port, **waits}, weight=weight)
        for port, weight in zip(job["ports"], (1.0, 0.5), strict=True)
    ]
    client: Any = None
    for left in reversed(range(_STARTS)):  # its first health check gives up where five processes start at once
        client = MultiDBClient(MultiDbConfig(databases_config=databases, **options))
        try:
            client.initialize()
            break
        except InitialHealthCheckFailedError:
            if not left:
                raise
    head, value_of = job["head"].encode(), struct.Struct("<f").unpack_from

    def read(ids: Sequence[int]) -> str:
        *rows, who = client.mget([*(b"%b%d}" % (head, one) for one in ids), WHO])
        if [int(value_of(row, job["at"])[0]) for row in rows] != list(ids):
            return WRONG
        told: str = who.decode()
        return told

    return read


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    reader = {"ours": ours, "multidb": multidb, "bare": bare}[given["kind"]](given)
    (hammer if "for_s" in given else play)(reader, given)
