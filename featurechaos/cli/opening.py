"""From `--config FILE` to settings, a client or a store that a command works with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from featurechaos.client import FeatureClient
from featurechaos.clock import SystemClock
from featurechaos.config import Metrics, Settings, load
from featurechaos.config.mistakes import near
from featurechaos.errors import RequestError
from featurechaos.model import View
from featurechaos.stores import Place

CONFIG = Path("featurechaos.yaml")

Config = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The config.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a script.")]


def settings_of(config: Path) -> Settings:
    """What a config says; a file that isn't there is told with what to do about it."""
    if config == CONFIG and not config.exists():
        msg = f"there is no {CONFIG} in this folder: name a config with --config FILE"
        raise RequestError(msg)
    return load(config)


@contextmanager
def opened(settings: Settings) -> Iterator[FeatureClient]:
    """A client for one command. It opens no port, neither for metrics nor for control: those are the service's own."""
    chaos = settings.chaos.model_copy(update={"listen": None})
    with FeatureClient(replace(settings, metrics=Metrics(), chaos=chaos)) as client:
        yield client


@contextmanager
def opened_store(settings: Settings, name: str) -> Iterator[Any]:
    """One source's store alone, with nothing of it at work in the background."""
    source = settings.sources[name]
    place = Place(name, settings.project, tuple(settings.views.values()), SystemClock())
    store = source.store_class.open(source.spec, place)
    try:
        yield store
    finally:
        store.close()


def stored_view(settings: Settings, name: str) -> View:
    """A view that is stored under its own name; RequestError for any other."""
    view = settings.views.get(name)
    if view is None:
        msg = f"there is no view {name!r}, {near(name, settings.views)}"
        raise RequestError(msg)
    if view.base != view.name:
        msg = f"view {name!r} is another name of {view.base!r}: name that"
        raise RequestError(msg)
    return view


def snapshot_sources(settings: Settings, name: str | None = None) -> list[str]:
    """The sources that keep images of views: all, or the one named; RequestError if there is none."""
    known = [each for each, source in settings.sources.items() if hasattr(source.store_class, "publish")]
    if not known:
        msg = f"{settings.name}: no source keeps snapshots: add one of type s3"
        raise RequestError(msg)
    if name is None:
        return known
    if name not in known:
        msg = f"there is no snapshot source {name!r}, {near(name, known)}"
        raise RequestError(msg)
    return [name]
