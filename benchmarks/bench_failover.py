"""A primary is killed, frozen, paused, made to trickle, or flaps: what do callers notice, ours and others?

All clients are under the same load at the same time, against the same two servers, so the very same blow hits all. Ours
and redis-py's MultiDBClient know both servers; Feast knows one, and has no other. Ours runs with the default deadline
of 50 ms; its sources have the default time-out of 15 ms and, since a plan must fit the deadline, no retry.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from benchmarks.harness import Options, main
from benchmarks.inside import mark_at
from benchmarks.load import ENTITIES, KEY, LOCAL, MARK, PRIMARY, REPLICA, VIEW, WHO, WRONG
from benchmarks.peers import feast_environment, feast_python
from benchmarks.results import ROOT, Cell, Plot, Result, Table
from benchmarks.worlds import features_of, view_of
from featurechaos import FeatureClient
from featurechaos.clock import SystemClock
from featurechaos.demo.proxy import TrickleProxy
from featurechaos.demo.servers import ValkeyServer
from tests.live.watchdog import Watchdog, hasten

ABOUT = """Eight threads each, a request of 10 rows every 50 ms. `worst` and `p99`: of requests under way at or after
the blow; `p99` counts those that were due and not made, since the one before had no answer yet, as if they had waited
from then on: else a client that makes its callers wait for seconds has the fewest bad answers. `first good`: from the
first request begun after the blow (when that is, is chance) to the first whole answer of an online server to such a
request. `in time`: good answers within 60 ms, of the requests that were due while the primary was away. `back`: from
its return until 90 % of each half second's answers are the primary's again. `switches`: how often the server that gave
most answers of a half second was another than before. `late`: answers past 60 ms; excused are those beside a stall of
the machine that bare processes saw. The flap is played three times, two seconds later each time, for who comes back by
a timer does so by its phase: told is the worst of the three."""
OURS, DEFAULT, TUNED, FEAST = "featurechaos", "MultiDBClient", "MultiDBClient, tuned", "Feast"
DEADLINE_S, GRACE_S, TIMEOUT_S = 0.050, 0.010, 0.015
THREADS, PACE_S = 8, 0.05
CONTRACT = ("kill", "freeze", "pause", "trickle")
_now = SystemClock().monotonic


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds before the blow, while the primary is away, and after its return."""

    before_s: float
    away_s: float
    after_s: float


@dataclass(slots=True)
class Servers:
    """A primary with a proxy before it, and a replica; both hold the same rows, and their own name."""

    primary: ValkeyServer
    replica: ValkeyServer
    proxy: TrickleProxy

    def fill(self) -> None:
        """Rows whose marked value is their own number, on both."""
        numbers = np.arange(ENTITIES)
        rows: dict[str, Any] = {name: numbers.astype(np.float32) for name in features_of(VIEW)}
        rows |= {KEY: numbers, "event_timestamp": [np.datetime64(int(SystemClock().wall() * 1e6), "us")] * ENTITIES}
        for server, name in ((self.primary, PRIMARY), (self.replica, REPLICA)):
            with FeatureClient.from_config(self.config(server.port)) as client:
                client.write_to_online_store(VIEW, rows)
            with redis.Redis(port=server.port) as direct:
                direct.set(WHO, name)

    @staticmethod
    def config(port: int, replica: int | None = None) -> dict[str, Any]:
        def source(port: int) -> dict[str, Any]:
            return {"type": "redis", "url": f"redis://127.0.0.1:{port}/0", "timeout_s": TIMEOUT_S}

        sources = {PRIMARY: source(port)} | ({} if replica is None else {REPLICA: source(replica)})
        policy = {"deadline_s": DEADLINE_S, "retry": None}
        return {"project": "bench", "sources": sources, "views": [view_of(VIEW)], "policy": policy}


@contextmanager
def kill(servers: Servers, away_s: float) -> Iterator[None]:
    servers.primary.kill()
    yield
    servers.primary.restart()
    hasten(servers.primary.pid)


@contextmanager
def freeze(servers: Servers, away_s: float) -> Iterator[None]:
    servers.primary.freeze()
    yield
    servers.primary.thaw()


@contextmanager
def pause(servers: Servers, away_s: float) -> Iterator[None]:
    # For a time: a server that is paused for all does not hear CLIENT UNPAUSE either.
    command(servers.primary.port, f"CLIENT PAUSE {int(away_s * 1000)} ALL")
    yield
    command(servers.primary.port, "PING")


@contextmanager
def trickle(servers: Servers, away_s: float) -> Iterator[None]:
    servers.proxy.turn("trickle", every_s=0.005)
    yield
    servers.proxy.turn("pass")


