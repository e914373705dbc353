"""The command line. `main` imports with nothing but the core; the rest needs the extra `cli`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

NEEDS = ("typer", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (default: the process's own arguments) and give its exit code."""
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        names = " and ".join(missing)
        sys.stderr.write(f"featurechaos: the command line needs {names}: pip install 'featurechaos[cli]'\n")
        return 2
    from featurechaos.cli.app import run

    return run(sys.argv[1:] if arguments is None else arguments)
