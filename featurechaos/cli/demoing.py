"""`demo`: the whole story on real flight data, with a real server really killed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featurechaos.cli.drilling import INCONCLUSIVE, INTERRUPTED
from featurechaos.cli.output import put, say
from featurechaos.cli.progress import Working
from featurechaos.errors import FeatureError, RequestError, SpecError

SEED = 7


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
    try:
        from featurechaos.demo.story import tell

        with Working("the demo is running") as working:
            code, page = tell(seed, config=config, json_file=json_file, report=report, say=working.say)
    except KeyboardInterrupt:
        say("featurechaos: interrupted")
        return INTERRUPTED
    except (SpecError, RequestError):
        raise
    except FeatureError as error:
        # 1 would say that a weakness was found.
        say(f"featurechaos: the demo could not be played: {error}")
        return INCONCLUSIVE
    if page is not None:
        put(str(page))
    return code


COMMANDS = {"demo": (demo, ["featurechaos demo", "featurechaos demo --seed 8 --json demo.json"])}
