"""The servers of a run, the proxies before them, and the configs of who reads and who writes."""

from __future__ import annotations

import shutil
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurechaos.demo.process import Server
from featurechaos.demo.servers import SeaweedServer, ValkeyServer
from tests.live.watchdog import hasten, put_ahead
from tests.nemesis.proxy import FaultProxy
from tests.nemesis.stored import IMAGES, KINDS, ONLINE, PRIMARY, REPLICA

BUCKET = "features"
AOF = ("--appendfsync", "no")
"""With `everysec` a server may keep a write back that it has acknowledged, and lose it when it is killed."""
DEADLINE_S, TIMEOUT_S = 0.100, 0.020
BREAKER = {
    "window_s": 1.0,
    "failure_rate": 0.5,
    "slow_rate": 0.9,
    "slow_s": 0.018,
    "min_calls": 10,
    "open_s": 0.3,
    "healthy_s": 0.3,
    "ramp_s": 0.5,
}
RETRY = {"attempts": 2, "wait_first_s": 0.002, "budget_ratio": 0.1, "budget_burst": 3}
REFRESH_S = 6.0
MOST_CONNECTIONS = 32
_ANSWER_MOST_S = 5.0


@dataclass
class World:
    """Two Valkey servers and a bucket, each behind its proxy; readers go by the proxies, writers to the stores."""

    folder: Path
    valkey: dict[str, ValkeyServer]
    s3: SeaweedServer
    proxies: dict[str, FaultProxy]
    bucket: FaultProxy
    project: str

    @classmethod
    def started(cls, folder: Path, seed: int, stack: ExitStack) -> World:
        valkey = {name: stack.enter_context(ValkeyServer(keeps_data=True, extra=AOF)) for name in ONLINE}
        s3 = stack.enter_context(SeaweedServer(buckets=(BUCKET,)))
        proxies = {
            name: stack.enter_context(FaultProxy(server.port, folder / f"{name}.wire", seed))
            for name, server in valkey.items()
        }
        bucket = stack.enter_context(FaultProxy(s3.port, folder / "bucket.log", seed))
        world = cls(folder, valkey, s3, proxies, bucket, f"nemesis{seed}")
        for server in (*valkey.values(), *proxies.values()):
            world.hastened(server)
        return world

    @staticmethod
    def hastened(server: Server) -> None:
        """It is not the servers' share of the machine that is judged."""
        hasten(server.pid)
        put_ahead(server.pid)

    def reader(self, generation: int, *, hedges: bool) -> dict[str, Any]:
        """The config of a client that serves."""
        sources = {
            name: {
                "type": "redis",
                "url": f"redis://127.0.0.1:{proxy.port}/0",
                "timeout_s": TIMEOUT_S,
                "max_connections": MOST_CONNECTIONS,
            }
            for name, proxy in self.proxies.items()
        }
        policy = {"deadline_s": DEADLINE_S, "breaker": BREAKER, "retry": RETRY, "hedge": {} if hedges else None}
        return self._config(generation, {**sources, IMAGES: self._images(self.folder / "cache")}, policy)

    def writer(self, generation: int) -> dict[str, Any]:
        """The config of a client that writes: both stores are primaries to it, and it takes its time."""
        sources = {
            name: {"type": "redis", "role": "primary", "url": server.url, "timeout_s": 2.0}
            for name, server in self.valkey.items()
        }
        images = self._images(self.folder / "writers-cache") | {"refresh_s": 3600.0}
        return self._config(generation, {**sources, IMAGES: images}, {"deadline_s": 10.0, "last_known": None})

    def _config(self, generation: int, sources: dict[str, Any], policy: dict[str, Any]) -> dict[str, Any]:
        views = [kind.config(generation) for kind in KINDS]
        return {"project": self.project, "sources": sources, "views": views, "policy": policy}

    def _images(self, cache: Path) -> dict[str, Any]:
        return {
            "type": "s3",
            "url": f"s3://{BUCKET}/{self.project}",
            "endpoint_url": f"http://127.0.0.1:{self.bucket.port}",
            "region": "us-east-1",
            "refresh_s": REFRESH_S,
            "cache_dir": str(cache),
            "options": {"config": {"connect_timeout": 1.0, "read_timeout": 3.0}},
        }

    # What faults do to the stores.

    def kill(self, name: str) -> None:
        self.valkey[name].kill()
        self.proxies[name].turn("gone")

    def revive(self, name: str) -> None:
        self.hastened(self.valkey[name].restart())
        self.proxies[name].turn("pass")

    def lose(self, name: str) -> None:
        """What a killed server had on disk."""
        shutil.rmtree(self.valkey[name].folder / "appendonlydir")

    def pause(self, name: str, seconds: float) -> None:
        """Nobody is answered for a time; a server that is paused for all does not hear an end of it either."""
        # Some milliseconds more: a server's own clock may be a little behind.
        self._command(name, f"CLIENT PAUSE {int(seconds * 1000) + 50} ALL")

    def answers(self, name: str) -> None:
        """Wait until a server answers again."""
        self._command(name, "PING", wanted=b"+PONG")

    def evict(self, name: str) -> int:
        """Take away memory until rows are evicted, and give it back; how many went."""
        used = int(self._info(name, "memory")["used_memory"])
        before = int(self._info(name, "stats")["evicted_keys"])
        self._command(name, "CONFIG SET maxmemory-policy allkeys-random")
        self._command(name, f"CONFIG SET maxmemory {max(used - 100_000, 1_000_000)}")
        self._command(name, "SET evict now", wanted=b"")
        self._command(name, "CONFIG SET maxmemory 0")
        return int(self._info(name, "stats")["evicted_keys"]) - before

    def _info(self, name: str, section: str) -> dict[str, str]:
        text = self._command(name, f"INFO {section}", wanted=b"$").decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def _command(self, name: str, line: str, *, wanted: bytes = b"+OK") -> bytes:
        with socket.create_connection(("127.0.0.1", self.valkey[name].port), _ANSWER_MOST_S) as connection:
            connection.settimeout(_ANSWER_MOST_S)
            connection.sendall(f"{line}\r\n".encode())
            answer = connection.recv(1 << 16)
        if not answer.startswith(wanted):
            msg = f"{name}: {line} was answered {answer[:100]!r}"
            raise RuntimeError(msg)
        return answer


def targets(target: str) -> tuple[str, ...]:
    """The stores a strike hits."""
    return ONLINE if target == "both" else (PRIMARY,) if target == PRIMARY else (REPLICA,)
