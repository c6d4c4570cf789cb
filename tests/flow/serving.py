"""A service in a process of its own, in which PyTorch and ultralytics cannot be imported, and requests to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = ("torch", "torchvision", "ultralytics", "models", "distill", "scipy", "matplotlib")
START = f"""
import runpy, sys
for name in {BLOCKED}:
    sys.modules[name] = None  # an import of it fails
sys.argv = ["serve.py", *sys.argv[1:]]
sys.path.insert(0, {str(ROOT)!r})
runpy.run_path({str(ROOT / "serve.py")!r}, run_name="__main__")
"""


class Service:
    """`serve.py` on a free port. Attributes: `port`, `process`, and what it printed, `out` and `err`."""

    def __init__(self, *arguments: Any) -> None:
        command = [sys.executable, "-c", START, *map(str, arguments), "--port", "0", "--threads", "1"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
                                        env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
        self.err: list[str] = []
        self._reader = threading.Thread(target=lambda: self.err.extend(self.process.stderr), daemon=True)
        self._reader.start()
        self.out = [self.process.stdout.readline(), self.process.stdout.readline()]
        assert "http://" in self.out[1], f"it did not start: {self.out} {self.stop()} {self.err}"
        self.port = int(self.out[1].split("/")[2].rpartition(":")[2])

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 60) -> tuple[int, Any, Any]:
        """Status, content (JSON where it is some) and headers of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
            json_inside = answer.headers.get("content-type", "").startswith("application/json")
            return answer.status, json.loads(content) if json_inside else content, answer.headers
        finally:
            connection.close()

    def inspect(self, data: bytes, query: str = "", **headers: str) -> dict[str, Any]:
        """The answer to a picture."""
        status, content, _ = self.ask("POST", f"/inspect{query}", data, headers)
        assert status == 200, content
        return content

    def stop(self, number: int = signal.SIGTERM, timeout: float = 30) -> int:
        """End it by a signal; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        finally:
            self.process.kill()
            self._reader.join(timeout)
            self.process.stdout.close()
            self.process.stderr.close()
