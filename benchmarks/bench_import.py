"""What `import featurechaos` costs, in fresh interpreters that take turns."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness import Contender, Options, Timing, Turn, alternate, main, pinned
from benchmarks.peers import feast_python
from benchmarks.results import Result, Table

ABOUT = """Milliseconds between the first line of a fresh interpreter and the end of the import, its start left out:
wall median, CPU of the best round, the ratio of wall times to the first line's. Compiled files are there already.
`import featurechaos` reads a name's module when the name is used; what a client costs is the line after it."""
OURS, BASE = "import featurechaos", "import numpy, pydantic"
CLIENT = "from featurechaos import FeatureClient"
HEAVY = ("redis", "boto3", "pyarrow", "moto")
_TIMED = """
import json, sys, time
cpu_0, wall_0 = time.process_time_ns(), time.perf_counter_ns()
{code}
wall_1, cpu_1 = time.perf_counter_ns(), time.process_time_ns()
print(json.dumps([wall_1 - wall_0, cpu_1 - cpu_0, sorted(sys.modules)]))
"""
_MOST_LINES = 14


@dataclass(slots=True)
class Import:
    """A line of imports, each time in a new process."""

    name: str
    code: str
    python: str = sys.executable
    every: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    modules: Sequence[str] = ()

    def write(self, ask: Any) -> Any:
        return None

    def turn(self, asks: Sequence[Any]) -> Turn:
        wall, cpu = [], []
        for _ in asks:
            told = subprocess.run(
                [self.python, "-c", _TIMED.format(code=self.code)],
                capture_output=True,
                check=True,
                env=self.environment,
                text=True,
            )
            wall_ns, cpu_ns, self.modules = json.loads(told.stdout.splitlines()[-1])
            wall.append(wall_ns)
            cpu.append(cpu_ns)
        return Turn(wall, cpu)


def compiled_in(folder: str) -> dict[str, str]:
    """An environment in which compiled files are kept, whatever ours says: the round before the first makes them."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": folder}


def contenders_of(options: Options, environment: dict[str, str]) -> list[Import]:
    made = [
        Import(BASE, BASE),
        Import("import numpy, pydantic; pydantic.BaseModel", "import numpy\nfrom pydantic import BaseModel"),
        Import(OURS, OURS),
        Import(CLIENT, CLIENT),
    ]
    if not options.is_quick:
        made += [Import("import redis", "import redis"), Import("import pandas", "import pandas")]
    if (python := feast_python()) is not None and not options.is_quick:
        made.append(Import("import feast", "import feast", str(python), every=10))
    for one in made:
        one.environment = environment
    return made


def breakdown(environment: dict[str, str]) -> Table:
    """Where the time goes: own time of the modules, added up by package, as `-X importtime` has it."""
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", CLIENT], capture_output=True, check=True, env=environment, text=True
    ).stderr
    by_package: dict[str, int] = {}
    for own, name in re.findall(r"import time: +(\d+) \| +\d+ \| +(\S+)", told):
        package = name.partition(".")[0]
        package = "standard library" if package in sys.stdlib_module_names else package
        by_package[package] = by_package.get(package, 0) + int(own)
    whole = sum(by_package.values())
    table = Table(
        "Where it goes", ["package", "ms", "share"], note="One run under `-X importtime`, which slows it down."
    )
    for package, us in sorted(by_package.items(), key=lambda one: -one[1])[:_MOST_LINES]:
        table.rows.append([package, us / 1e3, f"{us / whole:.0%}"])
    return table


def measure(options: Options) -> Result:
    result = Result("import", ABOUT, options.seed, options.is_quick)
    if feast_python() is None:
        result.missing.append("Feast")
    with pinned(), TemporaryDirectory(prefix="featurechaos-bench-") as folder:
        environment = options.pick(compiled_in(folder), dict(os.environ))
        made = contenders_of(options, environment)
        contenders: list[Contender] = list(made)
        timings = alternate(contenders, rounds=options.pick(20, 1), calls=1)
        result.tables = [table_of(timings), breakdown(environment)]
    (ours,) = (one for one in made if one.name == CLIENT)
    result.measured = {
        "import": timings[OURS].against(timings[BASE])[0],
        "import_heavy": len(set(HEAVY) & set(ours.modules)),
    }
    return result


def table_of(timings: dict[str, Timing]) -> Table:
    table = Table("Importing", ["line", "ms", "CPU ms", "x numpy, pydantic", "quartiles"])
    for name, timing in timings.items():
        ratio, low, high = timing.against(timings[BASE])
        table.rows.append(
            [name, timing.p50_us / 1e3, timing.cpu_best_us / 1e3, round(ratio, 2), f"{low:.2f} to {high:.2f}"]
        )
    return table


if __name__ == "__main__":
    main(measure, __doc__)
