"""The whole line: files into a watched folder, verdicts out to a web server and a PLC, through a kill and a restart."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

for needed in ("onnx", "onnxruntime", "starlette", "uvicorn", "httptools", "prometheus_client", "python_multipart", "httpx", "pymodbus"):
    pytest.importorskip(needed, reason=f"the whole line needs {needed}: pip install -r requirements-serve.txt -r requirements-sinks.txt")

sys.path.insert(0, str(Path(__file__).parent))
from line_servers import Plc, WebServer, closing, until  # noqa: E402
from serving import Service  # noqa: E402

from benchmarks.serving.brightness import SIZE, picture, write_onnx  # noqa: E402
from inspection.embedded import embed  # noqa: E402
from inspection.identity import identify  # noqa: E402
from inspection.plan import ClassRule, Plan  # noqa: E402


def test_from_a_folder_to_a_web_server_and_a_plc_through_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home := tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    weights = write_onnx(tmp_path / "best.onnx", work=2)
    embed(weights, Plan(("bright", "dark"), (ClassRule(0.6), ClassRule(0.5)), model=identify(weights, imgsz=SIZE)))
    (tmp_path / "in").mkdir()
    web, plc = WebServer(503), Plc()
    out = ("--webhook", web.url, "--modbus", f"127.0.0.1:{plc.port}")
    command = ("--weights", weights, "--source", tmp_path / "in", *out, "--journal", tmp_path / "kept")
    with closing(web, plc):
        service = Service(*command)
        for number in range(6):
            (tmp_path / f"in/{number}.png").write_bytes(picture(250 if number % 2 else 10))
        until(lambda: len(web.bodies) >= 2, "the first results")
        service.stop(signal.SIGKILL)
        (tmp_path / "in/6.png").write_bytes(b"no picture, which is not OK either")
        with (tmp_path / "in/7.png").open("wb") as file:
            file.truncate(2**30 + 1)
        service = Service(*command)
        until(lambda: len({body["Source"] for body in web.bodies}) == 8, "a result for each file")
        told = {body["Source"]: body["Verdict"] for body in web.bodies}
        status, content, _ = service.ask("GET", "/v2/health/ready")
        assert status == 200 and all(content["parts"].values()) and len(content["parts"]) == 5, content
        assert "tandem_camera_up" in service.ask("GET", "/metrics")[1].decode()
        time.sleep(0.3)  # nothing comes a second time
        assert service.stop() == 0 and "Traceback" not in "".join(service.err)
    assert not list(home.rglob("*")), "a library keeps something in the user's home, as ONNX Runtime does for its reports"
    ids = [body["MeasId"] for body in web.bodies]
    assert len(set(ids)) == 8, "a file was looked at twice"
    for name, verdict in told.items():
        number = int(Path(name).stem)
        assert verdict in (("UNDEFINED",) if number >= 6 else ("NG" if number % 2 else "OK", "UNDEFINED")), name
    assert list(told.values()).count("UNDEFINED") <= 3  # the last two, and the one that was being looked at
    rules = {body["Source"]: body["Rule"] for body in web.bodies}
    assert rules["in/7.png"] == "expected a file of at most 1,073,741,824 bytes, got 1,073,741,825"
    assert plc.written and plc.registers[1] == 0  # the last one was no image
