"""Write what the last runs found into `benchmarks/README.md`, and their curves into `benchmarks/plots/`.

`python -m benchmarks.readme` reads `reports/bench/*.json`. Between `<!-- results:NAME -->` and `<!-- end:NAME -->` the
text is ours to replace; what stands outside, the explanations, is written by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.__main__ import BENCHES
from benchmarks.goals import GOALS
from benchmarks.results import REPORTS, Result, goal_table

README = Path(__file__).with_name("README.md")
PLOTS = Path(__file__).with_name("plots")


def main() -> int:
    paths = [path for name in BENCHES if (path := REPORTS / f"{name}.json").exists()]
    if not paths:
        print("there are no results in reports/bench; run `make bench` first", file=sys.stderr)
        return 2
    results = [Result.load(path) for path in paths]
    text = README.read_text(encoding="utf-8")
    for result in results:
        for plot in result.plots:
            plot.draw(PLOTS / f"{plot.name}.svg")
        text = replaced(text, result.bench, section(result))
    README.write_text(replaced(text, "numbers", summary(results)), encoding="utf-8")
    print(f"wrote {', '.join(result.bench for result in results)}")
    return 0


def summary(results: Sequence[Result]) -> str:
    """The numbers we hold ourselves to, and where they were measured."""
    measured = {key: got for result in results for key, got in result.measured.items()}
    lines = goal_table(measured, all_of_them=True).markdown().splitlines()[2:]
    environments = [result.environment for result in results]
    last = environments[-1]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    loads = [load for one in environments for load in (one["load"][0], one["load_after"][0])]
    where = (
        f"Measured on {last['cores']} cores of {last['cpu'] or last['system']}, Python {last['python']}, {versions}; "
        f"commit {', '.join(dict.fromkeys(str(one['commit']) for one in environments))}; "
        f"load average {min(loads):g} to {max(loads):g}."
    )
    short = [
        f"- {goal.what}: its profile is the table *{goal.profile}*."
        for key, goal in GOALS.items()
        if key in measured and not goal.is_reached(measured[key])
    ]
    return "\n".join([*lines, "", *(["What fell short:", "", *short, ""] if short else []), where])


def section(result: Result) -> str:
    """One bench's tables and curves."""
    parts = [result.about, "", f"Seed {result.seed}, {result.took_s:.0f} s.", ""]
    if result.missing:
        parts += [f"Not installed, so not measured: {', '.join(result.missing)}.", ""]
    parts += [table.markdown() for table in result.tables]
    parts += [f"![{plot.title}](plots/{plot.name}.svg)\n" for plot in result.plots]
    return "\n".join(parts).rstrip()


def replaced(text: str, name: str, body: str) -> str:
    """The text with another body between the marks of `name`; a mark that is not there is a mistake of ours."""
    begin, end = f"<!-- results:{name} -->", f"<!-- end:{name} -->"
    if begin not in text or end not in text:
        msg = f"{README.name} wants {begin} and {end}, has not both"
        raise LookupError(msg)
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n\n{body}\n\n{end}", text)


if __name__ == "__main__":
    sys.exit(main())
