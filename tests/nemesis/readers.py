"""`python -m tests.nemesis.readers JOB`: a serving process that reads without pause and writes down all it is told.

Eight threads on a `FeatureClient`, or sixty-four tasks on an `AsyncFeatureClient`. A line of JSON on stdin changes
what it does: `{"cancel": 0.5}` (the share of awaits given up), `{"fork": 1}`; it stops when stdin is closed.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import itertools
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from math import nan
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from featurechaos import AsyncFeatureClient, FeatureClient
from featurechaos.errors import Exhausted, RequestError
from tests.live.watchdog import command, go_ahead, hasten
from tests.nemesis.clocks import JumpingClock, now
from tests.nemesis.history import (
    ACTOR_BITS,
    CANCELLED,
    EXHAUSTED,
    FAILED,
    PLAIN,
    RAISING,
    REFUSED,
    REQUESTS,
    WRONG,
    Diary,
)
from tests.nemesis.plants import plant
from tests.nemesis.stored import KEYS, KIND, KINDS, codes
from tests.nemesis.worlds import DEADLINE_S

THREADS, TASKS = 8, 64
THREAD_PAUSE_S, TASK_PAUSE_S = 0.36, 1.55
WARM_READS = 40
_SWITCH_S = 0.001
"""What is written down beside the reads may not hold them up for five milliseconds a thread."""
_SHORT_S = 0.030
_GIVE_UP_MOST_S = 0.015
_SAMPLE_EVERY_S = 1.0
STALL_S = 0.003
_CHILD_READS, _CHILD_MOST_S = 12, 20
_WRONG = ("base:no_such_feature", "no_such_view:stamp", "base")


@dataclass
class Question:
    """One call to be made."""

    request: Any
    keys: Sequence[int]
    features: list[str]
    rows: dict[str, Any]
    options: dict[str, Any]


class Silent:
    """A diary that keeps nothing, for the reads that warm a process up."""

    def note(self, what: str, **about: Any) -> None: ...

    def answered(self, request: Any, keys: Sequence[int], response: Any) -> None: ...


class Asker:
    """Draws calls; every one has a number of its own, which it also asks for as a key that is never stored."""

    def __init__(self, actor: int, generation: int, clock: JumpingClock) -> None:
        self._numbers = itertools.count(actor << ACTOR_BITS)
        self.clock = clock
        self._features = {kind.number: [f"{kind.name}:{name}" for name in kind.of(generation)] for kind in KINDS}

    def draw(self, rng: Random, *, hurried: bool = True) -> Question:
        number = next(self._numbers)
        keys = [rng.randrange(KEYS) for _ in range(rng.randint(3, 6))]
        if rng.random() < 0.1:
            keys[-1] = keys[0]
        views = [0, *sorted(rng.sample(range(1, 5), 2)), 5]
        features = [one for view in views for one in self._features[view]]
        rows: dict[str, Any] = {"k": keys, "code": codes(keys), "q": number}
        request = np.zeros(1, REQUESTS)
        request["id"], request["gave_up"], request["max_age_s"] = number, nan, nan
        request["deadline_s"], request["kind"] = DEADLINE_S, PLAIN
        options: dict[str, Any] = {"full_feature_names": True}
        luck = rng.random()
        if luck < 0.12 and not hurried:
            pass  # As any: a child that was just forked is cold.
        elif luck < 0.03:
            options["deadline_s"] = request["deadline_s"] = 0.0
        elif luck < 0.12:
            options["deadline_s"] = request["deadline_s"] = _SHORT_S
        elif luck < 0.20:
            options["max_age_s"] = request["max_age_s"] = rng.uniform(1.0, 10.0)
        elif luck < 0.23:
            options["on_exhausted"], request["kind"] = "raise", RAISING
        elif luck < 0.235:
            features, request["kind"] = [*features, rng.choice(_WRONG)], WRONG
        return Question(request, keys, features, rows, options)

    def begin(self, request: Any) -> None:
        request["wall_before"] = self.clock.wall()
        request["began"] = now()

    def end(self, request: Any) -> None:
        request["ended"] = now()
        request["wall_after"] = self.clock.wall()


def ended(error: BaseException, question: Question, diary: Diary | Silent) -> Any:
    """Note how a call failed; its answer, where the error has one."""
    request = question.request
    if isinstance(error, Exhausted):
        request["outcome"] = EXHAUSTED
        return error.response
    request["outcome"] = REFUSED if isinstance(error, RequestError) else FAILED
    if request["outcome"] == FAILED or request["kind"] != WRONG:
        diary.note("raised", id=int(request["id"][0]), error=f"{type(error).__name__}: {error}")
    return None


def ask(client: FeatureClient, asker: Asker, rng: Random, diary: Diary | Silent, *, hurried: bool = True) -> None:
    """One call, timed by our own clock and written down."""
    question = asker.draw(rng, hurried=hurried)
    request, response = question.request, None
    asker.begin(request)
    try:
        response = client.get_online_features(question.features, question.rows, **question.options)
    except Exception as error:  # noqa: BLE001 - the checker says which are documented
        asker.end(request)
        response = ended(error, question, diary)
    else:
        asker.end(request)
    diary.answered(request, question.keys, response)


async def aask(client: AsyncFeatureClient, asker: Asker, rng: Random, diary: Diary | Silent, cancel: float) -> None:
    """The same with `await`; some calls are given up on their way."""
    question = asker.draw(rng)
    request, response = question.request, None
    gave_up: list[float] = []
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None

    def give_up() -> None:
        gave_up.append(now())
        task.cancel()

    timer = loop.call_later(rng.uniform(0.0, _GIVE_UP_MOST_S), give_up) if rng.random() < cancel else None
    asker.begin(request)
    try:
        response = await client.get_online_features(question.features, question.rows, **question.options)
    except asyncio.CancelledError:
        asker.end(request)
        if not gave_up:
            raise
        task.uncancel()
        request["outcome"], request["gave_up"] = CANCELLED, gave_up[0]
    except Exception as error:  # noqa: BLE001 - the checker says which are documented
        asker.end(request)
        response = ended(error, question, diary)
    else:
        asker.end(request)
    finally:
        if timer is not None:
            timer.cancel()
    diary.answered(request, question.keys, response)


def open_now() -> dict[str, Any]:
    """What this process holds: descriptors, threads, children."""
    files = {}
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of this very listing
            files[path.name] = path.readlink().name
    children: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has ended meanwhile
            children += (task / "children").read_text().split()
    return {"files": files, "threads": [thread.name for thread in threading.enumerate()], "children": children}


def left(before: dict[str, Any]) -> dict[str, Any]:
    """What is open now and was not before."""
    gc.collect()
    after = open_now()
    return {
        "files": sorted(name for at, name in after["files"].items() if at not in before["files"]),
        "threads": after["threads"][len(before["threads"]) :],
        "children": after["children"][len(before["children"]) :],
    }


def sampled(diary: Diary, tasks: Callable[[], int]) -> None:
    held = open_now()
    diary.note("sample", at=now(), files=len(held["files"]), threads=len(held["threads"]), tasks=tasks())


def forked(client: FeatureClient, job: dict[str, Any], number: int, clock: JumpingClock) -> int:
    """A child that reads as its parent does, closes, and says what was left; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        # A lock inherited held would keep it for ever: then this says where, and ends it.
        faulthandler.dump_traceback_later(_CHILD_MOST_S, exit=True)
        diary = Diary(Path(job["folder"]), f"fork{number}", job["generation"])
        diary.note("opened", generation=job["generation"], hedges=job["hedges"], at=now(), child=True)
        asker, rng = Asker(job["actor"] + 10 + number, job["generation"], clock), Random(f"{job['seed']}/fork{number}")
        for _ in range(_CHILD_READS):
            ask(client, asker, rng, diary, hurried=False)
        client.close()
        sockets = [name for name in open_now()["files"].values() if name.startswith("socket:")]
        threads = [thread.name for thread in threading.enumerate()]
        diary.note("left", sockets=len(sockets), threads=threads[1:])
        diary.close()
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def by_threads(job: dict[str, Any], clock: JumpingClock) -> None:
    """Eight threads on one client."""
    diary = Diary(Path(job["folder"]), "threads", job["generation"])
    before = open_now()
    client = FeatureClient.from_config(job["config"], clock=clock)
    made_ready(client.refresh(60), diary, job)
    asker, stop = Asker(job["actor"], job["generation"], clock), threading.Event()
    rng = Random(job["seed"])
    for _ in range(WARM_READS):
        ask(client, asker, rng, Silent())
    while not client.ready(full=True, freeze=True):
        stop.wait(0.05)
    workers = started(client, asker, diary, job, stop)
    said("ready")
    forks = 0
    for line in sys.stdin:
        if "fork" in json.loads(line):
            forks += 1
            pid = forked(client, job, forks, clock)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            diary.note("forked", number=forks, code=code, at=now())
    stop.set()
    for worker in workers:
        worker.join()
    client.close()
    diary.note("left", **left(before), tasks=[])
    diary.close()


