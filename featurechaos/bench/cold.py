"""How a process that starts now fares: measured on one that really does, with an empty cache."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from featurechaos.bench.breaks import Break
from featurechaos.bench.pool import Pool, packed
from featurechaos.clock import SystemClock
from featurechaos.config import Settings
from featurechaos.model import Origin

MOST_S = 30.0
"""A process that has no good answer by then is told to have none."""
_ENDS_S = 15.0
_REQUESTS = 50


@dataclass(frozen=True, slots=True)
class Cold:
    """Seconds since the process was started; None for what did not come while it was looked at, for `looked_s`.

    `first_s`: its first answer, whatever it held, from `first_origins`; `good_s`: the first in which hardly a row
    was without a stored value; `whole_s`: every local copy of a snapshot there (None with `has_local` False: there
    is none to have). `why`: it could not be measured at all.
    """

    made_s: float | None = None
    first_s: float | None = None
    first_took_s: float | None = None
    first_origins: dict[str, int] = field(default_factory=dict)
    good_s: float | None = None
    good_origins: dict[str, int] = field(default_factory=dict)
    whole_s: float | None = None
    has_local: bool = False
    looked_s: float = 0.0
    why: str = ""


def can_start_cold(settings: Settings) -> bool:
    """Whether another process sees the same stores: what is kept in this one's memory it does not."""
    return any(source.type != "memory" for source in settings.sources.values())


def started_cold(
    settings: Settings,
    features: Sequence[str] | str,
    views: Sequence[str],
    pool: Pool,
    *,
    batch: int,
    seed: int,
    may_lose: float,
    breaks: Sequence[Break] = (),
    most_s: float = MOST_S,
) -> Cold:
    """Start one, look at it until it is well or `most_s` are over, and end it.

    `breaks` that are injected are injected there too; those on processes are the caller's to do and to undo.
    """
    rng = Random(seed)
    with tempfile.TemporaryDirectory(prefix="featurechaos-bench-") as cache:
        job = {
            "config": with_empty_cache(settings, cache),
            "name": settings.name,
            "features": features,
            "views": list(views),
            "rows": [packed(pool.draw(rng, batch)) for _ in range(_REQUESTS)],
            "faults": [one.spec.model_dump() for one in breaks if one.process is None],
            "may_lose": may_lose,
            "most_s": most_s,
            "began": SystemClock().monotonic(),
        }
        return _told(_run(json.dumps(job), most_s))


def _run(job: str, most_s: float) -> dict[str, Any] | str:
    """What the process told, or in words why it told nothing."""
    # -P: a module of ours must not hide one of Python's.
    command = [sys.executable, "-P", str(Path(__file__).with_name("fresh.py"))]
    with subprocess.Popen(  # noqa: S603 - our own file
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C in a terminal is for us, who end it
    ) as process:
        try:
            out, errors = process.communicate(job, timeout=most_s + _ENDS_S)
        except subprocess.TimeoutExpired:
            return "it did not come to an end"
        finally:
            process.kill()
    last = (errors.strip().splitlines() or [f"it ended with {process.returncode}"])[-1]
    return last[:300] if process.returncode or not out else dict(json.loads(out.splitlines()[-1]))


def _told(told: dict[str, Any] | str) -> Cold:
    if isinstance(told, str):
        return Cold(why=told)
    first, good = told.get("first", {}), told.get("good", {})
    return Cold(
        made_s=told["made_s"],
        first_s=first.get("at_s"),
        first_took_s=first.get("took_s"),
        first_origins=first.get("origins", {}),
        good_s=good.get("at_s"),
        good_origins=good.get("origins", {}),
        whole_s=told.get("whole_s"),
        has_local=told["has_local"],
        looked_s=told["looked_s"],
    )


def with_empty_cache(settings: Settings, cache: str) -> dict[str, Any]:
    """The config as it was given, but for where local copies are kept."""
    text = dict(settings.source_text)
    text["sources"] = {name: _cached(settings, name, body, cache) for name, body in text["sources"].items()}
    return text


def _cached(settings: Settings, name: str, body: Mapping[str, Any], cache: str) -> dict[str, Any]:
    keeps = settings.sources[name].role is Origin.SNAPSHOT and hasattr(settings.sources[name].spec, "cache_dir")
    return {**body, "cache_dir": f"{cache}/{name}".replace("$", "$$")} if keeps else dict(body)
