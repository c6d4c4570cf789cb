"""The live page as a browser shows it: an image is inspected and drawn, nothing of an answer is run, nothing is wider than the window."""

from __future__ import annotations

import base64
import shutil
import subprocess
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

for needed in ("onnx", "onnxruntime", "starlette", "uvicorn", "httptools", "prometheus_client", "python_multipart"):
    pytest.importorskip(needed, reason=f"the service needs {needed}: pip install -r requirements-serve.txt")

import uvicorn  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import Response  # noqa: E402
from starlette.routing import Route  # noqa: E402

from benchmarks.serving.brightness import SIZE, picture, write_onnx  # noqa: E402
from inspection.plan import ClassRule, Plan  # noqa: E402
from service import app  # noqa: E402
from service.exported import read_exported  # noqa: E402
from service.inspector import Inspector, Limits  # noqa: E402
from service.intake import Intake  # noqa: E402
from service.line import Ids, Line  # noqa: E402
from service.metrics import Metrics  # noqa: E402
from service.network import open_network  # noqa: E402
from service.pool import Pool  # noqa: E402

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
HOSTILE = "<img src=x onerror=document.title='run'>"
PROBE = """
(async () => {
  token = "TOKEN";
  const bytes = Uint8Array.from(atob("PICTURE"), (c) => c.charCodeAt(0));
  await inspect(new File([bytes], "part.png", { type: "image/png" }));
  await health();
  const pen = byId("picture").getContext("2d");
  const corner = [...pen.getImageData(Math.round(byId("picture").width * 0.375), byId("picture").height / 2, 1, 1).data];
  await ask("probe", { method: "POST", body: JSON.stringify({
    verdict: byId("verdict").innerText, boxes: byId("boxes").tBodies[0].rows.length, corner, title: document.title,
    recent: [...byId("recent").tBodies[0].rows].map((row) => row.innerText), state: byId("state").textContent,
    wide: document.documentElement.scrollWidth > document.documentElement.clientWidth }) });
})();
"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt install chromium")
@pytest.mark.parametrize("size", ["1400,900", "500,900"])  # headless Chromium has no narrower window
def test_a_picture_on_the_page(tmp_path: Path, monkeypatch, size: str) -> None:
    shutil.copytree(app.PAGE, tmp_path / "page")
    script = tmp_path / "page/page.js"
    sent = base64.b64encode(picture(250, SIZE, SIZE)).decode()
    script.write_text(script.read_text(encoding="utf-8") + PROBE.replace("PICTURE", sent).replace("TOKEN", "secret-enough"), encoding="utf-8")
    monkeypatch.setattr(app, "PAGE", tmp_path / "page")
    network = open_network(read_exported(write_onnx(tmp_path / "best.onnx")), 1)
    line = Line(Inspector(network, Plan(("bright", "dark"), (ClassRule(0.6), ClassRule(0.5))), Limits()), Pool(4, 1, 30), Metrics())
    done: Future = Future()
    line.accept(picture(10), "http", done.set_result, Ids(part_id=HOSTILE))
    done.result(20)
    told, there = {}, threading.Event()

    async def probe(request: Request) -> Response:
        told.update(await request.json())
        there.set()
        return Response()

    application = app.make_app(line, Intake(10**6, 10**7, 20), "secret-enough")
    application.app.routes.append(Route("/probe", probe, methods=["POST"]))
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}", f"--window-size={size}",
               "--enable-logging=stderr", "--remote-debugging-port=0", f"http://127.0.0.1:{port}/"]  # fmt: skip
    with (tmp_path / "said").open("w") as said, subprocess.Popen(command, stdout=said, stderr=said) as browser:
        try:
            assert there.wait(120), (tmp_path / "said").read_text()[-2000:]
        finally:
            browser.terminate()
            server.should_exit = True
            thread.join(20)
            line.close(5)
    console = [text for text in (tmp_path / "said").read_text().splitlines() if "CONSOLE" in text and "401" not in text]
    assert not console and told["verdict"].startswith("NG\nbright 0.9804 >= 0.6") and told["boxes"] == 1 and told["state"] == "ready"
    assert told["corner"][:3] == [0xE6, 0x19, 0x4B], "the box's left side is not where it should be"
    assert len(told["recent"]) == 2 and "NG" in told["recent"][0] and HOSTILE in told["recent"][1]
    assert told["title"] == "Tandem" and not told["wide"]
