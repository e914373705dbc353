"""The command line as a person meets it: in this process where that will do, in one of its own where it matters."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from featurechaos.cli import main

MEMORY = """
project: flights
sources: {primary: {type: memory}}
views:
  - name: airport_hourly
    join_keys: {airport: string}
    features: {dep_delay_mean_2h: {dtype: float32, default: 4.5}, embedding: {dtype: "float32[8]"}}
    ttl_s: 7200
  - {name: plane, join_keys: {tailnum: string}, features: {seats: {dtype: int32}}, ttl_s: null}
  - {name: dest, from: airport_hourly, join_keys: {dest_airport: airport}}
services: {delay_model: ["airport_hourly:dep_delay_mean_2h", "plane:seats"]}
policy: {on_missing: default}
"""


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command in this process."""

    def ran(*arguments: str) -> Ran:
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return ran


def start(*arguments: str, folder: Path, **environ: str) -> subprocess.Popen[str]:
    """The same in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "import sys; from featurechaos.cli import main; sys.exit(main())", *arguments],
        cwd=folder,
        env={**os.environ, **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with a config in it, which the command is run in."""
    (tmp_path / "featurechaos.yaml").write_text(MEMORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path