@contextmanager
def flap(servers: Servers, away_s: float) -> Iterator[None]:
    """A second frozen, a second fine; runs beside the wait, and ends fine."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            servers.primary.freeze()
            stop.wait(1.0)
            servers.primary.thaw()
            stop.wait(1.0)

    worker = threading.Thread(target=work)
    worker.start()
    yield
    stop.set()
    worker.join()


Blow = Callable[[Servers, float], Any]
BLOWS: Mapping[str, Blow] = {"kill": kill, "freeze": freeze, "pause": pause, "trickle": trickle, "flap": flap}


def command(port: int, line: str) -> None:
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.settimeout(5)
        connection.sendall(f"{line}\r\n".encode())
        assert connection.recv(64).startswith(b"+")


class Service:
    """A client under load in a process of its own, from the start of the `with` until `stop`."""

    def __init__(
        self, name: str, job: Mapping[str, Any], *, python: str = sys.executable, module: str = "load"
    ) -> None:
        self.name, self._job = name, {**job, "threads": THREADS, "pace_s": PACE_S}
        self._argv = [python, "-m", f"benchmarks.{module}", json.dumps(self._job)]
        self._environment = dict(os.environ) if python == sys.executable else feast_environment()

    def __enter__(self) -> Service:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._argv, stdin=pipe, stdout=pipe, cwd=ROOT, env=self._environment)
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def wait_until_ready(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line == b"ready\n":
                return
        msg = f"{self.name} ended with {self._process.wait(5)} before it was ready"
        raise RuntimeError(msg)

    def ask_to_stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def answers(self) -> Answers:
        if self._process.wait(30):
            msg = f"{self.name} ended with {self._process.returncode}"
            raise RuntimeError(msg)
        return Answers.read(Path(self._job["path"]))


@dataclass(frozen=True, slots=True)
class Answers:
    """Requests in the order of their ends: when each began and ended, and who answered."""

    began: NDArray[np.float64]
    ended: NDArray[np.float64]
    told: NDArray[np.str_]

    @classmethod
    def read(cls, path: Path) -> Answers:
        rows = sorted(json.loads(path.read_text(encoding="utf-8")), key=lambda row: row[1])
        began, ended, told = zip(*rows, strict=True)
        return cls(np.array(began), np.array(ended), np.array(told))

    def only(self, chosen: NDArray[np.bool_]) -> Answers:
        return Answers(self.began[chosen], self.ended[chosen], self.told[chosen])

    @property
    def took_s(self) -> NDArray[np.float64]:
        return self.ended - self.began

    @property
    def good(self) -> NDArray[np.bool_]:
        return np.isin(self.told, (PRIMARY, REPLICA))

    @property
    def failed(self) -> int:
        return int(np.char.startswith(self.told, "error").sum())


@dataclass(frozen=True, slots=True)
class Seen:
    """What the callers of one client noticed of one blow; None: it did not come to pass.

    `has_left`: good answers of the replica came in time while the primary was away.
    """

    requests: int
    failed: int
    wrong: int
    local: int
    worst_ms: float
    p99_ms: float
    first_good_s: float | None
    in_time: float
    back_s: float | None
    switches: int
    late: int = 0
    excused: int = 0
    has_left: bool = True

    @classmethod
    def of(cls, answers: Answers, blow: Times, struck: float, healed: float, watchdog: Watchdog) -> Seen:
        hit = answers.only(answers.ended >= struck)
        after = hit.only(hit.began >= struck)
        good = after.ended[after.good]
        away = after.only((after.began < healed) & (after.took_s <= DEADLINE_S + GRACE_S))
        due = THREADS * (healed - struck) / PACE_S
        limit_s = DEADLINE_S + GRACE_S
        late = np.flatnonzero(hit.took_s > limit_s)
        excused = [at for at in late if watchdog.excuses(hit.began[at], hit.ended[at], hit.took_s[at] - limit_s)]
        return cls(
            requests=len(hit.told),
            failed=hit.failed,
            wrong=int((hit.told == WRONG).sum()),
            local=int((hit.told == LOCAL).sum()),
            worst_ms=float(hit.took_s.max()) * 1e3,
            p99_ms=float(np.quantile(with_omitted(hit.took_s), 0.99)) * 1e3,
            first_good_s=float(good.min() - after.began.min()) if len(good) else None,
            in_time=min(1.0, float(away.good.sum()) / due),
            back_s=back_after_s(after.began - healed, after.told == PRIMARY, blow.after_s),
            switches=switches(hit.only(hit.good)),
            late=len(late) - len(excused),
            excused=len(excused),
            has_left=bool((away.told == REPLICA).any()),
        )

    @classmethod
    def worst(cls, rounds: Sequence[Seen]) -> Seen:
        """Of several rounds: what is counted added up, of the rest the worst."""
        return cls(
            requests=sum(one.requests for one in rounds),
            failed=sum(one.failed for one in rounds),
            wrong=sum(one.wrong for one in rounds),
            local=sum(one.local for one in rounds),
            worst_ms=max(one.worst_ms for one in rounds),
            p99_ms=max(one.p99_ms for one in rounds),
            first_good_s=_last([one.first_good_s for one in rounds]),
            in_time=min(one.in_time for one in rounds),
            back_s=_last([one.back_s for one in rounds]),
            switches=max(one.switches for one in rounds),
            late=sum(one.late for one in rounds),
            excused=sum(one.excused for one in rounds),
            has_left=all(one.has_left for one in rounds),
        )


def _last(times: Sequence[float | None]) -> float | None:
    """The latest; None if one of them never came."""
    return None if None in times else max(one for one in times if one is not None)


def with_omitted(took_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """The times, and those of the requests that a caller did not make while it waited: coordinated omission undone."""
    turns = range(1, 1 + int(took_s.max() / PACE_S))
    return np.concatenate([took_s, *(took_s[took_s > turn * PACE_S] - turn * PACE_S for turn in turns)])


def switches(good: Answers) -> int:
    """How often the server that gave most answers of a half second was not the one before: a ramp is one."""
    halves = (good.ended / 0.5).astype(np.int64)
    most = [np.mean(good.told[halves == half] == PRIMARY) >= 0.5 for half in np.unique(halves)]
    return sum(bool(one != before) for before, one in pairwise(most))


def back_after_s(since: NDArray[np.float64], is_primary: NDArray[np.bool_], most_s: float) -> float | None:
    """From when on 90 % of each half second's answers are the primary's; None: not within the time looked at."""
    back: float | None = 0.0
    for begin in np.arange(0.0, most_s - 0.5, 0.25):
        half = is_primary[(since >= begin) & (since < begin + 0.5)]
        if not len(half) or half.mean() < 0.9:
            back = float(begin) + 0.5
    return None if back is not None and back > most_s - 1.0 else back


def services(servers: Servers, seed: int, folder: Path, *, port: int) -> list[Service]:
    """Every client there is; `port` is where they find the primary."""
    ports = (port, servers.replica.port)
    with FeatureClient.from_config(servers.config(*ports)) as client:
        head = client.settings.views[VIEW].head.decode()
        at = 4 * mark_at(client, VIEW, MARK)
    rows = {"head": head, "at": at, "ports": ports, "seed": seed, "features": features_of(VIEW)}

    def job(kind: str, **more: Any) -> dict[str, Any]:
        return {**rows, "kind": kind, "path": str(folder / f"{kind}-{len(more)}-{more.get('is_tuned')}.json"), **more}

    made = [Service(OURS, job("ours", config=servers.config(*ports)))]
    if find_spec("pybreaker"):
        made += [Service(name, job("multidb", is_tuned=name == TUNED)) for name in (DEFAULT, TUNED)]
    if (python := feast_python()) is not None:
        (folder / "feast").mkdir()
        feast = job("feast", port=port, folder=str(folder / "feast"))
        made.append(Service(FEAST, feast, python=str(python), module="feast_load"))
    return made


def played(name: str, times: Times, servers: Servers, seed: int) -> dict[str, Seen]:
    """One blow to all clients at once."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="featurechaos-bench-")))
        port = servers.proxy.port if name == "trickle" else servers.primary.port
        watchdog = stack.enter_context(Watchdog())
        running = [stack.enter_context(one) for one in services(servers, seed, folder, port=port)]
        for one in running:
            one.wait_until_ready()
        wait(times.before_s)
        struck = _now()
        with BLOWS[name](servers, times.away_s):
            wait(times.away_s)
        healed = _now()
        wait(times.after_s)
        for one in running:
            one.ask_to_stop()
        return {one.name: Seen.of(one.answers(), times, struck, healed, watchdog) for one in running}


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def rounds_of(name: str, options: Options) -> list[Times]:
    """The flap several times: who comes back by a timer comes back early or late by the timer's phase."""
    if options.is_quick:
        return [Times(0.2, 0.6, 0.6)]
    return [Times(before_s, 20.0, 9.0) for before_s in (2.0, 4.0, 6.0)] if name == "flap" else [Times(2.0, 12.0, 9.0)]


