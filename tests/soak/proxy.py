"""A small HTTP proxy in front of the S3 server that simulates a bad network: slow, cut, 503, SlowDown, down.

It forwards requests one by one with unchanged headers, so that signatures stay valid. One thread,
one event loop.
"""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import dataclass, field
from typing import Literal

Mood = Literal["well", "slow", "cut", "503", "SlowDown", "down"]

_CHUNK = 64 * 1024
_SLOW_CHUNK = 2 * 1024
_SLOW_PAUSE_S = 0.1  # with the chunk: 20 KB/s
_CODES = {"503": "ServiceUnavailable", "SlowDown": "SlowDown"}


@dataclass(slots=True)
class _Message:
    """The head of a request or response, and the length of its body in bytes (None: chunked, or until the end)."""

    head: bytes
    length: int | None
    is_chunked: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class Proxy:
    """Listens on `port` of the loopback interface and forwards to the port `upstream`.

    `mood` may be changed at any time; `hits` counts the requests that a mood other than "well" has
    affected.
    """

    def __init__(self, upstream: int, *, seed: int) -> None:
        self.mood: Mood = "well"
        self.hits = 0
        self.port = 0
        self._upstream = upstream
        self._draw = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        self._ready.wait(10)

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop listening and close all connections."""
        asyncio.run_coroutine_threadsafe(self._break_off(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _break_off(self) -> None:
        assert self._server is not None
        self._server.close()
        serving = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda loop, context: None)  # broken connections are expected here
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20))
        self.port = self._server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while (request := await _read_head(reader)) is not None:
                mood = self.mood
                self.hits += mood != "well"
                if mood == "down":
                    break  # every connection is cut before the request reaches the server
                if mood in _CODES:
                    await self._refuse(reader, writer, request, _CODES[mood])
                    continue
                if upstream is None:
                    upstream = await asyncio.open_connection("127.0.0.1", self._upstream, limit=2**20)
                if not await self._pass(request, (reader, writer), upstream, mood):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass
        finally:
            for broken in (writer, upstream[1] if upstream else None):
                if broken is not None:
                    broken.transport.abort()

    async def _refuse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: _Message, code: str
    ) -> None:
        if request.headers.get("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await reader.readexactly(request.length or 0)
        message = "Please reduce your request rate."
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        is_head = request.head.startswith(b"HEAD ")
        writer.write(
            f"HTTP/1.1 503 {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + (b"" if is_head else body.encode())
        )
        await writer.drain()

    async def _pass(
        self,
        request: _Message,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        mood: Mood,
    ) -> bool:
        """Forward one request and its response.

        Returns False when the connection must be closed.
        """
        where = self._draw.choice(("request", "answer", "before")) if mood == "cut" else ""
        if where == "before":
            return False
        if request.headers.get("expect"):
            client[1].write(b"HTTP/1.1 100 Continue\r\n\r\n")
        upstream[1].write(_without_expect(request.head))
        if not await _copy(client[0], upstream[1], request, slow=mood == "slow", half=where == "request"):
            return False
        if mood == "slow":
            await asyncio.sleep(self._draw.uniform(0.1, 1.0))
        answer = await _read_head(upstream[0])
        if answer is None:
            return False
        status = int(answer.head.split(b" ", 2)[1])
        if request.head.startswith(b"HEAD ") or status in (204, 304):
            answer.length, answer.is_chunked = 0, False
        client[1].write(answer.head)
        return await _copy(upstream[0], client[1], answer, slow=mood == "slow", half=where == "answer")


async def _read_head(reader: asyncio.StreamReader) -> _Message | None:
    """Read the next head on a connection; None when the other side has closed it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head.decode("latin-1").split("\r\n")[1:]
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name
    }
    is_chunked = "chunked" in headers.get("transfer-encoding", "")
    length = None if is_chunked else int(headers.get("content-length", 0))
    return _Message(head, length, is_chunked, headers)


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: _Message, *, slow: bool, half: bool
) -> bool:
    """Copy the body of a message. With `half`, copy only half of it and return False."""
    if message.is_chunked:
        return await _copy_chunks(reader, writer, half=half)
    left = message.length or 0
    stop_at = left // 2 if half else 0
    while left > stop_at:
        data = await reader.read(min(left, _SLOW_CHUNK if slow else _CHUNK))
        if not data:
            return False
        writer.write(data)
        await writer.drain()
        left -= len(data)
        if slow:
            await asyncio.sleep(_SLOW_PAUSE_S)
    await writer.drain()
    return not half


async def _copy_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, half: bool) -> bool:
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        data = await reader.readexactly(size + 2)
        writer.write(line + (data[: size // 2] if half else data))
        await writer.drain()
        if half or size == 0:
            return not half


def _without_expect(head: bytes) -> bytes:
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(b"expect:"))
