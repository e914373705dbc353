"""Plays a schedule on a world while others read and write, and writes down what it did and when."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.nemesis.bucket import half_published
from tests.nemesis.clocks import JumpingClock, now
from tests.nemesis.history import Struck
from tests.nemesis.schedule import BUCKET_FAULTS, ONLINE_FAULTS, Strike
from tests.nemesis.worlds import World, targets

ROOT = Path(__file__).parents[2]
_READY_MOST_S, _END_MOST_S = 90.0, 60.0
_TRICKLE_S, _SLOW_S = 0.005, 0.15
_FELT_MOST_S = 25.0


class Helper:
    """One process of ours beside the servers: told things by lines on its stdin, over when that is closed."""

    def __init__(self, module: str, job: dict[str, Any], environment: dict[str, str]) -> None:
        self.name = job.get("kind", module.rpartition(".")[2])
        self._errors = (Path(job["folder"]) / f"{self.name}.err").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        self._lock = threading.Lock()

    def wait_until_ready(self) -> None:
        out = self.process.stdout
        assert out is not None
        late = threading.Timer(_READY_MOST_S, self.process.kill)
        late.start()
        word = out.readline()
        late.cancel()
        if word != "ready\n":
            msg = f"{self.name} did not come up: {self.told()}"
            raise RuntimeError(msg)

    def tell(self, **order: Any) -> None:
        """Give an order; to one that has ended, none: how it ended is told when all is over."""
        stdin = self.process.stdin
        assert stdin is not None
        with self._lock, suppress(BrokenPipeError):
            stdin.write(json.dumps(order) + "\n")
            stdin.flush()

    def stop(self) -> dict[str, Any]:
        """Let it end; how it did."""
        try:
            out, _ = self.process.communicate(timeout=_END_MOST_S)
            code = self.process.returncode
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, code = "", -1
            self.process.wait()
        last = json.loads(out.splitlines()[-1]) if out.strip() else {}
        return {"name": self.name, "code": code, "wrong": last.get("wrong", []), "errors": self.told()}

    def told(self) -> str:
        self._errors.flush()
        return Path(self._errors.name).read_text()[-2000:]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            if stream is not None:
                stream.close()


class Conductor:
    """Plays strikes, each lane on a thread of its own: lanes hurt different things."""

    def __init__(
        self, world: World, clock: JumpingClock, helpers: dict[str, Helper], told: Callable[[Struck], None]
    ) -> None:
        self._world, self._clock, self._helpers, self._told = world, clock, helpers, told
        self.struck: list[Struck] = []
        self.unplayed: list[str] = []
        self._stop = threading.Event()
        self._generation = 1
        hurts: dict[str, Callable[[Strike], Any]] = {
            "kill": self._killed, "empty": self._emptied, "freeze": self._frozen, "pause": self._paused,
            "evict": self._evicted, "s3_absent": self._absent, "s3_half": self._half, "clock": self._jumped,
            "cancel": self._cancelling, "schema": self._rolling, "fork": self._forking,
        }  # fmt: skip
        self._hurts = hurts

    def play(self, strikes: Sequence[Strike], seconds: float) -> None:
        """Everything in its time; returns when the run is over."""
        begun = now()
        online = [strike for strike in strikes if strike.fault in ONLINE_FAULTS]
        bucket = [strike for strike in strikes if strike.fault in BUCKET_FAULTS]
        others = [strike for strike in strikes if strike not in online and strike not in bucket]
        lanes = [threading.Thread(target=self._lane, args=(lane, begun)) for lane in (online, bucket, others)]
        for lane in lanes:
            lane.start()
        self._stop.wait(max(0.0, begun + seconds - now()))
        for lane in lanes:
            lane.join()
        self.struck.sort(key=lambda one: one.began)

    def _lane(self, strikes: Sequence[Strike], begun: float) -> None:
        for strike in strikes:
            self._stop.wait(max(0.0, begun + strike.at_s - now()))
            try:
                self._strike(strike)
            except Exception as error:  # noqa: BLE001 - a fault that could not be played is told, and not counted
                self.unplayed.append(f"{strike.fault}: {type(error).__name__}: {error}")

    def _strike(self, strike: Strike) -> None:
        hurt = self._hurts.get(strike.fault, self._proxied)
        began = now()
        with hurt(strike) as applied:
            gone = now()
            self._stop.wait(max(0.0, strike.for_s - (gone - began)))
            healing = now()
        healed = now()
        count, about = applied() if callable(applied) else (1, "")
        struck = Struck(strike.fault, strike.target, began, gone, healing, healed, count, about)
        self.struck.append(struck)
        self._told(struck)

    # How each is done and undone. What is yielded tells afterwards how often it took effect, and what it was.

    @contextmanager
    def _killed(self, strike: Strike) -> Iterator[None]:
        for name in targets(strike.target):
            self._world.kill(name)
        yield
        for name in targets(strike.target):
            self._world.revive(name)

    @contextmanager
    def _emptied(self, strike: Strike) -> Iterator[None]:
        for name in targets(strike.target):
            self._world.kill(name)
            self._world.lose(name)
        yield
        for name in targets(strike.target):
            self._world.revive(name)
        self._helpers["writers"].tell(backfill=True)

    @contextmanager
    def _frozen(self, strike: Strike) -> Iterator[None]:
        for name in targets(strike.target):
            self._world.valkey[name].freeze()
        yield
        for name in targets(strike.target):
            self._world.valkey[name].thaw()

    @contextmanager
    def _paused(self, strike: Strike) -> Iterator[None]:
        for name in targets(strike.target):
            self._world.pause(name, strike.for_s)
        yield
        for name in targets(strike.target):
            self._world.answers(name)

    @contextmanager
    def _evicted(self, strike: Strike) -> Iterator[Callable[[], tuple[int, str]]]:
        gone = sum(self._world.evict(name) for name in targets(strike.target))
        yield lambda: (gone, f"{gone} rows")
        self._helpers["writers"].tell(backfill=True)

    @contextmanager
    def _proxied(self, strike: Strike) -> Iterator[Callable[[], tuple[int, str]]]:
        """What proxies do: `s3_500` is the bucket's `500`."""
        is_bucket = strike.fault in BUCKET_FAULTS
        proxies = [self._world.bucket] if is_bucket else [self._world.proxies[name] for name in targets(strike.target)]
        mode = strike.fault.removeprefix("s3_")
        before = sum(proxy.counts()["counts"].get(mode, 0) for proxy in proxies)
        for proxy in proxies:
            proxy.turn(mode, every_s=_SLOW_S if is_bucket else _TRICKLE_S)
        counts: list[int] = []
        yield lambda: (sum(counts) - before, "")
        counts.extend(proxy.turn("pass")["counts"].get(mode, 0) for proxy in proxies)

    @contextmanager
    def _absent(self, strike: Strike) -> Iterator[None]:
        self._world.bucket.turn("gone")
        yield
        self._world.bucket.turn("pass")

    @contextmanager
    def _half(self, strike: Strike) -> Iterator[Callable[[], tuple[int, str]]]:
        view = ("base", "slow", "strict")[int(strike.draw * 3)]
        with half_published(self._world.s3, self._world.project, view) as image:
            before = self._world.bucket.watch(image)
            yield lambda: (asked - before, f"of {view}, asked for {asked - before} times")
            # Readers look every few seconds, and on a busy machine their children take as long again.
            until = now() + _FELT_MOST_S
            while not (asked := self._world.bucket.watch(image)) > before and now() < until:
                self._stop.wait(0.1)

    @contextmanager
    def _jumped(self, strike: Strike) -> Iterator[Callable[[], tuple[int, str]]]:
        by_s = (1 if strike.draw < 0.5 else -1) * (2.0 + (strike.draw * 100) % 30)
        self._clock.jump(by_s)
        yield lambda: (1, f"{by_s:+.1f} s")
        self._clock.jump(0.0)

    @contextmanager
    def _cancelling(self, strike: Strike) -> Iterator[None]:
        self._helpers["tasks"].tell(cancel=0.3 + strike.draw / 2)
        yield
        self._helpers["tasks"].tell(cancel=0.0)

    @contextmanager
    def _rolling(self, strike: Strike) -> Iterator[Callable[[], tuple[int, str]]]:
        """Writers of both schemas at once, then of the other one alone."""
        other = 3 - self._generation
        self._helpers["writers"].tell(generations=[1, 2])
        yield lambda: (1, f"to {other}")
        self._helpers["writers"].tell(generations=[other])
        self._generation = other

    @contextmanager
    def _forking(self, strike: Strike) -> Iterator[None]:
        self._helpers["threads"].tell(fork=1)
        yield
