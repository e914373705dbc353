"""The process behind `FaultProxy`: passes bytes between clients and one port, or does it badly, and counts.

Run by its path with `CONTROL_FD PORT TARGET_PORT LOG SEED`. It reads lines of JSON `{"mode": ..., "every_s": ...}`
or `{"watch": TEXT}` from the control socket, answers each with a line of counts once the mode is in force, and ends
when the other side closes. The log has a line for each read it carried, known by its marker key: `sent NUMBER
TIME`, and `cut NUMBER TIME` when the connection was ended under it. Standard library only.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from time import monotonic  # noqa: TID251 - a program of its own, without ours
from typing import TextIO

_CHUNK_BYTES = 1 << 16
_LINGER_NOT = struct.pack("ii", 1, 0)
"""SO_LINGER on, for 0 s: closing sends a reset instead of the orderly end."""
_MARKER = re.compile(rb":marker:\{(\d+)\}")
_LONGEST_MARKER = 40
_SLOW_BYTES = 2048
_HEAD_MOST_BYTES = 1 << 16
_CODES = {"500": ("Internal Server Error", "InternalError"), "503": ("Slow Down", "SlowDown")}
_LEAVES_OPEN = ("pass", "trickle", "wrong_bytes", "truncate", "slow")
"""Modes that take effect on what flows; the others end every connection as they begin."""


class Relay:
    """The state all connections share."""

    def __init__(self, port: int, target_port: int, log: TextIO, rng: Random) -> None:
        self.port, self.target_port, self.log, self.rng = port, target_port, log, rng
        self.mode, self.every_s = "pass", 0.005
        self.watched = b""
        self.listener: asyncio.Server | None = None
        self.open: dict[Carried, None] = {}
        self.counts: Counter[str] = Counter()

    async def turn(self, mode: str, every_s: float) -> None:
        """Put a mode in force, for connections that are open too."""
        self.mode, self.every_s = mode, every_s
        if mode not in _LEAVES_OPEN:
            for carried in list(self.open):
                carried.cut()
                self.counts[mode] += 1
        if mode == "gone" and self.listener is not None:
            self.listener.close()
            self.listener = None
        if mode != "gone" and self.listener is None:
            self.listener = await asyncio.start_server(self.serve, "127.0.0.1", self.port, reuse_address=True)

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Carry one client's connection until either side ends it."""
        carried = Carried(self, to_client)
        self.open[carried] = None
        try:
            if self.mode == "reset":
                self.counts["reset"] += 1
            elif self.mode in _CODES:
                await self._refuse(client, to_client)
            else:
                await carried.carry(client)
        except OSError:
            pass
        finally:
            self.open.pop(carried, None)
            carried.cut()

    async def _refuse(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """An HTTP answer that says no, whatever was asked."""
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _HEAD_MOST_BYTES and (piece := await client.read(_CHUNK_BYTES)):
            head += piece
        if not head:
            return
        reason, code = _CODES[self.mode]
        body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>not now</Message></Error>'
        to_client.write(
            f"HTTP/1.1 {self.mode} {reason}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\n\r\n{body}".encode()
        )
        self.counts[self.mode] += 1
        await to_client.drain()
        to_client.close()
        with suppress(OSError):
            await to_client.wait_closed()


class Carried:
    """One client's connection and ours to the server."""

    def __init__(self, relay: Relay, to_client: asyncio.StreamWriter) -> None:
        self._relay, self._to_client = relay, to_client
        self._to_server: asyncio.StreamWriter | None = None
        self._last: bytes | None = None
        self._seen_until = b""
        self._is_mute = self._is_ended = False

    def cut(self) -> None:
        """End both sides now; a read under way is noted as cut."""
        if self._is_ended:
            return
        self._is_ended = True
        if self._last is not None:
            self._relay.log.write(f"cut {self._last.decode()} {monotonic():.6f}\n")
        for writer in filter(None, (self._to_client, self._to_server)):
            connection = writer.get_extra_info("socket")
            if connection is not None and not writer.transport.is_closing():
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            writer.transport.abort()

    async def carry(self, client: asyncio.StreamReader) -> None:
        server, self._to_server = await asyncio.open_connection("127.0.0.1", self._relay.target_port)
        ways = [
            asyncio.ensure_future(self._asking(client, self._to_server)),
            asyncio.ensure_future(self._answering(server)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if ways[0].done():
                self._last = None  # The client left: nothing of its was cut.
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _asking(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await client.read(_CHUNK_BYTES):
                self._note(data)
                to_server.write(data)
                with suppress(OSError):  # What the server does is seen by the other way.
                    await to_server.drain()

    def _note(self, data: bytes) -> None:
        if self._relay.watched:
            self._relay.counts["watched"] += data.count(self._relay.watched)
        tail = self._seen_until
        for found in _MARKER.finditer(tail + data):
            if found.end() > len(tail):
                self._last = found[1]
                self._relay.log.write(f"sent {found[1].decode()} {monotonic():.6f}\n")
        self._seen_until = (tail + data)[-_LONGEST_MARKER:]

    async def _answering(self, server: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while data := await server.read(_CHUNK_BYTES):
                if not await self._answer(data):
                    return

    async def _answer(self, data: bytes) -> bool:
        """Hand a piece of an answer on, as the mode has it; False to end the connection."""
        relay, mode = self._relay, self._relay.mode
        if self._is_mute:
            return True
        if mode == "wrong_bytes" and relay.rng.random() < 0.6:
            data = self._damaged(data)
        elif mode == "truncate" and relay.rng.random() < 0.6:
            relay.counts["truncate"] += 1
            self._to_client.write(data[: relay.rng.randrange(len(data))])
            await self._to_client.drain()
            self._is_mute = relay.rng.random() < 0.5
            return self._is_mute
        elif mode in ("trickle", "slow"):
            return await self._slowly(data, 1 if mode == "trickle" else _SLOW_BYTES)
        self._to_client.write(data)
        await self._to_client.drain()
        return True

    async def _slowly(self, data: bytes, size: int) -> bool:
        relay, mode = self._relay, self._relay.mode
        relay.counts[mode] += 1
        while data and relay.mode == mode:
            await asyncio.sleep(relay.every_s)
            self._to_client.write(data[:size])
            data = data[size:]
            await self._to_client.drain()
        self._to_client.write(data)
        await self._to_client.drain()
        return True

    def _damaged(self, data: bytes) -> bytes:
        rng, changed = self._relay.rng, bytearray(data)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] ^= rng.randint(1, 255)
        self._relay.counts["wrong_bytes"] += 1
        return bytes(changed)


async def main(control_fd: int, port: int, target_port: int, path: str, seed: int) -> None:
    """Serve until the control socket is closed."""
    with Path(path).open("a") as log:  # noqa: ASYNC230 - opened once, before anything is served
        relay = Relay(port, target_port, log, Random(seed))
        orders, answers = await asyncio.open_connection(sock=socket.socket(fileno=control_fd))
        await relay.turn("pass", 0.005)
        answers.write(b"{}\n")
        while line := await orders.readline():
            order = json.loads(line)
            if "mode" in order:
                await relay.turn(order["mode"], order["every_s"])
            relay.watched = order.get("watch", "").encode() or relay.watched
            log.flush()
            answers.write(json.dumps({"counts": relay.counts, "open": len(relay.open)}).encode() + b"\n")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5])))
