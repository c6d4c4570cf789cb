"""The service's HTTP application: images in, verdicts out; figures, the live page, and the source."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import Access, own_hosts, refusal
from service.events import Inspected
from service.intake import Intake, Refused
from service.line import Busy, Duplicate, Ids, Line
from service.protocol import Protocol
from service.source import source_archive

PAGE = Path(__file__).resolve().parent / "page"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache",
}  # fmt: skip
NAMES = {"meas_id": "MeasId", "part_id": "PartId", "recipe_id": "RecipeId", "product_id": "ProductId"}
LONGEST = 200  # characters of an id
FIELDS = 16  # of a form


def make_app(line: Line, intake: Intake, token: str | None, address: str = "") -> ASGIApp:
    """The application of a line.

    Args:
        line: decides.
        intake: reads bodies.
        token: what a client must know, None for nothing.
        address: that the service listens on.
    """
    pages = Pages(line, intake)
    routes = [
        Route("/inspect", pages.inspect, methods=["POST"]),
        Route("/inspect", _no_image, methods=["GET", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        Route("/recent", pages.recent),
        Route("/metrics", pages.metrics),
        Route("/source", pages.source),
        Route("/", pages.file),
        Route("/page.js", pages.file),
        Route("/page.css", pages.file),
        *Protocol(line, intake).routes(),
    ]
    hosts = own_hosts(address) if address and token is None else None
    return Access(Router(routes, default=_nowhere), token, lambda reason: line.metrics.refused.labels(reason).inc(), hosts)


async def _no_image(request: Request) -> JSONResponse:
    return refusal(405, f"expected an image by POST, got {request.method}", {"Allow": "POST"})


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    await refusal(404, "no such address; images go to /inspect by POST")(scope, receive, send)


class Pages:
    """The routes beside the inference protocol."""

    def __init__(self, line: Line, intake: Intake) -> None:
        self.line, self.intake = line, intake

    async def inspect(self, request: Request) -> JSONResponse:
        """Decide about the image in the body, or in a form's first file."""
        if self.line.pool.full:  # without its body: uvicorn lets that pass
            return self._refuse(503, "the queue is full")
        try:
            async with self.intake.body(request) as body:
                picture, fields = await _picture(request.headers, body)
                answer = asyncio.get_running_loop().create_future()
                self.line.accept(picture, "http", _to_the_loop(answer), _ids(request, fields))
                event = await answer
        except Refused as error:
            return self._refuse(error.status, error.reason)
        except Busy as error:
            return self._refuse(503, str(error))
        except Duplicate:
            return self._refuse(409, "an image of this MeasId is being looked at")
        return JSONResponse(event.as_json())

    async def recent(self, request: Request) -> JSONResponse:
        """The last outcomes, the newest first, without boxes."""
        return JSONResponse(list(self.line.recent)[::-1])

    async def metrics(self, request: Request) -> Response:
        """Figures for Prometheus."""
        return Response(self.line.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def file(self, request: Request) -> FileResponse:
        """The live page, or a part of it."""
        return FileResponse(PAGE / (request.url.path[1:] or "index.html"), headers=PAGE_HEADERS)

    async def source(self, request: Request) -> Response:
        """The source of the program that answers, as AGPL section 13 asks for."""
        data = await asyncio.to_thread(source_archive)
        return Response(data, media_type="application/gzip", headers={"Content-Disposition": 'attachment; filename="tandem-source.tar.gz"'})

    def _refuse(self, status: int, reason: str) -> JSONResponse:
        self.line.metrics.refused.labels(str(status)).inc()
        return refusal(status, reason)


def _to_the_loop(answer: asyncio.Future[Inspected]) -> Callable[[Inspected], None]:
    """What a worker's thread calls with an outcome, for which a request waits in the event loop's."""
    loop = answer.get_loop()

    def arrive(event: Inspected) -> None:
        if not answer.done():  # else the service ends, and its requests were cancelled
            answer.set_result(event)

    def tell(event: Inspected) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(arrive, event)

    return tell


class _Parser(MultiPartParser):
    spool_max_size = 2**62  # the body is in memory and within its limit; nothing of it goes to the disk


async def _picture(headers: Headers, body: bytes) -> tuple[bytes, dict[str, str]]:
    """The image in a body, and the fields of a form. The names of files are not looked at."""
    if not headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return body, {}

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await _Parser(headers, chunks(), max_files=1, max_fields=FIELDS, max_part_size=4096).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise Refused(400, f"expected a form with one file and ids ({str(error)[:100]})") from None
    files = [value for value in form.values() if isinstance(value, UploadFile)]
    if not files:
        raise Refused(400, "expected a form with a file in it, got none")
    buffer = files[0].file
    data = buffer.read() if not isinstance(buffer, io.BytesIO) else buffer.getvalue()
    return data, {key: value for key, value in form.items() if isinstance(value, str)}


def _ids(request: Request, fields: dict[str, str]) -> Ids:
    """What the sender says of the image: in the form, else the query, else headers."""
    found = {}
    query = request.query_params if request.scope["query_string"] else {}
    headers = {name: value.decode("latin-1") for name, value in request.headers.raw}
    for name, key in NAMES.items():
        value = fields.get(key) or query.get(key) or headers.get(key.lower().encode(), "")
        if len(value) > LONGEST or not (value.isprintable() or not value):
            raise Refused(400, f"{key}: expected at most {LONGEST} printable characters")
        found[name] = value
    return Ids(**found)
