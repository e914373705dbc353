"""Several Valkeys that make one source: a cluster of shards, and a primary that sentinels watch.

with ValkeyCluster() as cluster:
    cluster.url; cluster.nodes[1].kill(); cluster.nodes[1].restart(); cluster.move(slot, to=cluster.nodes[0])
"""

from __future__ import annotations

import json
import select
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from featurechaos.clock import SystemClock
from featurechaos.demo.process import ServerFailed
from featurechaos.demo.servers import ValkeyServer

SLOTS = 16384

_now = SystemClock().monotonic
_FORM_MOST_S = 30.0


class ClusterNode(ValkeyServer):
    """One node of a cluster; a restart finds the others again."""

    name: ClassVar[str] = "Valkey node"

    def _argv(self) -> list[str]:
        options = {
            "cluster-enabled": "yes",
            "cluster-port": self.bus_port,
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": 2000,
            # A dead shard costs its own rows; by default the others would refuse theirs too.
            "cluster-require-full-coverage": "no",
        }
        return [*super()._argv(), *(part for name, value in options.items() for part in (f"--{name}", str(value)))]

    @property
    def bus_port(self) -> int:
        """Where the nodes speak to one another."""
        return self._port("bus")

    def client(self, *, timeout_s: float = 5.0) -> Any:
        """A redis-py client of this node alone; ours to close."""
        from redis import Redis

        return Redis(port=self.port, protocol=2, socket_timeout=timeout_s, password=self._password)

    def ask(self, *command: object) -> Any:
        """What this node answers to one command."""
        with closing(self.client()) as client:
            return client.execute_command(*command)