def measure(options: Options) -> Result:
    result = Result("failover", ABOUT, options.seed, options.is_quick)
    if not find_spec("pybreaker"):
        result.missing.append("pybreaker, which MultiDBClient needs")
    if feast_python() is None:
        result.missing.append("Feast")
    names = options.pick(tuple(BLOWS), ("freeze",))
    seen: dict[str, dict[str, Seen]] = {}
    with ValkeyServer(keeps_data=True) as primary, ValkeyServer() as replica, TrickleProxy(primary.port) as proxy:
        for server in (primary, replica, proxy):
            hasten(server.pid)
        servers = Servers(primary, replica, proxy)
        servers.fill()
        for name in names:
            rounds = [played(name, times, servers, options.seed) for times in rounds_of(name, options)]
            seen[name] = {client: Seen.worst([one[client] for one in rounds]) for client in rounds[0]}
    result.tables = [table_of(name, by_name) for name, by_name in seen.items()] + [duel_table(seen)]
    result.plots = [plot_of(seen)]
    result.measured = measured(seen)
    return result


def measured(seen: Mapping[str, Mapping[str, Seen]]) -> dict[str, float]:
    """The worst of the blows that are promised."""
    ours = [by_name[OURS] for name, by_name in seen.items() if name in CONTRACT]
    requests = sum(one.requests for one in ours)
    back = [float("inf") if one.back_s is None else one.back_s for one in ours]
    return {
        "failed": sum(one.failed + one.wrong for one in ours),
        "late": sum(one.late for one in ours),
        "excused": 1000 * sum(one.excused for one in ours) / requests,
        "back": min(max(back), 1e6),
    }


