"""Connections, within limits: those that say nothing are closed, and when there are too many, the one that is idle longest."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


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


class LimitedProtocol(H11Protocol):
    """One connection of uvicorn's, which `Connections` may close while no request of it is being answered."""

    def __init__(self, all_of_them: Connections, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.all = all_of_them

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

    def handle_events(self) -> None:
        """Note when a request begins."""
        super().handle_events()
        if self in self.all.idle and self.cycle is not None and not self.cycle.response_complete:
            del self.all.idle[self]
            self.all.busy.add(self)

    def on_response_complete(self) -> None:
        """Note when an answer is given."""
        if self in self.all.busy:
            self.all.busy.discard(self)
            self.all.idle[self] = self.loop.time()
        super().on_response_complete()