class ValkeyCluster:
    """A cluster on loopback: `shards` nodes that share the slots evenly, and `replicas` more of the first shard.

    A context manager; `start` returns once every node knows all others and all slots.
    """

    def __init__(self, *, shards: int = 3, replicas: int = 0, **settings: Any) -> None:
        self.nodes = [ClusterNode(**settings) for _ in range(shards)]
        self.replicas = [ClusterNode(**settings) for _ in range(replicas)]
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """Its address in the form of a source's `url`: every shard's node."""
        first, *others = [node.url for node in self.nodes]
        hosts = [url.rpartition("@")[2].removeprefix("redis://").partition("/")[0] for url in others]
        return ",".join([first.removesuffix("/0"), *hosts])

    def start(self) -> Self:
        everyone = [*self.nodes, *self.replicas]
        with ExitStack() as stack:
            for node in everyone:
                stack.enter_context(node)
            edges = [SLOTS * at // len(self.nodes) for at in range(len(self.nodes) + 1)]
            for at, node in enumerate(self.nodes):
                node.ask("CLUSTER ADDSLOTSRANGE", edges[at], edges[at + 1] - 1)
            for at, node in enumerate(everyone):
                node.ask("CLUSTER SET-CONFIG-EPOCH", at + 1)
            for node in everyone[1:]:
                everyone[0].ask("CLUSTER MEET", "127.0.0.1", node.port, node.bus_port)
            self.wait()
            for replica in self.replicas:
                replica.ask("CLUSTER REPLICATE", id_of(self.nodes[0]))
            for replica in self.replicas:
                until(lambda replica=replica: b"master_link_status:up" in _raw(replica, "INFO replication"))  # type: ignore[misc]
            self._stack = stack.pop_all()
        return self

    def stop(self) -> None:
        self._stack.close()

    def restart(self) -> None:
        """Start again every node that does not run, and wait until all agree."""
        for node in [*self.nodes, *self.replicas]:
            if not node.is_running:
                node.restart()
        self.wait()

    def wait(self) -> None:
        """Wait until every node that runs knows as many nodes as there are, and says that all is well."""
        size = len(self.nodes) + len(self.replicas)
        for node in [*self.nodes, *self.replicas]:
            until(lambda node=node: _is_well(node, size))  # type: ignore[misc]

    def node_of(self, slot: int) -> ClusterNode:
        """Who serves a slot now, as the nodes that run say it."""
        asked = next(node for node in [*self.nodes, *self.replicas] if node.is_running)
        for first, last, primary, *_ in _slots(asked):
            if first <= slot <= last:
                return next(node for node in [*self.nodes, *self.replicas] if node.port == primary)
        msg = f"nobody serves slot {slot}"
        raise ServerFailed(msg)

    def move(
        self, slot: int, to: ClusterNode, *, leave_open: bool = False, keys: Sequence[bytes] | None = None
    ) -> None:
        """Hand a slot with its keys to another node, as a rebalancing does.

        Args:
            leave_open: stop before the slot changes hands, so that its keys are on both sides (ASK).
            keys: the keys to move over; default: all.
        """
        of = self.node_of(slot)
        to.ask("CLUSTER SETSLOT", slot, "IMPORTING", id_of(of))
        of.ask("CLUSTER SETSLOT", slot, "MIGRATING", id_of(to))
        for key in of.ask("CLUSTER GETKEYSINSLOT", slot, 10_000) if keys is None else keys:
            of.ask("MIGRATE", "127.0.0.1", to.port, key, 0, 5000)
        if not leave_open:
            self.settle(slot, to)

    def settle(self, slot: int, to: ClusterNode) -> None:
        """End a hand-over: tell every node whose the slot is."""
        for node in [to, *(each for each in self.nodes if each is not to)]:
            node.ask("CLUSTER SETSLOT", slot, "NODE", id_of(to))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class SentinelServer(ValkeyServer):
    """A sentinel that watches one primary, and alone decides to fail over to a replica of it."""

    name: ClassVar[str] = "Valkey sentinel"

    def __init__(
        self,
        watched: ValkeyServer,
        *,
        master: str = "mymaster",
        password: str | None = None,
        watched_password: str | None = None,
        binary: str | Path | None = None,
    ) -> None:
        super().__init__(password=password, binary=binary)
        self._watched, self.master, self._watched_password = watched, master, watched_password

    def _argv(self) -> list[str]:
        argv, path = super()._argv(), self.folder / "sentinel.conf"
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.folder}",
            f"sentinel monitor {self.master} 127.0.0.1 {self._watched.port} 1",
            f"sentinel down-after-milliseconds {self.master} 500",
            f"sentinel failover-timeout {self.master} 3000",
        ]
        if self._password is not None:
            lines.append(f"requirepass {json.dumps(self._password)}")
        if self._watched_password is not None:
            lines.append(f"sentinel auth-pass {self.master} {json.dumps(self._watched_password)}")
        if not path.exists():  # A sentinel writes what it learns into its own config.
            path.touch(mode=0o600)
            path.write_text("".join(f"{line}\n" for line in lines))
        return [argv[0], str(path), "--sentinel"]


def id_of(node: ClusterNode) -> str:
    """By what name the other nodes know it."""
    return _text(node.ask("CLUSTER MYID"))


def until(is_true: Callable[[], bool], most_s: float = _FORM_MOST_S) -> None:
    """Wait for servers to agree; ServerFailed if they do not."""
    end = _now() + most_s
    while not is_true():
        if _now() > end:
            msg = f"the servers did not agree within {most_s:g} s"
            raise ServerFailed(msg)
        select.select([], [], [], 0.02)


def _is_well(node: ClusterNode, size: int) -> bool:
    told = _raw(node, "CLUSTER INFO")
    wanted = (b"cluster_state:ok", b"cluster_slots_assigned:%d" % SLOTS, b"cluster_known_nodes:%d" % size)
    return all(each in told for each in wanted)


def _raw(node: ClusterNode, command: str) -> bytes:
    with closing(node.client()) as client:
        client.response_callbacks.clear()
        told = (
            client.execute_command(*command.split(" ", 1))
            if command.startswith("INFO")
            else client.execute_command(command)
        )
    return told.encode() if isinstance(told, str) else bytes(told)


def _slots(node: ClusterNode) -> list[tuple[int, int, int]]:
    with closing(node.client()) as client:
        client.response_callbacks.clear()
        return [(first, last, primary[1]) for first, last, primary, *_ in client.execute_command("CLUSTER SLOTS")]


def _text(told: Any) -> str:
    return told.decode() if isinstance(told, bytes) else str(told)