def started(
    client: FeatureClient, asker: Asker, diary: Diary, job: dict[str, Any], stop: threading.Event
) -> list[threading.Thread]:
    """The threads that read, and one that looks at what is open."""

    def work(rng: Random) -> None:
        while not stop.wait(THREAD_PAUSE_S * rng.uniform(0.3, 1.7)):
            ask(client, asker, rng, diary)

    def sample() -> None:
        while not stop.wait(_SAMPLE_EVERY_S):
            sampled(diary, lambda: 0)

    workers = [threading.Thread(target=work, args=(Random(f"{job['seed']}/{at}"),)) for at in range(THREADS)]
    workers.append(threading.Thread(target=sample))
    for worker in workers:
        worker.start()
    return workers


def by_tasks(job: dict[str, Any], clock: JumpingClock) -> None:
    """Sixty-four tasks of one event loop on one client."""
    diary = Diary(Path(job["folder"]), "tasks", job["generation"])
    before = open_now()
    tasks = asyncio.run(_tasks(job, clock, diary))
    diary.note("left", **left(before), tasks=tasks)
    diary.close()


async def _tasks(job: dict[str, Any], clock: JumpingClock, diary: Diary) -> list[str]:
    client = AsyncFeatureClient.from_config(job["config"], clock=clock)
    made_ready(await client.refresh(60), diary, job)
    asker, stop, cancel = Asker(job["actor"], job["generation"], clock), asyncio.Event(), [0.0]
    rng = Random(job["seed"])
    for _ in range(WARM_READS):
        await aask(client, asker, rng, Silent(), 0.0)
    while not await client.ready(full=True, freeze=True):  # noqa: ASYNC110 - the servers are others' processes
        await asyncio.sleep(0.05)

    async def work(rng: Random) -> None:
        await asyncio.sleep(TASK_PAUSE_S * rng.random())
        while not stop.is_set():
            await aask(client, asker, rng, diary, cancel[0])
            await asyncio.sleep(TASK_PAUSE_S * rng.uniform(0.5, 1.5))

    async def sample() -> None:
        while not stop.is_set():
            await asyncio.sleep(_SAMPLE_EVERY_S)
            sampled(diary, lambda: len(asyncio.all_tasks()))

    workers = [asyncio.create_task(work(Random(f"{job['seed']}/{at}"))) for at in range(TASKS)]
    workers.append(asyncio.create_task(sample()))
    said("ready")
    while line := await asyncio.to_thread(sys.stdin.readline):
        cancel[0] = json.loads(line).get("cancel", cancel[0])
    stop.set()
    await asyncio.gather(*workers)
    await client.close()
    return [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def made_ready(refreshed: dict[str, Any], diary: Diary, job: dict[str, Any]) -> None:
    """The images are on the local disk before the first read."""
    states = {one.state for many in refreshed.values() for one in many if KIND[one.view].imaged}
    if not states <= {"hydrated", "current"}:
        msg = f"the images could not be had: {refreshed}"
        raise RuntimeError(msg)
    diary.note("opened", generation=job["generation"], hedges=job["hedges"], at=now(), child=False)


def said(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


@contextmanager
def watched(job: dict[str, Any]) -> Iterator[None]:
    """Beside us, and as near to a core as we are, bare processes that tell when the machine stood still."""
    with ExitStack() as stack:
        for core in sorted(os.sched_getaffinity(0)):
            out = stack.enter_context((Path(job["folder"]) / f"{job['kind']}.{core}.stalls").open("w"))
            process = stack.enter_context(subprocess.Popen(command(core, STALL_S, ahead=True), stdout=out))
            stack.callback(process.kill)
        yield


def main(argument: str) -> None:
    job = json.loads(argument)
    # Later versions say at every fork that threads and forks do not mix; that they do is what is looked at.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    hasten()
    sys.setswitchinterval(_SWITCH_S)
    for name in job["plants"]:
        plant(name)
    clock = JumpingClock(Path(job["clock"]))
    with watched(job):
        go_ahead()
        {"threads": by_threads, "tasks": by_tasks}[job["kind"]](job, clock)


if __name__ == "__main__":
    main(*sys.argv[1:])
