"""Connections, within limits: those that say nothing are closed, and when there are too many, the one that is idle longest."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LONGEST_HEAD = 64 * 2**10  # bytes before or after a body, and of the lengths of chunks as far as they are more than what is in the chunks


class Connections:
    """All connections of a server.

    Args:
        most: at once.
        seconds: in which a connection must have said what it wants, and after an answer how long it may stay.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.most, self.seconds = most, seconds
        self.idle: dict[LimitedProtocol, float] = {}  # since when, the longest first
        self.busy: set[LimitedProtocol] = set()

    def protocol(self, *args: Any, **named: Any) -> LimitedProtocol:
        """A new connection, as uvicorn asks for it."""
        return LimitedProtocol(self, *args, **named)

    def make_room(self) -> bool:
        """Close idle connections until there is room for one more; False where all are busy."""
        while len(self.idle) + len(self.busy) >= self.most:
            if not self.idle:
                return False
            self.drop(next(iter(self.idle)))
        return True

    def drop(self, protocol: LimitedProtocol) -> None:
        """Close a connection at once, with what it may still have to send."""
        self.forget(protocol)
        protocol.transport.abort()

    def forget(self, protocol: LimitedProtocol) -> None:
        """Count a connection no longer."""
        self.idle.pop(protocol, None)
        self.busy.discard(protocol)

    async def sweep(self) -> None:
        """Close what has been idle for too long, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, self.seconds / 4))
            late = loop.time() - self.seconds
            for protocol in [one for one, since in self.idle.items() if since < late]:
                self.drop(protocol)


class LimitedProtocol(HttpToolsProtocol):
    """One connection of uvicorn's, which `Connections` may close while no request of it is being answered.

    It is also closed where it sends more than `LONGEST_HEAD` beside its bodies: httptools has no limit of its own.
    """

    def __init__(self, all_of_them: Connections, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.all = all_of_them
        self.spare = LONGEST_HEAD  # bytes that may still come

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own has it
        """Take a connection, or close it where there is no room."""
        super().connection_made(transport)
        if self.all.make_room():
            self.all.idle[self] = self.loop.time()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self.all.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, within the limit."""
        self.spare -= len(data)
        super().data_received(data)
        self.spare = min(self.spare, LONGEST_HEAD)
        if self.spare >= 0 or self.transport.is_closing():
            return
        if self in self.all.idle:
            self.send_400_response(f"expected at most {LONGEST_HEAD:,} bytes before the body")
        else:  # something else is being answered
            self.all.drop(self)

    def on_headers_complete(self) -> None:
        """Note when a request begins."""
        super().on_headers_complete()
        if self in self.all.idle:
            del self.all.idle[self]
            self.all.busy.add(self)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body: it does not count, nor do as many bytes beside it."""
        self.spare += 2 * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Let the next request have its limit."""
        self.spare = LONGEST_HEAD
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note when an answer is given, unless another request of the connection waits for its own."""
        if self in self.all.busy and not self.pipeline:
            self.all.busy.discard(self)
            self.all.idle[self] = self.loop.time()
        super().on_response_complete()
