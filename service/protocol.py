"""Routes of the Open Inference Protocol v2 (KServe, Triton): health, metadata, and the network itself for clients of their own."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cfg.version import VERSION
from service.access import refusal
from service.intake import Intake, Refused
from service.line import Line
from service.pool import Full
from service.tensors import BINARY, answer, configuration, describe, parse_request

JSON_LENGTH = "Inference-Header-Content-Length"


class Protocol:
    """The routes of one line."""

    def __init__(self, line: Line, intake: Intake) -> None:
        self.line, self.intake = line, intake
        self.network, self.name = line.inspector.network, line.inspector.exported.name

    def routes(self) -> list[Route]:
        """All routes; a model's also with its version, which is 1."""
        model = [("", self.model, "GET"), ("/ready", self.model_ready, "GET"), ("/config", self.config, "GET"), ("/infer", self.infer, "POST")]
        versions = ("/v2/models/{model}", "/v2/models/{model}/versions/1")
        return [
            Route("/v2", self.server),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            *[Route(place + end, endpoint, methods=[method]) for place in versions for end, endpoint, method in model],
        ]

    async def server(self, request: Request) -> JSONResponse:
        """What the server is."""
        return JSONResponse({"name": "tandem", "version": VERSION, "extensions": [BINARY, "model_configuration"], "model": self.name})

    async def live(self, request: Request) -> JSONResponse:
        """Whether the service works; 503: it hangs and should be started anew."""
        return JSONResponse({"live": self.line.pool.alive, "heartbeat": self.line.pool.beat}, 200 if self.line.pool.alive else 503)

    async def ready(self, request: Request) -> JSONResponse:
        """Whether images can be decided about, and how each part does; sinks and cameras that are gone are named, and keep nothing up."""
        parts = self.line.ready
        ready = all(works for name, works in parts.items() if not name.startswith(("sink ", "camera ")))
        return JSONResponse({"ready": ready, "parts": parts}, 200 if ready else 503)

    async def model(self, request: Request) -> JSONResponse:
        """What the model takes and gives."""
        if not self._known(request):
            return self._unknown(request)
        ports = {"inputs": [describe(port) for port in self.network.inputs], "outputs": [describe(port) for port in self.network.outputs]}
        return JSONResponse({"name": self.name, "versions": ["1"], "platform": self.network.runtime, **ports})

    async def model_ready(self, request: Request) -> JSONResponse:
        """Whether the model can be asked."""
        return await self.ready(request) if self._known(request) else self._unknown(request)

    async def config(self, request: Request) -> JSONResponse:
        """The model's configuration, as Triton tells it."""
        return JSONResponse(configuration(self.network, self.name)) if self._known(request) else self._unknown(request)

    async def infer(self, request: Request) -> Response:
        """Run the network on tensors: nothing is decided, and no journal or sink hears of it."""
        if not self._known(request):
            return self._unknown(request)
        try:
            async with self.intake.body(request) as body:
                content, feeds = await asyncio.to_thread(parse_request, body, request.headers.get(JSON_LENGTH), self.network)
                outputs = await asyncio.wrap_future(self.line.pool.submit(lambda: self.line.inspector.infer(feeds)))
                data, length = await asyncio.to_thread(answer, content, outputs, self.network, self.name)
        except Refused as error:
            return refusal(error.status, error.reason)
        except Full:
            return refusal(503, "the queue is full")
        except Exception as error:
            return refusal(500, f"fault: {type(error).__name__}: {error}"[:300])
        if length is None:
            return Response(data, media_type="application/json")
        return Response(data, media_type="application/octet-stream", headers={JSON_LENGTH: str(length)})

    def _known(self, request: Request) -> bool:
        return bool(request.path_params["model"] == self.name)

    def _unknown(self, request: Request) -> JSONResponse:
        return refusal(404, f"expected the model {self.name}, got {request.path_params['model'][:60]}")