def table_of(name: str, by_name: Mapping[str, Seen]) -> Table:
    head = [
        "client",
        "requests",
        "failed",
        "worst ms",
        "p99 ms",
        "first good s",
        "in time",
        "back s",
        "switches",
        "late",
    ]
    table = Table(name.capitalize(), head)
    for client, one in by_name.items():
        table.rows.append(
            [
                client,
                one.requests,
                one.failed + one.wrong,
                one.worst_ms,
                one.p99_ms,
                "never" if one.first_good_s is None else round(one.first_good_s, 3),
                f"{one.in_time:.1%}",
                "not seen" if one.back_s is None else one.back_s,
                one.switches,
                f"{one.late} and {one.excused} excused",
            ]
        )
    return table


CELLS: Mapping[str, tuple[Callable[[Seen], float], float]] = {
    "failed": (lambda one: one.failed + one.wrong, 0),
    "worst": (lambda one: one.worst_ms, 5.0),
    "p99": (lambda one: one.p99_ms, 5.0),
    "first good": (lambda one: one.first_good_s if one.first_good_s is not None else float("inf"), 0.005),
    "not in time": (lambda one: 1.0 - one.in_time, 0.01),
    "back": (lambda one: one.back_s if one.back_s is not None else float("inf"), 0.25),
    "switches": (lambda one: one.switches, 0),
}
"""What is compared, smaller is better; and the difference that means nothing."""
_OF_LEAVERS = ("back", "switches")


def duel_table(seen: Mapping[str, Mapping[str, Seen]]) -> Table:
    """Who is ahead in each cell."""
    table = Table(
        "Ours against MultiDBClient, cell by cell",
        ["blow", "against", *CELLS],
        note="`ahead`, `behind` or `even` is said of ours; even: closer than 5 ms, 1 % or, of `back`, 0.25 s. "
        '`back` and `switches` are "-" where one of the two never left: while the primary was away, it gave its users '
        "no good answer of the replica in time.",
    )
    for name, by_name in seen.items():
        for peer in (DEFAULT, TUNED):
            if peer in by_name:
                cells = [verdict(by_name[OURS], by_name[peer], cell) for cell in CELLS]
                # Elsewhere two switches, there and back, are what is wanted.
                cells[-1] = cells[-1] if name == "flap" else None
                table.rows.append([name, peer, *cells])
    return table


def verdict(ours: Seen, peer: Seen, cell: str) -> Cell:
    """Who is ahead in one cell; None where there is nothing to compare."""
    if cell in _OF_LEAVERS and not (ours.has_left and peer.has_left):
        return None
    look, even = CELLS[cell]
    a, b = look(ours), look(peer)
    if a == b or abs(a - b) <= even:
        return "even"
    return "ahead" if a < b else "**behind**"


def plot_of(seen: Mapping[str, Mapping[str, Seen]]) -> Plot:
    """Worst latency by blow; the blows stand side by side."""
    plot = Plot("failover-worst", "The worst answer", "", "ms", is_bars=True)
    for name, by_name in seen.items():
        for client, one in by_name.items():
            plot.series.setdefault(client, []).append((name, one.worst_ms))
    return plot


if __name__ == "__main__":
    main(measure, __doc__)
