"""serve.py as a line uses it, in a process without PyTorch: verdicts, ids, the inference protocol, figures, its start and its end."""

from __future__ import annotations

import io
import json
import shutil
import signal
import socket
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

for needed in ("onnx", "onnxruntime", "starlette", "uvicorn", "httptools", "prometheus_client", "python_multipart"):
    pytest.importorskip(needed, reason=f"the service needs {needed}: pip install -r requirements-serve.txt")

sys.path.insert(0, str(Path(__file__).parent))
from serving import Service  # noqa: E402

import serve  # noqa: E402
from benchmarks.serving.brightness import SIZE, picture, write_onnx  # noqa: E402
from cfg.errors import guard  # noqa: E402
from inspection.embedded import embed  # noqa: E402
from inspection.identity import identify  # noqa: E402
from inspection.plan import ClassRule, ModelFile, Plan  # noqa: E402
from inspection.plan_file import save_plan  # noqa: E402

RULES = (ClassRule(0.6, review=0.4), ClassRule(0.5))
DARK, GREY, BRIGHT = 20, 128, 250


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service")
    weights = write_onnx(folder / "best.onnx")
    embed(weights, Plan(("bright", "dark"), RULES, model=identify(weights, imgsz=SIZE)))
    return folder


@pytest.fixture(scope="module")
def service(place: Path):
    running = Service("--weights", place / "best.onnx", "--max-pixels", 4_000_000)
    yield running
    running.stop()


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/inspect", 405), ("DELETE", "/inspect", 405), ("POST", "/inspekt", 404), ("GET", "/nowhere", 404)]
)
def test_a_wrong_address_or_method_is_never_taken_for_a_pass(service, method, path, status):
    code, told, *_ = service.ask(method, path)
    assert code == status and told["Verdict"] == "UNDEFINED" and told["ResultEvaluation"] == 0 and "POST" in told["error"]


def test_every_verdict_with_its_boxes(service):
    expected = {DARK: ("OK", 1, 0), GREY: ("REVIEW", 3, 1), BRIGHT: ("NG", 2, 1)}
    for grey, (verdict, number, boxes) in expected.items():
        told = service.inspect(picture(grey, SIZE, SIZE))
        assert (told["Verdict"], told["ResultEvaluation"], len(told["Boxes"])) == (verdict, number, boxes)
        assert (told["Width"], told["Height"], told["Source"]) == (SIZE, SIZE, "http") and told["LatencyMs"] > 0
    assert told["Boxes"] == [{"Class": "bright", "ClassIndex": 0, "Score": pytest.approx(250 / 255, abs=1e-4), "Box": [24, 24, 40, 40]}]
    assert told["Rule"] == "bright 0.9804 >= 0.6" and told["Score"] == told["Boxes"][0]["Score"]


