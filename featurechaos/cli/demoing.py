"""`demo`: the whole story on real flight data, with a real server really killed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featurechaos.cli.output import put
from featurechaos.cli.playing import must_be_writable, must_take_files, played
from featurechaos.cli.progress import Working

SEED = 7
REPORT = Path("reports") / "demo"


def demo(
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Other seeds give other numbers.")] = SEED,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here, for a script.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="A config, instead of the demo's own.")
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", metavar="DIR", help="Where the report goes.")] = None,
) -> int:
    """Kill a feature store under a model, on real flight data, and see what it cost.

    Needs no server and no system package: it starts its own on free loopback ports and stops them again. Takes about
    two minutes. The last line on stdout is the report's path. Exit codes are those of a drill.
    """
    folder = report or REPORT
    must_take_files(folder, "--report")
    if json_file is not None:
        must_be_writable(json_file, "--json")
    ended = played("the demo", lambda: _told(seed, folder, config, json_file))
    if isinstance(ended, int):
        return ended
    code, page = ended
    if page is not None:
        put(str(page))
    return code


def _told(seed: int, report: Path, config: Path | None, json_file: Path | None) -> tuple[int, Path | None]:
    from featurechaos.demo.story import tell

    with Working("the demo is running") as working:
        return tell(seed, report=report, config=config, json_file=json_file, say=working.say)


COMMANDS = {"demo": (demo, ["featurechaos demo", "featurechaos demo --seed 8 --json demo.json"])}
