"""Results to a web server: each as one JSON POST, with httpx."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from urllib.parse import quote

import httpx

from service.sinks.delivery import Refused, Unavailable
from service.sinks.options import WebhookOptions

TIMEOUT = 10.0  # seconds for the connection, and for each part of an answer
LONGEST = 30.0  # seconds for a whole answer
LONGEST_PAUSE = 300.0  # seconds that a server may ask us to wait
MOST_READ = 64 * 1024  # bytes of an answer; it is read only so that the connection can be used again
ERRNO = re.compile(r"^\[Errno -?\d+\] ")  # before the reason of a connection that failed
AGAIN = frozenset({408, 425, 429})  # of 4xx, those that say "later"


class WebhookTransport:
    """POSTs one result after the other. `MeasId` and `Idempotency-Key` name it in the header: a server that sees one twice
    has it already.
    """

    batch = 1

    def __init__(self, options: WebhookOptions) -> None:
        self.options = options
        header = {"User-Agent": "tandem", "Content-Type": "application/json"}
        if options.token:
            header["Authorization"] = f"Bearer {options.token}"
        self._client = httpx.Client(headers=header, timeout=TIMEOUT, follow_redirects=False)
        self._known = False

    def check(self) -> None:
        """Ask the server for any answer, where nothing is known of it. Raises `Unavailable`."""
        if not self._known:
            self._ask("HEAD", {}, b"")
            self._known = True

    def deliver(self, bodies: Sequence[bytes]) -> Iterator[None]:
        """POST results; yield for each answered 2xx."""
        for body in bodies:
            name = quote(str(json.loads(body)["MeasId"]), safe=":._-")
            self._known = False
            status, pause = self._ask("POST", {"MeasId": name, "Idempotency-Key": name}, body)
            if status >= 500 or status in AGAIN:
                raise Unavailable(f"answers {_words(status)}", pause)
            self._known = True
            if status >= 300:
                moved = "; give the address that it leads to" if status < 400 else ""
                raise Refused(f"answers {_words(status)}{moved}")
            yield

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _ask(self, method: str, header: dict[str, str], body: bytes) -> tuple[int, float]:
        """Return the status, and the seconds that the server asks to wait."""
        deadline, read = time.monotonic() + LONGEST, 0
        try:
            with self._client.stream(method, self.options.url, headers=header, content=body) as answer:
                for part in answer.iter_raw():
                    read += len(part)
                    if read > MOST_READ or time.monotonic() > deadline:
                        break
                return answer.status_code, _pause(answer.headers.get("Retry-After", ""))
        except httpx.TimeoutException:
            raise Unavailable(f"no answer in {TIMEOUT:g} s") from None
        except httpx.HTTPError as error:
            reason = ERRNO.sub("", str(error)).lower() or type(error).__name__
            raise Unavailable(f"no connection ({reason})") from None


def _pause(text: str) -> float:
    return min(LONGEST_PAUSE, float(text)) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0


def _words(status: int) -> str:
    return f"{status} {httpx.codes.get_reason_phrase(status)}".strip()
