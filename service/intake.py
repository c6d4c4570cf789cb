"""Bodies of requests, read within limits of size, time and memory, so that no client takes what the others need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from anyio import CancelScope, move_on_after
from starlette.requests import ClientDisconnect, Request


class Refused(Exception):
    """A request that is not served: its HTTP status, and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(eq=False)
class _Upload:
    """A body on its way: what ends its reading, and how many bytes have come."""

    scope: CancelScope
    held: int = 0
    complete: bool = False
    gave_way: bool = False


class Intake:
    """Reads bodies.

    Args:
        most: bytes of one body.
        budget: bytes of all bodies together. Where they would be more, the largest of those still on their way is refused:
            a client that fills the memory loses, not the next one with a usual image.
        seconds: in which a body must have come.
    """

    def __init__(self, most: int, budget: int, seconds: float) -> None:
        self.most, self.budget, self.seconds = most, max(budget, most), seconds
        self._uploads: dict[_Upload, None] = {}

    @property
    def held(self) -> int:
        """Bytes of all bodies at present."""
        return sum(upload.held for upload in self._uploads)

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request; it counts as held until the block is left.

        Raises:
            Refused: too large (413), too slow (408), broken off (400), or no memory for it (503).
        """
        self._check_declared(request)
        upload = _Upload(move_on_after(self.seconds))
        self._uploads[upload] = None
        try:
            with upload.scope:
                body = await self._read(upload, request)
            if upload.gave_way:
                raise Refused(503, "no memory for more bodies")
            if not upload.complete:
                raise Refused(408, f"the body did not come within {self.seconds:g} s")
            yield body
        finally:
            del self._uploads[upload]

    async def _read(self, upload: _Upload, request: Request) -> bytes:
        chunks: list[bytes] = []
        try:
            async for chunk in request.stream():
                chunks.append(chunk)
                upload.held += len(chunk)
                if upload.held > self.most:
                    raise Refused(413, f"expected a body of at most {self.most:,} bytes")
                self._make_room(upload)
        except ClientDisconnect:
            raise Refused(400, "the body broke off") from None
        upload.complete = True
        return b"".join(chunks)

    def _make_room(self, upload: _Upload) -> None:
        while self.held > self.budget:
            largest = max((one for one in self._uploads if not one.complete), key=lambda one: one.held)
            if largest is upload:
                raise Refused(503, "no memory for more bodies")
            largest.held, largest.gave_way = 0, True
            largest.scope.cancel()

    def _check_declared(self, request: Request) -> None:
        declared = request.headers.get("content-length", "0")
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refused(415, "expected a body without content encoding")
        if declared.isdecimal() and int(declared[:20]) > self.most:
            raise Refused(413, f"expected a body of at most {self.most:,} bytes, got one of {declared[:20]}")
