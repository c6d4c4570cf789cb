"""Who may ask the service: own names only, where no token keeps pages of other sites out."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("starlette", reason="needs the service's packages: pip install -r requirements-serve.txt")

from starlette.responses import PlainTextResponse

from service.access import Access, own_hosts


def status(address: str, host: str | None, method: str = "GET", token: str | None = None) -> int:
    hosts = own_hosts(address) if token is None else None
    sent: list[int] = []

    async def send(message) -> None:
        sent.extend([message["status"]] if "status" in message else [])

    access = Access(PlainTextResponse("seen"), token, lambda reason: None, hosts)
    headers = [(b"host", host.encode()), (b"origin", f"http://{host}".encode())] if host else []
    scope = {"type": "http", "method": method, "path": "/recent", "headers": headers}
    asyncio.run(access(scope, None, send))
    return sent[0]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_name_of_another_site_that_stands_for_this_machine(method: str) -> None:
    """DNS rebinding: the page's own name leads here, and so its Origin is that of the Host."""
    for address, host in (("127.0.0.1", "evil.example:8080"), ("127.0.0.1", "evil.example"), ("::1", "evil.example:8080")):
        assert status(address, host, method) == 403
    for host in ("127.0.0.1:8080", "localhost:8080", "localhost", "[::1]:8080", "127.0.0.2:1", None):  # None: a program without a browser
        assert status("127.0.0.2", host, method) == 200
    assert status("0.0.0.0", "line-3.factory:8080", method) == 200, "on the network, other machines know it by names of their own"
    assert status("127.0.0.1", "evil.example:8080", method, token="secret-enough") == 401
