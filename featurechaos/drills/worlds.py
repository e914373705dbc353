"""Worlds that a drill may name: the one we bring, known by the name of what opens it.

It stands above drills and needs the demo's packages, so it is imported when a drill first asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from featurechaos.drills.script import Script
from featurechaos.drills.stage import Stage
from featurechaos.errors import SpecError

WORLDS = {"flights": "featurechaos.demo.stage:open_stage"}
"""name -> `package.module:name` of what opens it."""

Say = Callable[[str], None]


def open_world(name: str, script: Script, config: str | None, say: Say) -> Stage:
    """Start a world's servers and open a client on them."""
    if name not in WORLDS:
        raise SpecError(f"target.world: wanted one of {', '.join(WORLDS)}, got {name!r}")
    module, _, function = WORLDS[name].partition(":")
    try:
        found = getattr(import_module(module), function)
    except ImportError as error:
        raise SpecError(f"target.world: {name!r} needs: pip install 'featurechaos[demo]' ({error})") from error
    stage: Stage = found(script, config, say)
    return stage
