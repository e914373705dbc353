"""Which parts of a drill file are not built yet: known, told by name, and never half done."""

from __future__ import annotations

from collections.abc import Iterator

from featurechaos.config.mistakes import Mistake, Path
from featurechaos.drills.probes import OverlapAtK, Probe, ShadowDrops, TimeToAlarmS
from featurechaos.drills.script import Action, Script

Unbuilt = Iterator[tuple[Path, str, str]]
"""Where, what, and what to write instead."""


def must_be_built(script: Script) -> None:
    """Refuse the first part of a script that nothing would carry out."""
    for path, part, instead in (*_whole(script), *_done(script), *_report(script), *_asked(script)):
        raise Mistake(path, f"{part} is not built yet; {instead}")


def _whole(script: Script) -> Unbuilt:
    if script.target.kind != "local":
        yield ("target", "kind"), f"kind {script.target.kind}", "kind local starts its own servers"
    if script.load == "none":
        yield ("load",), "a drill on real traffic", "give requests and rate_per_s"
    if script.clock != "real":
        yield ("clock",), f"the {script.clock} clock", "leave it out, or write real"
    if script.exposure != "live":
        yield ("exposure",), f"exposure {script.exposure}", "leave it out, or write live"
    if script.model and not script.model.predict:
        yield ("model", "predict"), "a model that is only named", "give predict as package.module:name"
    for key in ("window", "groups"):
        if getattr(script, key) is not None:
            yield (key,), key, "leave it out"


def _done(script: Script) -> Unbuilt:
    for index, step in enumerate(script.method):
        if step.ramp:
            yield ("method", index, "ramp"), "ramp", "leave it out"
        yield from _action(step.do, ("method", index))
    for index, rollback in enumerate(script.rollbacks):
        yield from _action(rollback, ("rollbacks", index))


def _action(action: object, at: Path) -> Unbuilt:
    if isinstance(action, Action):
        if action.action == "hydrate":
            yield (*at, "action"), "action hydrate", "refresh brings every replica up to date"
        for key in ("view", "as_of"):
            if getattr(action, key) is not None:
                yield (*at, key), key, "leave it out"


def _report(script: Script) -> Unbuilt:
    if script.report.notify:
        yield ("report", "notify"), "notify", "leave it out"
    if script.report.dir and "://" in script.report.dir:
        yield ("report", "dir"), "a report at an address", "give a folder"


def _asked(script: Script) -> Unbuilt:
    for path, probe in _probes(script):
        if isinstance(probe, (OverlapAtK, ShadowDrops, TimeToAlarmS)):
            yield (*path, "probe"), f"probe {probe.probe}", "leave it out"
        for key in ("group", "against", "max_ratio"):
            if getattr(probe, key) is not None:
                yield (*path, key), key, "leave it out: there is one group"


def _probes(script: Script) -> Iterator[tuple[Path, Probe]]:
    lists = {
        ("steady_state", "probes"): script.steady_state.probes,
        ("guards",): script.guards,
        ("expect", "during"): script.expect.during,
    }
    if not isinstance(script.expect.after, str):
        lists["expect", "after"] = script.expect.after
    for path, probes in lists.items():
        for index, probe in enumerate(probes):
            yield (*path, index), probe
    for index, step in enumerate(script.method):
        if step.check:
            yield ("method", index), step.check
    if script.recovery:
        yield ("recovery",), script.recovery.check
