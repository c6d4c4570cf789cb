"""What sinks and cameras say of themselves in the log: changes at once, what happens again and again once a minute."""

from __future__ import annotations

import logging
import time

AGAIN = 60.0  # seconds between two lines about the same thing
LOG = logging.getLogger("tandem.service")


class Teller:
    """The lines of one sink or camera.

    Args:
        name: which one it is, as people know it; without passwords.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.said: dict[str, float] = {}

    def change(self, text: str) -> None:
        """Say something that is different from now on."""
        LOG.warning("%s: %s", self.name, text)

    def repeated(self, kind: str, text: str) -> None:
        """Say something that may happen often, unless the same `kind` was said within a minute; `text` holds the total."""
        now = time.monotonic()
        if now - self.said.get(kind, -AGAIN) >= AGAIN:
            self.said[kind] = now
            LOG.warning("%s: %s", self.name, text)
