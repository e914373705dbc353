"""Run every bench, and end with one table of the numbers we hold ourselves to.

Exit code 0 when all are reached, or missed within the allowance (at most two, none by more than 1.3 x); else 1. With
`--quick` no time is judged: it shows that every bench runs.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import asdict

from benchmarks.harness import Options, parser, play
from benchmarks.results import Result, complaints, goal_table

BENCHES = ("read", "policy", "import", "failover", "snapshot", "impact", "scale")
_QUIET = 0.5
"""The load for each core above which a run says that it is not alone."""


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--only", nargs="+", choices=BENCHES, default=BENCHES, help="some of the benches")
    arguments = made.parse_args()
    options = Options(arguments.seed, arguments.quick)
    if not options.is_quick and (load := os.getloadavg()[0]) > _QUIET * (os.cpu_count() or 1):
        print(f"this machine is busy (load {load:.1f}): wall times and ratios will not repeat", file=sys.stderr)
    results = [one(name, options, is_silent=arguments.json) for name in arguments.only]
    measured = {key: got for result in results for key, got in result.measured.items()}
    said = [] if options.is_quick or len(results) < len(BENCHES) else complaints(measured)
    if arguments.json:
        print(json.dumps({"benches": [asdict(result) for result in results], "complaints": said}))
    else:
        print(goal_table(measured, all_of_them=True).markdown())
        print("\n".join(said))
    return 1 if said else 0


def one(name: str, options: Options, *, is_silent: bool) -> Result:
    """Run one bench, telling what it found as soon as it has."""
    print(f"bench_{name} ...", file=sys.stderr, flush=True)
    result = play(importlib.import_module(f"benchmarks.bench_{name}").measure, options)
    print(f"bench_{name}: {result.took_s:.0f} s", file=sys.stderr, flush=True)
    if not is_silent:
        print(result.markdown(), flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
