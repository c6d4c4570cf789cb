"""A service in a process of its own, and requests to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START = """
import runpy, sys
for name in {blocked!r}:
    sys.modules[name] = None  # an import of it fails
sys.argv = ["serve.py", *sys.argv[1:]]
sys.path.insert(0, {root!r})
runpy.run_path({script!r}, run_name="__main__")
"""


class Service:
    """`serve.py` on a free port.

    Args:
        arguments: of its command line, but for the port.
        blocked: packages that cannot be imported in it.

    Attributes:
        port, process: where it is.
        out, err: the lines that it printed, the first two of them and all.
        seconds: from its start to its greeting.
    """

    def __init__(self, *arguments: Any, blocked: tuple[str, ...] = ()) -> None:
        code = START.format(blocked=blocked, root=str(ROOT), script=str(ROOT / "serve.py"))
        command = [sys.executable, "-c", code, *map(str, arguments), "--port", "0"]
        began = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=dict(os.environ))
        self.err: list[str] = []
        self._reader = threading.Thread(target=lambda: self.err.extend(self.process.stderr), daemon=True)
        self._reader.start()
        self.out = [self.process.stdout.readline(), self.process.stdout.readline()]
        self.seconds = time.perf_counter() - began
        if "http://" not in self.out[1]:
            self.stop(signal.SIGKILL)
            raise RuntimeError(f"the service did not start: {self.out} {''.join(self.err)}")
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
        """The answer to an image. Raises RuntimeError where it is not accepted."""
        status, content, _ = self.ask("POST", f"/inspect{query}", data, headers)
        if status != 200:
            raise RuntimeError(f"{status} {content}")
        return content

    def memory(self) -> float:
        """Resident memory in MiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))

    def processor_seconds(self) -> float:
        """Processor time that the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

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
