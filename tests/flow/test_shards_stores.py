"""Jobs whose images and results lie in stores: in memory, and on a server that speaks S3 (moto's)."""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs pyarrow: pip install -r requirements-scale.txt")
sys.path.insert(0, str(Path(__file__).parent))
from jobs import job_of, place, rows_of, run

import data.results as results
from cfg.errors import UserError, guard
from data.shards import folders
from data.shards.folders import open_folder, store
from data.shards.parts import done_shards
from engine.shards.listing import list_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return place(tmp_path_factory.mktemp("stores"), 12)


@pytest.fixture
def memory() -> Iterator[str]:
    """The address of an empty store in memory."""
    fs, _ = store("memory://bucket")
    fs.store.clear()
    yield "memory://bucket"
    fs.store.clear()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket on a server of our own."""
    server_kind = pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[server]'").ThreadedMotoServer
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs: pip install -r requirements-scale.txt")
    server = server_kind(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                        "AWS_DEFAULT_REGION": "us-east-1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    store.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex}"  # the server's memory is that of the process, and outlives it
    store(f"s3://{bucket}")[0].mkdir(bucket)
    yield f"s3://{bucket}"
    server.stop()
    store.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


def upload(folder: Path, bucket: str) -> None:
    fs, root = store(bucket)
    for path in sorted((folder / "images").rglob("*.*")):
        fs.pipe_file(f"{root}/lot/{path.relative_to(folder / 'images').as_posix()}", path.read_bytes())
    fs.pipe_file(f"{root}/lot/a/.hidden.png", b"x")
    fs.pipe_file(f"{root}/lot/readme.txt", b"no image")


@pytest.fixture(params=["memory", "s3"])
def bucket(request: pytest.FixtureRequest, folder: Path) -> str:
    address = request.getfixturevalue(request.param)
    upload(folder, address)
    return address


def test_a_job_in_a_store(folder: Path, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run(folder, tmp_path / "local")
    expected = rows_of(job_of(tmp_path / "local"))
    job = f"{bucket}/jobs/one"
    assert run(folder, job, "--source", f"{bucket}/lot", "--shard", "1/3") in (0, 1)
    assert done_shards(job_of(job)) == {1}
    store(bucket)[0].pipe_file(f"{store(job)[1]}/parts/part-00001.parquet", b"PAR1 cut off")
    assert run(folder, job, "--source", f"{bucket}/lot") == 1
    rows = rows_of(job_of(job))
    names = [os.path.relpath(row["image"], folder / "images") for row in expected]
    assert [row["image"] for row in rows] == [f"{bucket}/lot/{name}" for name in names]
    assert [row | {"image": ""} for row in rows] == [row | {"image": ""} for row in expected]
    before = store(bucket)[0].find(store(job)[1])
    capsys.readouterr()
    assert run(folder, job, "--source", f"{bucket}/lot") == 1
    assert "0 images looked at" in capsys.readouterr().out and store(bucket)[0].find(store(job)[1]) == before
    assert run(folder, job, "--source", f"{bucket}/lot", "--conf", "0.2") == 2
    assert "conf: 0.25 there, 0.2 now" in capsys.readouterr().err
    assert guard(lambda: results.main([job, "--json", "--report", "--out", str(tmp_path / "out")])) == 1
    merged = json.loads((tmp_path / "out/results.json").read_text())
    assert [entry["image"] for entry in merged["images"]] == [row["image"] for row in rows if row["error"] is None]
    assert (tmp_path / "out/report.html").read_text().count("data:image/jpeg") == 12


def test_globs_and_lists(folder: Path, bucket: str, tmp_path: Path) -> None:
    def listed(source: str) -> list[str]:
        return [place.removeprefix(f"{bucket}/lot/") for place in list_images([source], "/nowhere")]

    assert listed(f"{bucket}/lot/*/00[01].png") == ["a/000.png", "b/001.png"]
    assert listed(f"{bucket}/lot/a/000.png") == ["a/000.png"]
    lines = f"# a list\n{bucket}/lot/b/001.png\na/absent.png\n\n"
    store(bucket)[0].pipe_file(f"{store(bucket)[1]}/lot/list.txt", lines.encode())
    assert listed(f"{bucket}/lot/list.txt") == ["b/001.png", "a/absent.png"]
    here = tmp_path / "list.txt"
    here.write_text(f"{bucket}/lot/b/001.png\n{folder}/images/a/000.png\n")
    assert listed(str(here)) == ["b/001.png", f"{folder}/images/a/000.png"]
    with pytest.raises(UserError, match="expected images, got none"):
        listed(f"{bucket}/empty")
    job = tmp_path / "job"
    assert run(folder, job, "--source", f"{bucket}/lot/list.txt") == 1
    assert [row["error"] for row in rows_of(job_of(job))] == [None, "file is missing"]


def test_what_is_there_is_not_created_again(bucket: str) -> None:
    there = open_folder(f"{bucket}/new")
    assert there.names() == set() == there.names("parts")
    assert there.create("manifest.parquet", b"first") and not there.create("manifest.parquet", b"second")
    there.write("parts/a", b"1")
    assert there.names() == {"manifest.parquet", "parts"} and there.names("parts") == {"a"}
    with there.open("manifest.parquet") as file:
        assert file.read() == b"first"


def test_a_store_that_does_not_answer_is_no_unreadable_image(folder: Path, memory: str, tmp_path: Path, monkeypatch, capsys) -> None:
    upload(folder, memory)
    fs, _ = store(memory)
    original, calls = fs.cat_file, []

    def cat_file(path, **options):
        calls.append(path)
        if len(calls) > 7:
            raise ConnectionError("connection reset by peer")
        return original(path, **options)

    monkeypatch.setattr(fs, "cat_file", cat_file)
    assert run(folder, tmp_path / "job", "--source", f"{memory}/lot") == 2
    told = capsys.readouterr().err
    assert "connection reset by peer" in told and "the shards that are done stay" in told and "memory://" in told
    assert done_shards(job_of(tmp_path / "job")) == {0}
    monkeypatch.undo()
    assert run(folder, tmp_path / "job", "--source", f"{memory}/lot") == 1 and len(rows_of(job_of(tmp_path / "job"))) == 14


def test_addresses_and_paths() -> None:
    places = {"s3://b/x": True, "gs://b": True, "memory://m": True, "/x/y": False, "C:\\x": False, "C:/x": False, "file:///x/y": False}
    assert {place: folders.is_address(place) for place in places} == places
    assert folders.as_path("file:///x/y") == "/x/y" and isinstance(open_folder("file:///x/y"), folders.DiskFolder)
