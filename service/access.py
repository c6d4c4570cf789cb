"""Who may ask: a bearer token, compared in constant time, and no pages of other sites."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = frozenset({"/", "/page.js", "/page.css", "/source", "/v2/health/live", "/v2/health/ready"})  # tell nothing of any image


class Access:
    """Lets requests through to an application.

    Args:
        app: the application.
        token: what ``Authorization: Bearer`` must say, but for `OPEN_PATHS`; None: nothing.
        refused: called with the reason of each refusal.
        hosts: names by which the service may be called, None for any. Without a token, a page of another site could have its own name
            stand for this machine (DNS rebinding), and would then be of the service's own site.
    """

    def __init__(self, app: ASGIApp, token: str | None, refused: Callable[[str], None], hosts: frozenset[str] | None = None) -> None:
        self.app, self.refused, self.hosts = app, refused, hosts
        self.expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401 or 403 before its body is read."""
        answer = self._refusal(scope) if scope["type"] == "http" else None
        await (answer or self.app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        name = _without_port(headers.get("host", ""))
        if name and self.hosts is not None and name not in self.hosts:  # browsers always say a name
            self.refused("host")
            return refusal(403, f"expected a request to {', '.join(sorted(self.hosts))}, got one to '{name}'; start the service with --token-file")
        # A browser says which site a page is of: without this, any page that is open beside the service could send it images.
        origin = headers.get("origin")
        if origin is not None and scope["method"] != "GET" and origin.partition("://")[2] != headers.get("host"):
            self.refused("origin")
            return refusal(403, "expected a request of the service's own page, got one of another site")
        if self.expected is None or scope["path"] in OPEN_PATHS:
            return None
        if hmac.compare_digest(headers.get("authorization", "").encode(), self.expected):
            return None
        self.refused("token")
        return refusal(401, "expected the service's token as 'Authorization: Bearer TOKEN'", {"WWW-Authenticate": "Bearer"})


def own_hosts(address: str) -> frozenset[str] | None:
    """The names of an address that only programs of this machine can reach; None for any other address."""
    if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return None
    return frozenset({"localhost", "127.0.0.1", "[::1]", f"[{address}]" if ":" in address else address})


def _without_port(host: str) -> str:
    return host if host.endswith("]") else host.rpartition(":")[0] or host


def refusal(status: int, reason: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer to a request that is not served. It carries the verdict UNDEFINED: a client that looks for a verdict finds no OK."""
    if status == 503:
        headers = {"Retry-After": "1"} | (headers or {})
    return JSONResponse({"error": reason, "Verdict": "UNDEFINED", "ResultEvaluation": 0, "Rule": reason}, status, headers)
