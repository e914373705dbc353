"""Feast in a process and an environment of its own: its dependencies and ours exclude one another (redis-py 7 and 8).

It takes turns by pipe, and times itself with the clocks that time us.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import Turn
from benchmarks.results import ROOT


def feast_python() -> Path | None:
    """The interpreter that has Feast, if `make bench` has set one up or FEATURECHAOS_FEAST_PYTHON names one."""
    named = os.environ.get("FEATURECHAOS_FEAST_PYTHON")
    path = Path(named) if named else ROOT / ".venv-feast" / "bin" / "python"
    return path if path.exists() else None


def feast_environment() -> dict[str, str]:
    """Ours without the way to our packages: Feast's has its own."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


class FeastGone(Exception):
    """The process with Feast in it ended; the message says with what."""


@dataclass(slots=True)
class FeastProcess:
    """One process with a Feast feature store over the server at `port`; a context manager."""

    port: int
    entities: int
    features: dict[str, list[str]]
    seed: int
    _process: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> FeastProcess:
        python = feast_python()
        assert python is not None
        self._process = subprocess.Popen(
            [str(python), "-m", "benchmarks.feast_peer"],
            cwd=ROOT,
            env=feast_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ask("open", port=self.port, entities=self.entities, features=self.features, seed=self.seed)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process.__exit__(None, None, None)

    def ask(self, do: str, **what: Any) -> Any:
        """Have it do one thing and wait for what it says."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            msg = f"Feast's process ended with {self._process.wait(5)} when asked to {do}"
            raise FeastGone(msg)
        return json.loads(line)


@dataclass(slots=True)
class FeastContender:
    """`get_online_features` of some views; `how` is one of `feast`, `feast_async`, `lean`."""

    name: str
    process: FeastProcess
    how: str
    views: Sequence[str]
    every: int = 1

    def write(self, ask: Any) -> Any:
        return self.process.ask("write", id=int(ask[-1]))

    def turn(self, asks: Sequence[Any]) -> Turn:
        told = self.process.ask("turn", how=self.how, views=list(self.views), asks=[ask.tolist() for ask in asks])
        return Turn(told["wall_ns"], told["cpu_ns"], told["seen"])
