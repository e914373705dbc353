"""What a drill is played on: a client, the servers it may hurt, who asks, and what scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, Protocol

from featurechaos.client import FeatureClient
from featurechaos.drills.script import Script
from featurechaos.errors import SpecError


class Process(Protocol):
    """A server that a drill started and may hurt; by its pid."""

    def kill(self) -> Any: ...
    def freeze(self) -> Any: ...
    def thaw(self) -> Any: ...
    def restart(self) -> Any: ...
    @property
    def pid(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to make: entity rows by column, and inputs for the model."""

    entity_rows: Any
    inputs: Mapping[str, Any] = field(default_factory=dict)


Closers = list[Callable[[], Any]]
"""What ends each part of a stage, in the order they were made."""

Draw = Callable[[Random, float], Asked]
"""The next request, given a source of chance and the wall clock of the world it is made in."""


@dataclass(slots=True)
class Stage:
    """Everything a drill acts on. `close` ends it, whatever state it is in."""

    client: FeatureClient
    features: Sequence[str] | str
    draw: Draw
    processes: Mapping[str, Process] = field(default_factory=dict)
    empty: Callable[[Process], None] = lambda process: None
    predict: Any = None
    threshold: Any = 0.5
    closers: Closers = field(default_factory=list)

    def close(self) -> None:
        """Let go of everything, last made first."""
        close_all(self.closers)


def close_all(closers: Closers) -> None:
    """Call each, last first; the first error is raised once all are done."""
    first: Exception | None = None
    while closers:
        try:
            closers.pop()()
        except Exception as error:  # noqa: BLE001 - every other part must still be closed
            first = first or error
    if first is not None:
        raise first


def named(reference: str, place: str) -> Any:
    """What `package.module:name` names; SpecError says what is wrong with it."""
    module, colon, name = reference.partition(":")
    if not colon:
        raise SpecError(f"{place}: wanted package.module:name, got {reference!r}")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SpecError(f"{place}: {reference!r} could not be imported: {error}") from error


def stage_of(script: Script, client: FeatureClient) -> Stage:
    """A stage over a client of the user's own: its requests from a file or a callable, its model if any."""
    load = script.load
    assert load != "none"
    features, draw = _requests(load.requests, client)
    stage = Stage(client, features, draw, closers=[client.close])
    if script.model and script.model.predict:
        stage.predict = named(script.model.predict, "model.predict")
        stage.threshold = script.model.threshold
    return stage


def _requests(source: str, client: FeatureClient) -> tuple[Sequence[str] | str, Draw]:
    """A .jsonl file of `{"features"?, "entity_rows", "inputs"?}`, or a callable that takes (random, wall seconds)."""
    everything = [f"{view.name}:{name}" for view in client.settings.views.values() for name in view.feature]
    services = client.settings.services
    features: Sequence[str] | str = f"service:{next(iter(services))}" if services else everything
    if not source.endswith(".jsonl"):
        make = named(source, "load.requests")

        def made(rng: Random, wall_s: float) -> Asked:
            given = make(rng, wall_s)
            return given if isinstance(given, Asked) else Asked(**given)

        return features, made
    lines = _lines(Path(source))

    def drawn(rng: Random, wall_s: float) -> Asked:
        line = rng.choice(lines)
        return Asked(line["entity_rows"], line.get("inputs", {}))

    return features, drawn


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"load.requests: {path} could not be read: {error.strerror}") from error
    lines = []
    for number, line in enumerate(filter(str.strip, text.splitlines()), 1):
        try:
            body = json.loads(line)
        except ValueError as error:
            raise SpecError(f"load.requests: {path}, line {number}: wanted JSON, got {error}") from error
        if not isinstance(body, dict) or "entity_rows" not in body:
            raise SpecError(f'load.requests: {path}, line {number}: wanted {{"entity_rows": ...}}, got {line[:60]!r}')
        lines.append(body)
    if not lines:
        raise SpecError(f"load.requests: {path} has no requests in it")
    return lines
