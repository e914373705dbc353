"""`snapshot publish`, `list`, `verify` and `gc`: the dated images of views that serve when the primary does not."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from featurechaos.cli.entities import moment
from featurechaos.cli.opening import CONFIG, Config, Json, opened_store, settings_of, snapshot_sources, stored_view
from featurechaos.cli.output import age, instant, put, put_json, put_table, say, size
from featurechaos.cli.progress import Working
from featurechaos.clock import SystemClock
from featurechaos.codec import Layout
from featurechaos.config import Settings
from featurechaos.config.mistakes import near
from featurechaos.errors import RequestError, StoreEmpty
from featurechaos.model import View
from featurechaos.tables import event_times

HELP = "Dated, complete images of views: publish, list, check, remove."
KEEP = 24

ViewName = Annotated[str, typer.Argument(metavar="VIEW", help="The view.")]
SourceName = Annotated[
    str | None, typer.Option("--source", metavar="NAME", help="Which snapshot source; default: every one.")
]


def publish(
    view: ViewName,
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="A .parquet or .csv file.")] = None,
    *,
    config: Config = CONFIG,
    from_source: Annotated[
        str | None, typer.Option("--from", metavar="SOURCE", help="Scan this online source instead of a file.")
    ] = None,
    rows_per_s: Annotated[
        float | None, typer.Option("--rows-per-s", metavar="N", help="Bound of a scan, in keys a second [20000].")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="DATE", help="All that was known then is inside; default: the newest event."),
    ] = None,
    allow_shrink: Annotated[
        bool, typer.Option("--allow-shrink", help="Take fewer than half the rows of the image before.")
    ] = False,
    source: SourceName = None,
    as_json: Json = False,
) -> None:
    """Publish a complete image of a view, from a table or from what an online source holds.

    Whatever fails on the way leaves the image that served before. A row written during a scan may be in it or not.
    """
    settings = settings_of(config)
    target, names = stored_view(settings, view), snapshot_sources(settings, source)
    if (file is None) == (from_source is None):
        came = "neither" if file is None else "both"
        msg = f"snapshot publish wants a FILE or --from SOURCE, got {came}"
        raise RequestError(msg)
    as_of_us = None if as_of is None else int(event_times([moment(as_of, "--as-of")], 1, "--as-of")[0])
    with ExitStack() as stack:
        if from_source is None:
            from featurechaos.cli.tables import table_of

            table = table_of(str(file), target)
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="featurechaos-scan-"))
            table = Path(folder) / "scan.parquet"
            _scan(settings, target, from_source, table, rows_per_s)
        done = [_publish(settings, name, target, table, as_of_us, allow_shrink=allow_shrink) for name in names]
    if as_json:
        put_json(done)
    else:
        put(*(f"published {one['rows']:,} rows of view {view!r} to {one['source']}: {one['snapshot']}" for one in done))


def listing(
    view: Annotated[str | None, typer.Argument(metavar="VIEW", help="One view; default: every one.")] = None,
    config: Config = CONFIG,
    source: SourceName = None,
    as_json: Json = False,
) -> None:
    """List the images there are, newest first."""
    settings = settings_of(config)
    stored = [name for name, one in settings.views.items() if name == one.base]
    views = [stored_view(settings, view).name] if view else stored
    found = []
    for name in snapshot_sources(settings, source):
        with opened_store(settings, name) as store, Working(f"asking {name} for its images"):
            for each in views:
                images = sorted(store.snapshots(each), key=lambda one: one.as_of_us, reverse=True)
                found += [_described(name, one) for one in images]
                if not images:
                    say(f"view {each!r} has no image in {name}")
    if as_json:
        put_json(found)
    elif found:
        header = ["view", "image", "age", "rows", "size", "source"]
        # Of one source there is nothing to tell apart, and 80 columns are soon full.
        width = len(header) if len({one["source"] for one in found}) > 1 else len(header) - 1
        put_table(header[:width], [_listed(one)[:width] for one in found])


def verify(
    view: ViewName,
    image: Annotated[str | None, typer.Option("--id", metavar="ID", help="Which image; default: the current.")] = None,
    config: Config = CONFIG,
    source: SourceName = None,
    as_json: Json = False,
) -> int:
    """Read an image again from end to end; exit code 1 if it is not what was published."""
    settings = settings_of(config)
    stored_view(settings, view)
    told = []
    for name in snapshot_sources(settings, source):
        with opened_store(settings, name) as store, Working(f"reading an image of view {view!r} in {name}"):
            checked = store.verify(view, image)
        told.append(
            {
                "source": name,
                "view": view,
                "snapshot": checked.snapshot,
                "is_whole": checked.is_whole,
                "rows": checked.rows,
                "size_bytes": checked.size_bytes,
                "problems": list(checked.problems),
            }
        )
    if as_json:
        put_json(told)
    else:
        put(*(line for one in told for line in _verdict(one)))
    return 0 if all(one["is_whole"] for one in told) else 1


def gc(
    view: ViewName,
    keep: Annotated[int, typer.Option("--keep", metavar="N", min=1, help="How many of the newest stay.")] = KEEP,
    config: Config = CONFIG,
    source: SourceName = None,
    as_json: Json = False,
) -> None:
    """Remove old images. The newest ones and the current one stay."""
    settings = settings_of(config)
    stored_view(settings, view)
    removed: dict[str, list[str]] = {}
    for name in snapshot_sources(settings, source):
        with opened_store(settings, name) as store, Working(f"removing old images of view {view!r} from {name}"):
            removed[name] = store.gc(view, keep)
    if as_json:
        put_json(removed)
        return
    for name, ids in removed.items():
        put(*(f"removed {each}" for each in ids))
        say(f"{len(ids)} image{'s' * (len(ids) != 1)} of view {view!r} removed from {name}")


def _scan(settings: Settings, view: View, source: str, path: Path, rows_per_s: float | None) -> None:
    from featurechaos.cli.scanning import RATE, refuse_unscannable, scan

    if source not in settings.sources:
        msg = f"--from: there is no source {source!r}, {near(source, settings.sources)}"
        raise RequestError(msg)
    if rows_per_s is not None and not rows_per_s > 0:
        msg = f"--rows-per-s wants more than 0, got {rows_per_s:g}"
        raise RequestError(msg)
    with opened_store(settings, source) as store, Working(f"scanning {source}") as working:
        refuse_unscannable(store, source)
        counts = scan(
            store,
            view,
            path,
            rows_per_s=rows_per_s or RATE,
            tell=lambda counts: working.tell(f"scanning {source}: {counts}"),
        )
    say(f"scanned {source}: {counts}")
    if not counts.kept:
        msg = f"source {source!r} holds no readable row of view {view.name!r}: there is nothing to publish"
        raise StoreEmpty(msg)


def _publish(
    settings: Settings, name: str, view: View, table: Any, as_of_us: int | None, *, allow_shrink: bool
) -> dict[str, Any]:
    with opened_store(settings, name) as store, Working(f"publishing view {view.name!r} to {name}"):
        manifest = store.publish(view, Layout.of(view), table, as_of_us=as_of_us, allow_shrink=allow_shrink)
        newest = max((one.as_of_us for one in store.snapshots(view.base)), default=manifest.as_of_us)
    if newest > manifest.as_of_us:
        say(f"{name} has a later image, of {instant(newest)}, which serves on; this is of {instant(manifest.as_of_us)}")
    return _described(name, manifest)


def _described(source: str, manifest: Any) -> dict[str, Any]:
    return {
        "source": source,
        "view": manifest.view,
        "snapshot": manifest.snapshot,
        "as_of": instant(manifest.as_of_us),
        "age_s": max(0.0, SystemClock().wall() - manifest.as_of_us / 1e6),
        "rows": manifest.rows,
        "size_bytes": sum(part.size_bytes for part in manifest.parts),
    }


def _listed(one: dict[str, Any]) -> list[Text]:
    rows, size_bytes = f"{one['rows']:,}", size(one["size_bytes"])
    return [Text(cell) for cell in (one["view"], one["snapshot"], age(one["age_s"]), rows, size_bytes, one["source"])]


def _verdict(one: dict[str, Any]) -> list[str]:
    state = "whole" if one["is_whole"] else "damaged"
    said = f"{one['snapshot']} in {one['source']} is {state}: {one['rows']:,} rows, {size(one['size_bytes'])}"
    return [said, *(f"  {problem}" for problem in one["problems"])]


COMMANDS = {
    "publish": (
        publish,
        [
            "featurechaos snapshot publish plane planes.parquet",
            "featurechaos snapshot publish plane --from primary --rows-per-s 5000",
            "featurechaos snapshot publish plane planes.csv --as-of 2024-06-01T05:00Z",
        ],
    ),
    "list": (listing, ["featurechaos snapshot list", "featurechaos snapshot list plane --json"]),
    "verify": (
        verify,
        [
            "featurechaos snapshot verify plane",
            "featurechaos snapshot verify plane --id 20240601T050000.000000Z-1f0c9a2b",
        ],
    ),
    "gc": (gc, ["featurechaos snapshot gc plane --keep 48"]),
}
