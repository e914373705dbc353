"""`drill run`, `check` and `list`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from featurechaos.cli.opening import Json
from featurechaos.cli.output import put, put_json, put_wrapped, say
from featurechaos.cli.playing import must_take_files, played
from featurechaos.cli.progress import Working
from featurechaos.clock import SystemClock
from featurechaos.config.mistakes import near
from featurechaos.errors import RequestError

if TYPE_CHECKING:
    from featurechaos.drills import Check, Script, Verdict

HELP = "Break something on purpose, and see whether it held."
_STANDS_FOR = re.compile(r"\bstands for (.+?)\.?$", re.IGNORECASE)
_STYLES = {"held": "green", "weakness": "bold red", "unknown": "yellow"}

Name = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A built-in drill, or a drill file.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="configuration.X=Y", help="Replace a value of the file's configuration."),
]


def run(
    drill: Name,
    *,
    report: Annotated[Path | None, typer.Option("--report", metavar="DIR", help="Where the report goes.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="A config, instead of the drill's own.")
    ] = None,
    settings: Set = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="A seed, instead of the drill's own.")] = None,
    as_json: Json = False,
) -> int:
    """Play a drill, judge it and write a report.

    Exit code: 0 held, 1 weakness, 2 invalid input, 3 stopped by a guard, 4 interrupted, 5 undo failed, 6 inconclusive.
    """
    script = script_of(drill, settings)
    directory = report or Path(script.report.dir or default_directory(drill))
    must_take_files(directory, "--report")
    ended = played("the drill", lambda: _played(script, directory, config, seed))
    if isinstance(ended, int):
        return ended
    verdict, page = ended
    _put(verdict, page, as_json=as_json)
    return int(verdict.exit_code)


def check(drill: Name, settings: Set = None) -> None:
    """Read a drill file and say in a line what it would do; nothing is run."""
    script = script_of(drill, settings)
    steps, faults = _count(len(script.method), "step"), _count(len(script.faults), "fault")
    put(f"{script.title}: {steps}, {faults}, takes {duration(script.takes_s)}")


def listing(as_json: Json = False) -> None:
    """List the drills that come with the package, and what happens in life that each stands for."""
    from featurechaos.drills import load_script

    found: list[dict[str, Any]] = []
    for name, path in builtin().items():
        script = load_script(path, env=os.environ)
        found.append({"name": name, "stands_for": stands_for(script), "takes_s": script.takes_s})
    if as_json:
        put_json(found)
    elif found:
        rows = [[Text(one["name"]), Text(one["stands_for"]), Text(duration(one["takes_s"]))] for one in found]
        put_wrapped(["name", "stands for", "takes"], rows)
    else:
        say("no drill comes with this installation")


def stands_for(script: Script) -> str:
    """What happens in life that a drill plays: what its description says it stands for, else all of it."""
    text = " ".join((script.description or script.title).split())
    found = _STANDS_FOR.search(text)
    return found[1] if found else text


def builtin() -> dict[str, Path]:
    """The drill files that come with the package, by name."""
    folder = Path(str(files("featurechaos.drills") / "builtin"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def script_of(drill: str, settings: Sequence[str] | None) -> Script:
    """A drill by its built-in name or its file; RequestError if there is neither."""
    from featurechaos.drills import load_script

    known, path = builtin(), Path(drill)
    if drill in known:
        path = known[drill]
    elif not path.exists():
        is_file = path.suffix in {".yaml", ".yml"} or os.sep in drill
        msg = f"there is no drill file {drill!r}" if is_file else f"there is no drill {drill!r}, {near(drill, known)}"
        raise RequestError(msg)
    return load_script(path, env=os.environ, settings=_settings(settings or ()))


def default_directory(drill: str) -> str:
    """A folder of its own for each run, below the one we are in."""
    when = datetime.fromtimestamp(SystemClock().wall(), UTC)
    return f"reports/{Path(drill).stem}-{when:%Y%m%dT%H%M%S}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _settings(pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        head, _, key = name.partition(".")
        if not equals or head != "configuration" or not key:
            msg = f"--set wants configuration.NAME=VALUE, got {pair!r}"
            raise RequestError(msg)
        found[key] = value
    return found


def _played(script: Script, directory: Path, config: Path | None, seed: int | None) -> tuple[Verdict, Path | None]:
    from featurechaos.drills.run import run_drill

    with Working(script.title, takes_s=script.takes_s) as working:
        return run_drill(
            script, directory=directory, config=str(config) if config else None, seed=seed, progress=working.say
        )


def _put(verdict: Verdict, page: Path | None, *, as_json: bool) -> None:
    if as_json:
        put_json({**verdict.as_dict(), "report": str(page) if page else None})
        return
    put(f"{str(verdict.outcome).upper().replace('_', ' ')}: {verdict.sentence}")
    if verdict.checks:
        put_wrapped(["when", "check", "wanted", "got", ""], [_row(one) for one in verdict.checks])
    if page:
        put(f"report: {page}")


def _row(one: Check) -> list[Any]:
    outcome = Text(str(one.outcome), style=_STYLES.get(str(one.outcome), ""))
    got = f"{one.got} ({one.why})" if one.why and one.why not in one.got else one.got
    return [Text(one.phase), Text(one.name), Text(one.wanted), Text(got), outcome]


COMMANDS = {
    "run": (
        run,
        [
            "featurechaos drill run primary-killed",
            "featurechaos drill run my-drill.yaml --set configuration.share=0.2",
            "featurechaos drill run my-drill.yaml --report out --seed 7 --json",
        ],
    ),
    "check": (check, ["featurechaos drill check my-drill.yaml"]),
    "list": (listing, ["featurechaos drill list", "featurechaos drill list --json"]),
}
