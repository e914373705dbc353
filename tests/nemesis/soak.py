"""`python -m tests.nemesis.soak --seconds 60 --seed 7`: breaks real servers under readers and writers, and judges.

Ends with 0 if everything promised held, 1 if something did not, 6 if too little was seen to say so. The last line is
`N requests, M rows, F faults, V violations, L excused, seed S`. `--plant` plants a bug in the readers that must be
found; `--judge FOLDER` judges a run again from what it left behind.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from random import SystemRandom

from tests.live.watchdog import queued_s
from tests.nemesis.checker import Judged, judge
from tests.nemesis.clocks import JumpingClock, now
from tests.nemesis.conductor import Conductor, Helper
from tests.nemesis.history import History, Struck, saved
from tests.nemesis.plants import PLANTS
from tests.nemesis.schedule import schedule
from tests.nemesis.worlds import World

HELD, VIOLATED, NOT_COVERED = 0, 1, 6
_SHOWN = 8
"""How many violations of a kind are told after a run; all are counted, and told where it is judged again."""


def run(folder: Path, *, seconds: float, seed: int, plants: Sequence[str] = ()) -> None:
    """Play one run and leave its history in a folder."""
    with ExitStack() as stack:
        world = World.started(folder, seed, stack)
        os.environ.update(world.s3.credentials())
        clock = JumpingClock.made(folder / "clock")
        job = {"folder": str(folder), "seed": seed, "plants": list(plants), "clock": str(folder / "clock")}
        helpers: dict[str, Helper] = {}

        def started(module: str, name: str, **more: object) -> None:
            helpers[name] = Helper(f"tests.nemesis.{module}", {**job, **more, "kind": name}, os.environ.copy())
            stack.callback(helpers[name].kill)

        started("writers", "writers", configs={one: world.writer(one) for one in (1, 2)})
        helpers["writers"].wait_until_ready()
        for actor, (name, generation) in enumerate({"threads": 1, "tasks": 2}.items()):
            # One of the two hedges: which of them is the seed's to say.
            hedges = (seed + actor) % 2 == 1
            config = world.reader(generation, hedges=hedges)
            started("readers", name, actor=1 + actor, generation=generation, hedges=hedges, config=config)
        for name in ("threads", "tasks"):
            helpers[name].wait_until_ready()
        begun, queued = now(), queued_s()
        conductor = Conductor(world, clock, helpers, lambda struck: _say(f"{now() - begun:7.1f} s  {told(struck)}"))
        conductor.play(schedule(seconds, seed), seconds)
        share = (queued_s() - queued) / (now() - begun)
        ends = [helpers[name].stop() for name in ("threads", "tasks", "writers")]
        ends += [{"name": f"proxy of {name}", "open": proxy.counts()["open"]} for name, proxy in world.proxies.items()]
        strikes = [asdict(struck) for struck in conductor.struck]
        unplayed = conductor.unplayed
        saved(folder, seed=seed, seconds=seconds, strikes=strikes, ends=ends, unplayed=unplayed, queued_share=share)


def told(struck: Struck) -> str:
    about = f" ({struck.about})" if struck.about else ""
    return f"{struck.fault} on {struck.target}{about}, {struck.healed - struck.began:.1f} s"


def report(judged: Judged, folder: Path, *, most: int | None = None) -> int:
    """Tell what was found, the line that counts last; the exit code."""
    for kind, violations in judged.violations.items():
        for text in violations[:most]:
            _say(f"violation ({kind}) {text}")
        if most is not None and (more := len(violations) - most) > 0:
            _say(f"violation ({kind}) and {more} more")
    for text in judged.numbers:
        _say(text)
    for text in judged.uncovered:
        _say(f"not covered: {text}")
    code = VIOLATED if judged.violations else NOT_COVERED if judged.uncovered else HELD
    if code != HELD:
        _say(f"the history is in {folder}; --judge {folder} judges it again")
    sys.stdout.write(judged.line + "\n")
    return code


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.nemesis.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--seed", type=int, default=None, help="replays a run; default: drawn, and told at the end")
    parser.add_argument("--plant", choices=sorted(PLANTS), action="append", help="a bug to plant in the readers")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for the history; default: kept if it failed")
    parser.add_argument("--judge", type=Path, default=None, help="judge the history in this folder, and play nothing")
    given = parser.parse_args()
    if given.judge is not None:
        return report(judge(History.read(given.judge)), given.judge)
    seed = SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    folder = given.keep or Path(tempfile.mkdtemp(prefix="featurechaos-nemesis-"))
    folder.mkdir(parents=True, exist_ok=True)
    plants = given.plant or ()
    _say(f"{given.seconds:g} s of faults, seed {seed}" + (f"; planted: {', '.join(plants)}" if plants else ""))
    run(folder, seconds=given.seconds, seed=seed, plants=plants)
    code = report(judge(History.read(folder)), folder, most=_SHOWN)
    if given.keep is None and code == HELD:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