def test_ids_from_query_headers_and_form(service):
    told = service.inspect(picture(DARK), "?PartId=p%C3%A4rt&MeasId=m1", RecipeId="r1", ProductId="x")
    assert [told[key] for key in ("MeasId", "PartId", "RecipeId", "ProductId")] == ["m1", "pärt", "r1", "x"]
    form = {"PartId": b"4711", 'file"; filename="../../../etc/passwd': picture(BRIGHT), "RecipeId": b"r2"}
    body = b"".join(b'--=b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (key.encode(), value) for key, value in form.items())
    told = service.inspect(body + b"--=b--\r\n", **{"Content-Type": "multipart/form-data; boundary==b"})
    assert (told["Verdict"], told["PartId"], told["RecipeId"]) == ("NG", "4711", "r2") and len(told["MeasId"]) == 32
    for bad in ("a%0Ab", "x" * 201):
        status, content, _ = service.ask("POST", f"/inspect?PartId={bad}", picture(DARK))
        assert status == 400 and content["Verdict"] == "UNDEFINED" and "printable" in content["error"]


@pytest.mark.parametrize("body", [b"", b"--=b\r\n", b"--=b\r\nContent-Disposition: form-data; name=\"PartId\"\r\n\r\nx\r\n--=b--\r\n"])
def test_a_form_without_a_picture(service, body):
    status, content, _ = service.ask("POST", "/inspect", body, {"Content-Type": "multipart/form-data; boundary==b"})
    assert status == 400 and content["ResultEvaluation"] == 0 and "form" in content["error"]


def test_the_network_itself_over_the_inference_protocol(service, place):
    import onnxruntime

    assert service.ask("GET", "/v2/health/live")[:2][0] == 200 and service.ask("GET", "/v2/models/best/ready")[0] == 200
    assert service.ask("GET", "/v2")[1]["name"] == "tandem" and service.ask("GET", "/v2/models/other")[0] == 404
    described = service.ask("GET", "/v2/models/best/versions/1")[1]
    assert described["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [1, 3, SIZE, SIZE]}] and described["versions"] == ["1"]
    values = np.random.default_rng(0).random((1, 3, SIZE, SIZE), np.float32)
    expected = onnxruntime.InferenceSession(str(place / "best.onnx")).run(None, {"images": values})[0]
    one = {"name": "images", "shape": list(values.shape), "datatype": "FP32"}
    for data in (values.ravel().tolist(), values.tolist()):
        told = service.ask("POST", "/v2/models/best/infer", json.dumps({"id": "7", "inputs": [one | {"data": data}]}))[1]
        output = told["outputs"][0]
        assert told["id"] == "7" and output["name"] == "output0" and output["shape"] == list(expected.shape)
        np.testing.assert_allclose(np.array(output["data"]).reshape(output["shape"]), expected, rtol=1e-6)
    head = json.dumps({"inputs": [one | {"parameters": {"binary_data_size": values.nbytes}}], "parameters": {"binary_data_output": True}}).encode()
    header = {"Inference-Header-Content-Length": str(len(head))}
    status, content, headers = service.ask("POST", "/v2/models/best/infer", head + values.tobytes(), header)
    length = int(headers["Inference-Header-Content-Length"])
    assert status == 200 and json.loads(content[:length])["outputs"][0]["parameters"] == {"binary_data_size": expected.nbytes}
    assert content[length:] == expected.tobytes()


@pytest.mark.parametrize(("content", "told"), [
    ("no json", "expected JSON"), ('{"inputs": 3}', "expected JSON"), ("[" * 100_000, "expected JSON"),
    ('{"inputs": []}', "expected the input images"), ('{"inputs": [{"name": "x"}]}', "expected the input images, got x"),
    ('{"inputs": [{"name": "images", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": []}]}', "expected the shape"),
    ('{"inputs": [{"name": "images", "shape": [1, 3, 64, 64], "datatype": "INT8", "data": []}]}', "expected the datatype FP32"),
    ('{"inputs": [{"name": "images", "shape": [1, 3, 64, 64], "datatype": "FP32", "data": ["a"]}]}', "expected 12288 numbers"),
    ('{"inputs": [{"name": "images", "shape": [1, 3, 64, 64], "datatype": "FP32", "parameters": {"binary_data_size": 9}}]}', "expected 49152 bytes"),
])  # fmt: skip
def test_inference_requests_that_are_none(service, content, told):
    status, answer, _ = service.ask("POST", "/v2/models/best/infer", content)
    assert status == 400 and told in answer["error"]


def test_with_tritons_own_client(service, place):
    client_of = pytest.importorskip("tritonclient.http", reason="needs pip install tritonclient[http]")
    client = client_of.InferenceServerClient(f"127.0.0.1:{service.port}")
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("best")
    assert client.get_model_metadata("best")["outputs"][0]["name"] == "output0" and client.get_model_config("best")["name"] == "best"
    values = np.random.default_rng(0).random((1, 3, SIZE, SIZE), np.float32)
    for binary in (True, False):
        one = client_of.InferInput("images", list(values.shape), "FP32")
        one.set_data_from_numpy(values, binary_data=binary)
        wanted = [client_of.InferRequestedOutput("output0", binary_data=binary)]
        for outputs in (wanted, None):
            found = client.infer("best", [one], outputs=outputs).as_numpy("output0")
            np.testing.assert_allclose(found[0, 4, 0], values.mean(), rtol=1e-5)
    with pytest.raises(client_of.InferenceServerException, match="expected the model best"):
        client.infer("other", [one])


def test_figures_last_verdicts_and_source(service):
    before = service.ask("GET", "/metrics")[1].decode()
    told = service.inspect(picture(BRIGHT), "?PartId=last")
    after = service.ask("GET", "/metrics")[1].decode()
    name = 'tandem_pictures_total{source="http",verdict="NG"} '
    counts = [float(text.split(name)[1].split()[0]) for text in (before, after)]
    assert counts[1] == counts[0] + 1 and "tandem_queue_capacity 32.0" in after and "tandem_heartbeat_timestamp_seconds" in after
    recent = service.ask("GET", "/recent")[1]
    assert recent[0] == {key: value for key, value in told.items() if key != "Boxes"}
    with tarfile.open(fileobj=io.BytesIO(service.ask("GET", "/source")[1])) as archive:
        names = archive.getnames()
    assert {"tandem/serve.py", "tandem/LICENSE", "tandem/service/page/page.js", "tandem/inspection/rules.py"} <= set(names)
    assert not [name for name in names if name.endswith((".pt", ".onnx", ".yaml", ".pyc"))]


def test_the_page_needs_nothing_of_the_network(service):
    status, page, headers = service.ask("GET", "/")
    parts = [page, service.ask("GET", "/page.js")[1], service.ask("GET", "/page.css")[1]]
    assert status == 200 and "default-src 'none'" in headers["content-security-policy"]
    assert not [part for part in parts if b"//" in part.replace(b"// ", b"")] and b'href="source"' in page


def test_wrong_input_ends_it_with_one_line(place, tmp_path, capsys):
    other = Plan(("bright", "dark"), RULES, model=ModelFile("0" * 64, "onnx"))
    save_plan(tmp_path / "other.yaml", other)
    (tmp_path / "best.pt").write_bytes(b"x")
    (tmp_path / "bad.onnx").write_bytes(b"x" * 100)
    shutil.copy(place / "best.onnx", tmp_path / "fine.onnx")
    (tmp_path / "file").write_text("x")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cases = {
            ("--weights", "none.onnx"): "nothing is there",
            ("--weights", tmp_path / "best.pt"): "export.py",
            ("--weights", tmp_path / "bad.onnx"): "export it again",
            ("--weights", place / "best.onnx", "--decision", tmp_path / "other.yaml"): "got one for another file",
            ("--weights", place / "best.onnx", "--port", port): "give another --host or --port",
            ("--weights", place / "best.onnx", "--host", "no.such.host.invalid"): "expected an address",
            ("--weights", place / "best.onnx", "--token", "short"): "at least 8",
            ("--weights", place / "best.onnx", "--token-file", tmp_path / "none"): "expected a text file",
            ("--weights", place / "best.onnx", "--tile", 8): "at least 32",
            ("--weights", place / "best.onnx", "--journal", tmp_path / "file"): "cannot be written",
        }
        for arguments, told in cases.items():
            given = [str(argument) for argument in arguments]
            status = guard(lambda: serve.main(given if "--port" in given else [*given, "--port", "0"]))  # noqa: B023
            lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
            assert status == 2 and len(lines) == 1 and told in lines[0], (arguments, lines)


def test_a_package_that_is_missing_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for name in ("service.server", "service.connections", "uvicorn.protocols.http.httptools_impl"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "httptools", None)  # an import of it fails
    assert guard(lambda: serve.main(["--weights", str(place / "best.onnx")])) == 2
    assert capsys.readouterr().err == "error: serve.py: expected the package httptools, it is not installed; pip install -r requirements-serve.txt\n"


def test_without_a_plan_nothing_is_ok(place):
    service = Service("--weights", place / "best.onnx", "--no-decision")
    told = service.inspect(picture(BRIGHT))
    assert told["Verdict"] == "UNDEFINED" and "no decision plan" in told["Rule"] and len(told["Boxes"]) == 1
    assert service.stop(signal.SIGINT) == 130
    assert "every verdict is UNDEFINED" in "".join(service.err) and "Traceback" not in "".join(service.err)


def test_at_its_end_open_pictures_are_answered(tmp_path):
    weights = write_onnx(tmp_path / "slow.onnx", work=2)
    service, told = Service("--weights", weights, "--no-decision"), []
    asking = [threading.Thread(target=lambda: told.append(service.inspect(picture(DARK)))) for _ in range(3)]
    for thread in asking:
        thread.start()
    while "tandem_queue_length 0.0" in service.ask("GET", "/metrics")[1].decode() and len(told) < 3:
        pass
    assert service.stop() == 0
    for thread in asking:
        thread.join()
    assert len(told) == 3 and all("no decision plan" in one["Rule"] for one in told)
