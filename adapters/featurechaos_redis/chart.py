"""Which node of a cluster serves which slot, and what a server says of it."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, NamedTuple, TypeVar

from featurechaos.locks import Locked
from featurechaos_redis.errors import BadReply, ErrorReply
from featurechaos_redis.wire import command

SLOTS = 16384
ASK_SLOTS = command(b"CLUSTER", b"SLOTS")
_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.1, 2.0

PoolT = TypeVar("PoolT")


class At(NamedTuple):
    """A node's address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Range(NamedTuple):
    """The slots from `first` to `last`, and who serves them."""

    first: int
    last: int
    at: At


@dataclass(frozen=True, slots=True, eq=False)
class Node(Generic[PoolT]):
    """One shard's node and its connections."""

    at: At
    pool: PoolT

    @property
    def name(self) -> str:
        return str(self.at)


def slot_of(key: bytes) -> int:
    """The slot of a key: of its hash tag, what stands between the first `{` and the next `}`, if there is one."""
    begin = key.find(b"{") + 1
    if begin:
        end = key.find(b"}", begin)
        if end > begin:
            key = key[begin:end]
    return crc_hqx(key, 0) % SLOTS


def ranges_of(reply: Any, asked: At) -> list[Range]:
    """What CLUSTER SLOTS answered; a node that does not know its own address is the one that was asked."""
    if isinstance(reply, Exception):
        raise reply
    try:
        found = [_range(each, asked) for each in reply]
    except (TypeError, ValueError, IndexError, UnicodeDecodeError):
        msg = "CLUSTER SLOTS wants ranges of slots with their nodes, got another reply"
        raise BadReply(msg) from None
    if not found:
        msg = f"the node {asked} knows of no slot that anybody serves"
        raise BadReply(msg)
    return found


def _range(each: Any, asked: At) -> Range:
    first, last, primary = each[:3]
    if not 0 <= first <= last < SLOTS:
        raise ValueError
    return Range(first, last, _at(primary[0] or b"", primary[1], asked))


def _at(host: bytes, port: Any, asked: At) -> At:
    text = host.decode()
    return At(asked.host if text in ("", "?") else text, int(port) or asked.port)


class Redirect(NamedTuple):
    """A server's word that a slot is elsewhere: for good (MOVED), or for this once (ASK)."""

    slot: int
    at: At
    is_once: bool


def redirect_of(error: ErrorReply, asked: At) -> Redirect | None:
    """What `MOVED 3999 127.0.0.1:6381` says; None for any other error."""
    if error.code not in ("MOVED", "ASK"):
        return None
    try:
        _, slot, where = str(error).split(" ")[:3]
        host, _, port = where.rpartition(":")
        at = _at(host.removeprefix("[").removesuffix("]").encode(), port, asked)
        return Redirect(int(slot), at, error.code == "ASK") if 0 <= int(slot) < SLOTS else None
    except ValueError:
        return None


class Chart(Locked, Generic[PoolT]):
    """The nodes of a cluster and the slots they serve. Thread-safe.

    Bounded: nodes are those of the newest map and of the one before it; whoever was left out twice is let go.
    """

    def __init__(self, make: Callable[[At], PoolT], seeds: Sequence[At], *, let_go: Callable[[PoolT], Any]) -> None:
        super().__init__()
        self._make, self._let_go, self._seeds = make, let_go, tuple(seeds)
        self._nodes: dict[At, Node[PoolT]] = {}
        self._before: frozenset[At] = frozenset()
        self._slots: list[Node[PoolT] | None] = []
        self._is_closed = False

    @property
    def is_known(self) -> bool:
        return bool(self._slots)

    def of(self, slot: int) -> Node[PoolT] | None:
        """Who serves a slot, as far as is known."""
        return self._slots[slot]

    def node(self, at: At) -> Node[PoolT]:
        with self._lock:
            return self._node(at)

    def _node(self, at: At) -> Node[PoolT]:
        node = self._nodes.get(at)
        if node is None:
            node = self._nodes[at] = Node(at, self._make(at))
            if self._is_closed:
                self._let_go(node.pool)
        return node

    def close(self) -> None:
        """Have nothing opened by who comes late; the nodes that are there are their owner's to close."""
        with self._lock:
            self._is_closed = True

    def shards(self) -> list[Node[PoolT]]:
        """The nodes that serve slots."""
        return list(dict.fromkeys(node for node in self._slots if node is not None))

    def nodes(self) -> list[Node[PoolT]]:
        """Every node that may have connections."""
        return list(self._nodes.values())

    def moved(self, slot: int, at: At) -> None:
        """Take a server's word for one slot."""
        with self._lock:
            if self._slots:
                self._slots[slot] = self._node(at)

    def learn(self, ranges: Iterable[Range]) -> bool:
        """Take in a whole map; whether it says anything new."""
        with self._lock:
            slots: list[Node[PoolT] | None] = [None] * SLOTS
            for first, last, at in ranges:
                slots[first : last + 1] = [self._node(at)] * (last + 1 - first)
            is_new, self._slots = slots != self._slots, slots
            now = frozenset(node.at for node in slots if node is not None)
            kept = now | self._before | frozenset(self._seeds)
            gone = [self._nodes.pop(at) for at in list(self._nodes) if at not in kept]
            self._before = now
        for node in gone:
            self._let_go(node.pool)
        return is_new

    def whom_to_ask(self, rng: Random) -> list[At]:
        """Whom to ask for the map, in turn: nodes that serve in any order, then those of the config."""
        known = [node.at for node in self.shards()]
        rng.shuffle(known)
        return list(dict.fromkeys([*known, *self._seeds]))


class Pace:
    """When the map may be asked for again: soon after a change, at most every two seconds while nothing is new.

    Jittered, so that the clients of a cluster that lost a node do not all ask at once.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._pause_s, self._not_before = _PAUSE_FIRST_S, float("-inf")

    def may(self, now: float) -> bool:
        return now >= self._not_before

    def ended(self, now: float, *, is_new: bool) -> None:
        if is_new:
            self._pause_s = _PAUSE_FIRST_S
        self._not_before = now + self._pause_s * self._rng.uniform(0.5, 1.5)
        self._pause_s = min(2 * self._pause_s, _PAUSE_MOST_S)
