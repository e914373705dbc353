"""`bench`: what users would feel, measured on a config of one's own, before, during and after a fault."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from featurechaos.cli.opening import CONFIG, Config, Json, settings_of
from featurechaos.cli.output import put, put_json, put_table
from featurechaos.cli.playing import must_take_files, played
from featurechaos.cli.progress import Working
from featurechaos.config import Settings
from featurechaos.config.mistakes import near
from featurechaos.errors import RequestError

if TYPE_CHECKING:
    from featurechaos.bench.figures import Figures, Spread
    from featurechaos.bench.play import Setup
    from featurechaos.bench.verdict import Verdict

_HEADER = ("", "rows", "share", "p50", "p90", "p99", "p99.9", "max", "oldest")
RATE, BATCH, FOR_S, MAY_LOSE, SEED = 100.0, 100, 10.0, 0.01, 7

_Fault = Annotated[
    list[str] | None,
    typer.Option("--fault", metavar="FAULT", help="outage:SOURCE, hang:SOURCE or delay:SOURCE:50ms."),
]
_Pid = Annotated[
    list[str] | None,
    typer.Option("--pid", metavar="SOURCE=PID", help="Freeze the real server of a source: SIGSTOP, then SIGCONT."),
]


def bench(
    *,
    config: Config = CONFIG,
    features: Annotated[
        list[str] | None,
        typer.Option("--features", "-f", metavar="FEATURES", help="service:NAME or view:feature; may be repeated."),
    ] = None,
    entities: Annotated[
        Path | None, typer.Option("--entities", metavar="FILE", help="Whom to ask about: .parquet, .csv or .json.")
    ] = None,
    fault: _Fault = None,
    pid: _Pid = None,
    signal: Annotated[str, typer.Option("--signal", metavar="stop|kill", help="What a --pid is sent.")] = "stop",
    rate: Annotated[float, typer.Option("--rate", metavar="N", help="Requests a second.")] = RATE,
    batch: Annotated[int, typer.Option("--batch", metavar="N", help="Entities a request.")] = BATCH,
    for_s: Annotated[float, typer.Option("--for-s", metavar="SECONDS", help="How long each phase lasts.")] = FOR_S,
    may_lose: Annotated[
        float, typer.Option("--may-lose", metavar="SHARE", help="Of rows: may be without a stored value.")
    ] = MAY_LOSE,
    cold: Annotated[bool, typer.Option("--cold/--no-cold", help="Measure processes that have just started.")] = True,
    report: Annotated[Path | None, typer.Option("--report", metavar="DIR", help="Write a page with plots.")] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Draws entities and arrivals.")] = SEED,
    as_json: Json = False,
) -> int:
    """Measure what users would feel on your own stores: before, during and after a fault.

    It asks for the first service, for entities that are stored, unless told otherwise.

    A --fault is injected into all reads of this process, and touches no other.
    A --pid is hurt in truth, for everyone who uses that server.
    Both want chaos.enabled in the config and FEATURECHAOS_CHAOS=armed,
    and are undone on every path, but for a kill.

    Exit code: 0 held, 1 weakness, 2 invalid, 4 interrupted, 5 undo failed, 6 inconclusive.
    """
    settings = settings_of(config)
    _check(rate=rate, batch=batch, for_s=for_s, may_lose=may_lose)
    if report is not None:
        must_take_files(report, "--report")

    def benched() -> tuple[Figures, Verdict, Path | None]:
        from featurechaos.bench.breaks import breaks_of
        from featurechaos.bench.play import Setup
        from featurechaos.cli.sampling import pool_of

        wanted = _wanted(settings, features)
        views = _views(settings, wanted)
        breaks = breaks_of(settings, fault or (), pid or (), signal=signal, for_s=for_s)
        setup = Setup(
            settings=settings,
            features=wanted,
            views=views,
            pool=pool_of(settings, views, entities),
            rate_per_s=rate,
            batch=batch,
            for_s=for_s,
            seed=seed,
            breaks=breaks,
            may_lose=may_lose,
            is_cold=cold,
        )
        return _benched(setup, report)

    ended = played("the bench", benched)
    if isinstance(ended, int):
        return ended
    figures, verdict, page = ended
    if as_json:
        put_json({**verdict.as_dict(), **figures.as_dict(), "report": str(page) if page else None})
    else:
        _put(figures, verdict, page)
    return int(verdict.exit_code)


def _check(*, rate: float, batch: int, for_s: float, may_lose: float) -> None:
    for option, value, least, most in (
        ("--rate", rate, 0.1, 100_000),
        ("--batch", batch, 1, 100_000),
        ("--for-s", for_s, 0.5, 3600),
        ("--may-lose", may_lose, 0, 1),
    ):
        if not least <= value <= most:
            msg = f"{option} wants {least:g} to {most:g}, got {value:g}"
            raise RequestError(msg)


def _wanted(settings: Settings, features: Sequence[str] | None) -> Sequence[str] | str:
    """What is asked for; by default the first service, else everything there is."""
    if features:
        return features[0] if len(features) == 1 and features[0].startswith("service:") else features
    if settings.services:
        return f"service:{next(iter(settings.services))}"
    return [f"{view.name}:{name}" for view in settings.views.values() for name in view.feature]


def _views(settings: Settings, wanted: Sequence[str] | str) -> list[str]:
    """The views of what is asked for; a wrong name is refused here, before anything is scanned."""
    references: Sequence[str] = wanted if not isinstance(wanted, str) else ()
    if isinstance(wanted, str):
        name = wanted.removeprefix("service:")
        if name not in settings.services:
            msg = f"--features: there is no service {name!r}, {near(name, settings.services)}"
            raise RequestError(msg)
        references = settings.services[name]
    found: dict[str, None] = {}
    for reference in references:
        view, _, feature = reference.partition(":")
        if view not in settings.views:
            msg = f"--features: {reference!r}: there is no view {view!r}, {near(view, settings.views)}"
            raise RequestError(msg)
        if feature not in settings.views[view].feature:
            msg = f"--features: {reference!r}: wanted one of {', '.join(settings.views[view].feature)}"
            raise RequestError(msg)
        found[view] = None
    return list(found)


def _benched(setup: Setup, report: Path | None) -> tuple[Figures, Verdict, Path | None]:
    from featurechaos.bench.figures import Figures
    from featurechaos.bench.play import play
    from featurechaos.bench.report import JOURNAL, clear, write_report
    from featurechaos.bench.verdict import judge

    with tempfile.TemporaryDirectory(prefix="featurechaos-bench-") as scratch:
        folder = report or Path(scratch)
        clear(folder)
        with Working("the bench is running", takes_s=setup.takes_s) as working:
            figures = Figures.of(play(setup, folder / JOURNAL, say=working.say))
        verdict = judge(figures)
        return figures, verdict, write_report(figures, verdict, report) if report else None


def _put(figures: Figures, verdict: Verdict, page: Path | None) -> None:
    from featurechaos.cli.strips import put_strip

    put(f"{str(verdict.outcome).upper().replace('_', ' ')}: {verdict.sentence}", "")
    for head, text in verdict.said:
        put(f"{head}: {text}")
    put("")
    put_strip(figures)
    put("")
    _put_phases(figures)
    if page is not None:
        put(f"report: {page}")


def _put_phases(figures: Figures) -> None:
    """A table that fits 80 columns: what no phase has is left out, and what the sentences say is not said again."""
    rows = list(_rows(figures))
    kept = [at for at in range(len(_HEADER)) if not at or any(str(row[at]) not in ("", "-") for row in rows)]
    put_table([_HEADER[at] for at in kept], [[row[at] for at in kept] for row in rows])


def _rows(figures: Figures) -> Iterator[list[Text]]:
    """A line for each phase, and below it one for each origin that served in it."""
    from featurechaos.bench.words import aged
    from featurechaos.drills.measures import shown

    for name, stretch in figures.phases.items():
        cells = [f"{stretch.rows:,}", "", *_times(stretch.spread), ""]
        yield [Text(name, style="bold"), *map(Text, cells)]
        for origin, share in stretch.origins.items():
            cells = [f"{share.rows:,}", shown(share.share, "share"), *_times(share.spread), aged(share.oldest_s)]
            yield [Text(f"  {origin}"), *map(Text, cells)]


def _times(spread: Spread) -> list[str]:
    from featurechaos.bench.words import time

    return [time(one) for one in (spread.p50_s, spread.p90_s, spread.p99_s, spread.p999_s, spread.max_s)]


COMMANDS = {
    "bench": (
        bench,
        [
            "featurechaos bench",
            "featurechaos bench --fault outage:primary --report out",
            "featurechaos bench --pid primary=1234 --rate 200 --report out --json",
        ],
    ),
}
