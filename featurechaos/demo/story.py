"""The demo: a real Redis is really killed, and what that did to the decisions is counted."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from featurechaos.demo.stage import open_stage
from featurechaos.drills.reading import parse_script
from featurechaos.drills.run import run_drill
from featurechaos.drills.script import Script
from featurechaos.drills.stage import Stage
from featurechaos.drills.verdict import Verdict

DRILL = "redis-killed.yaml"
_UNSEEN = "nowhere (planes that no snapshot has seen)"


def tell(
    seed: int,
    *,
    report: Path,
    config: Path | None = None,
    json_file: Path | None = None,
    say: Callable[[str], None],
) -> tuple[int, Path | None]:
    """Play the demo's drill.

    Args:
        seed: another one is another autumn day, other flights and another sample for the model.
        report: the folder that the report goes to.
        config: a config of one's own instead of `flights.yaml`.
        json_file: where the few numbers go, for a machine.
        say: hears a line for each thing that happens.

    Returns:
        The exit code of the verdict, and the report's path.
    """
    text = files("featurechaos.drills").joinpath("builtin", DRILL).read_text(encoding="utf-8")
    script = parse_script(text, name=DRILL).model_copy(update={"seed": seed})
    killed: list[int] = []

    def opened(played: Script) -> Stage:
        stage = open_stage(played, None if config is None else str(config), say)
        killed.append(stage.processes["primary"].pid)
        return stage

    verdict, path = run_drill(script, directory=report, progress=say, open_stage=opened)
    for line in _told(verdict):
        say(line)
    if json_file is not None and killed:
        json_file.write_text(json.dumps(_numbers(verdict, killed[0]), indent=2) + "\n", encoding="utf-8")
    return verdict.exit_code, path


def _numbers(verdict: Verdict, pid: int) -> dict[str, Any]:
    wanted = ("requests", "failed", "late", "rows", "flip_rate", "psi", "recovery_s")
    return {**{name: verdict.numbers.get(name) for name in wanted}, "pid": pid, "signal": int(signal.SIGKILL)}


def _told(verdict: Verdict) -> list[str]:
    """The few numbers that matter, a line each."""
    numbers = verdict.numbers
    if not numbers:
        return [verdict.sentence]
    lines = [f"{numbers['requests']} requests, {numbers['failed']} failed, {numbers['late']} late"]
    if during := numbers["rows"].get("during"):
        lines.append(f"while Redis was dead, rows came from: {_shares(during)}")
    if numbers.get("flip_rate") is not None:
        changed = f"decisions changed: {100 * numbers['flip_rate']:.1f} %"
        lines.append(f"{changed}; PSI of their scores, over the whole outage: {numbers['psi']:.3f}")
    if numbers.get("recovery_s") is not None:
        lines.append(f"on the primary again after {numbers['recovery_s']:.1f} s")
    return [*lines, f"verdict: {verdict.outcome}: {verdict.sentence}"]


def _shares(rows: Mapping[str, int]) -> str:
    """Rows by origin as shares, the largest first."""
    total = sum(rows.values())
    most_first = sorted(rows.items(), key=lambda one: -one[1])
    names = {"NONE": _UNSEEN if "SNAPSHOT" in rows else "nowhere"}
    return ", ".join(f"{names.get(name, name)} {100 * n / total:.1f} %" for name, n in most_first)
