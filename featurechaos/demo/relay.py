"""The process behind `TrickleProxy`: passes bytes between clients and one port, or does it badly.

Run by its path with `CONTROL_FD PORT TARGET_PORT`. It reads lines `MODE EVERY_S` from the control
socket, answers each with one byte once it is in force, and ends when the other side closes it.
Standard library only, so that it starts in a moment and from anywhere.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys

_CHUNK_BYTES = 1 << 16
_LINGER_NOT = struct.pack("ii", 1, 0)
"""SO_LINGER on, for 0 s: closing sends a reset instead of the orderly end."""


class Relay:
    """The state all connections share: the mode in force, and an event that fires when it changes."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.mode, self.every_s = "pass", 0.005
        self.changed = asyncio.Event()
        self.open: set[asyncio.StreamWriter] = set()

    def turn(self, mode: str, every_s: float) -> None:
        """Put a mode in force, for connections that are open too."""
        self.mode, self.every_s = mode, every_s
        self.changed.set()
        self.changed = asyncio.Event()
        if mode == "reset":
            for writer in self.open:
                _reset(writer)

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Carry one client's connection until either side ends it."""
        self.open.add(to_client)
        to_server = None
        try:
            await self._flowing()
            if self.mode == "reset":
                _reset(to_client)
                return
            server, to_server = await asyncio.open_connection("127.0.0.1", self.target_port)
            self.open.add(to_server)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(client, to_server, is_reply=False))
                group.create_task(self._pump(server, to_client, is_reply=True))
        except* OSError:
            # One side is gone, or was never there: so is the other.
            _reset(to_client)
        finally:
            for writer in filter(None, (to_client, to_server)):
                self.open.discard(writer)
                writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_reply: bool) -> None:
        while data := await source.read(_CHUNK_BYTES):
            while data:
                await self._flowing()
                piece = data[:1] if is_reply and self.mode == "trickle" else data
                data = data[len(piece) :]
                sink.write(piece)
                await sink.drain()
                if data:
                    await self._changed_within(self.every_s)
        await self._flowing()
        if sink.can_write_eof():
            sink.write_eof()

    async def _flowing(self) -> None:
        while self.mode == "hang":
            await self.changed.wait()

    async def _changed_within(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self.changed.wait()
        except TimeoutError:
            pass


def _reset(writer: asyncio.StreamWriter) -> None:
    if (connection := writer.get_extra_info("socket")) is not None and not writer.transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()


async def main(control_fd: int, port: int, target_port: int) -> None:
    """Serve until the control socket is closed."""
    relay = Relay(target_port)
    listener = await asyncio.start_server(relay.serve, "127.0.0.1", port, reuse_address=True)
    orders, answers = await asyncio.open_connection(sock=socket.socket(fileno=control_fd))
    answers.write(b".")
    while line := await orders.readline():
        mode, every_s = line.split()
        relay.turn(mode.decode(), float(every_s))
        answers.write(b".")
    listener.close()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
