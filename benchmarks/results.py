"""What a bench found, as a value: tables, curves, numbers held against goals. Printed, kept as JSON, drawn."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.goals import GOALS, MOST_FACTOR, MOST_MISSED

ROOT = Path(__file__).parent.parent
REPORTS = ROOT / "reports" / "bench"
PACKAGES = (
    "numpy",
    "pydantic",
    "redis",
    "hiredis",
    "tenacity",
    "stamina",
    "pybreaker",
    "hyx",
    "lmdb",
    "pyarrow",
    "boto3",
)

Cell = str | float | int | None


@dataclass(slots=True)
class Table:
    """A titled grid; `note` says what a reader must know to read it."""

    title: str
    columns: list[str]
    rows: list[list[Cell]] = field(default_factory=list)
    note: str = ""

    def markdown(self) -> str:
        head = [f"| {' | '.join(self.columns)} |", f"|{'|'.join(['---'] * len(self.columns))}|"]
        body = [f"| {' | '.join(map(shown, row))} |" for row in self.rows]
        note = [self.note, ""] if self.note else []
        return "\n".join([f"### {self.title}", "", *note, *head, *body, ""])


@dataclass(slots=True)
class Plot:
    """Lines over a growing number, or bars by name; `series` is name -> [(x, y), ...]."""

    name: str
    title: str
    x: str
    y: str
    series: dict[str, list[tuple[float | str, float]]] = field(default_factory=dict)
    is_log: bool = True
    is_bars: bool = False

    def draw(self, path: Path) -> None:
        """Draw it to a file; the ending says how."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        # Text as text and a fixed salt: the same numbers give the same file.
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name, "font.size": 9}):
            figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
            for at, (name, points) in enumerate(self.series.items()):
                x, y = zip(*points, strict=True)
                if self.is_bars:
                    width = 0.8 / len(self.series)
                    axes.bar([k + at * width - 0.4 + width / 2 for k in range(len(x))], y, width, label=name)
                    axes.set_xticks(range(len(x)), x)
                else:
                    axes.plot(x, y, marker="o", markersize=3, linewidth=1.3, label=name)
            if self.is_log:
                axes.set_yscale("log")
                if not self.is_bars:
                    axes.set_xscale("log")
            axes.set(title=self.title, xlabel=self.x, ylabel=self.y)
            axes.grid(visible=True, which="major", alpha=0.3)
            figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
            plt.close(figure)


@dataclass(slots=True)
class Result:
    """All of one bench. `measured`: key of `GOALS` -> number; `missing`: peers that are not installed."""

    bench: str
    about: str
    seed: int
    is_quick: bool
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    took_s: float = 0.0

    def markdown(self) -> str:
        parts = [f"## {self.bench}", "", self.about, ""]
        if self.missing:
            parts += [f"Not installed, so not measured: {', '.join(self.missing)}.", ""]
        parts += [table.markdown() for table in self.tables]
        if self.measured:
            parts.append(goal_table(self.measured).markdown())
        return "\n".join(parts)

    def save(self, folder: Path) -> Path:
        """Keep it as `BENCH.json`, and its curves beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.bench}.json"
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        for plot in self.plots:
            plot.draw(folder / f"{plot.name}.svg")
        return path

    @classmethod
    def load(cls, path: Path) -> Result:
        told = json.loads(path.read_text(encoding="utf-8"))
        told["tables"] = [Table(**one) for one in told["tables"]]
        told["plots"] = [Plot(**one) for one in told["plots"]]
        return cls(**told)


def goal_table(measured: Mapping[str, float], *, all_of_them: bool = False) -> Table:
    """Each number with what was wanted of it; with `all_of_them` those not measured too."""
    table = Table("Numbers to reach", ["what", "wanted", "measured", ""])
    for key, goal in GOALS.items():
        if key in measured:
            got = measured[key]
            verdict = "reached" if goal.is_reached(got) else f"missed by {shown(goal.factor(got))} x"
            table.rows.append([goal.what, goal.wanted, f"{shown(got)} {goal.unit}".rstrip(), verdict])
        elif all_of_them:
            table.rows.append([goal.what, goal.wanted, None, "not measured"])
    return table


def complaints(measured: Mapping[str, float]) -> list[str]:
    """Why the numbers of a whole run are not good enough; nothing if they are."""
    said = [f"not measured: {goal.what}" for key, goal in GOALS.items() if key not in measured]
    missed = {key: GOALS[key].factor(got) for key, got in measured.items() if not GOALS[key].is_reached(got)}
    if len(missed) > MOST_MISSED:
        said.append(f"{len(missed)} numbers missed, at most {MOST_MISSED} may be")
    said += [
        f"missed by {shown(factor)} x, at most {MOST_FACTOR} x may be: {GOALS[key].what}"
        for key, factor in missed.items()
        if factor > MOST_FACTOR
    ]
    return said


def shown(value: Cell) -> str:
    """A cell: three figures are enough."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e6):
        return f"{value:.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def environment() -> dict[str, Any]:
    """The machine, the versions, the commit; what a number means nothing without."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": [round(one, 2) for one in os.getloadavg()],
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "commit": _commit(),
    }


def versions_of(names: Iterable[str]) -> dict[str, str | None]:
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines: Sequence[str] = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str | None:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, check=False, text=True
    )
    return told.stdout.strip() or None
