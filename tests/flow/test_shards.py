"""detect.py --shards and data.results: each image once, whatever is killed, repeated or missing; the same results as detect.py's."""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs pyarrow: pip install -r requirements-scale.txt")
sys.path.insert(0, str(Path(__file__).parent))
from jobs import job_of, place, plain, rows_of, run
from tiny import write_image

import data.results as results
import detect
import engine.shards.run as driver
from cfg.errors import UserError, guard
from data.result_files import Detections
from data.shards.folders import DiskFolder, open_folder
from data.shards.manifest import make_job
from data.shards.parts import Rows, done_shards, read_rows, write_part
from data.shards.report import Pictures
from engine.detection.options import DetectOptions
from engine.shards.cluster import ShardWorker, packed
from engine.shards.looking import absolute
from engine.shards.run import told
from inspection.report import content, statistics

# The test's detector has hardly different scores: how many boxes there are decides.
PLAN = "classes: {scratch: {threshold: .25, max_count: 3}, pit: {threshold: .9, review: .25, max_count: 4}, patch: {severity: none}}\n"
IMAGES, SHARDS = 25, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = place(tmp_path_factory.mktemp("shards"))
    (folder / "plan.yaml").write_text(PLAN)
    return folder


@pytest.fixture(scope="module")
def done(folder: Path) -> Path:
    """A job that is done; to be read, not changed."""
    assert run(folder, folder / "done") == 1  # two images cannot be read
    return folder / "done"


def merge(*given: object) -> int:
    return guard(lambda: results.main([*map(str, given)]))


def contents(job: Path) -> dict[str, tuple[int, bytes]]:
    """Time and bytes of each part."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (job / "parts").iterdir()}


@pytest.mark.parametrize("more", [[], ["--decision", "plan.yaml"], ["--tile", "64", "--conf", "0.2", "--classes", "pit"]])
def test_results_are_those_of_detect(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    monkeypatch.chdir(folder)
    expected = plain(folder, *more)
    assert run(folder, tmp_path / "job", *more) == 1
    rows = rows_of(job_of(tmp_path / "job"))
    assert len(rows) == IMAGES and len({row["image"] for row in rows}) == IMAGES
    got = {os.path.relpath(row["image"], folder / "images"): row for row in rows}
    assert sum(len(entry["detections"]) for entry in expected["images"]) > 20
    for entry in expected["images"]:
        row = got.pop(entry["image"])
        boxes = [{"class": b["class"], "name": b["name"], "confidence": round(b["score"], 5),
                  "box": {side: round(b[side], 2) for side in ("x1", "y1", "x2", "y2")}} for b in row["boxes"]]  # fmt: skip
        assert boxes == entry["detections"] and (row["width"], row["height"]) == (entry["width"], entry["height"])
        assert (row["verdict"], row["rule"], row["error"]) == (entry.get("verdict"), entry.get("rule"), None)
        assert row["score"] == pytest.approx(entry["verdict_score"], abs=1e-5) if "verdict" in entry else row["score"] is None
    skipped = {os.path.relpath(entry["image"], folder / "images"): entry["reason"] for entry in expected["skipped"]}
    assert {name: row["error"] for name, row in got.items()} == skipped and len(skipped) == 2
    assert all(row["verdict"] == ("UNDEFINED" if "--decision" in more else None) and not row["width"] for row in got.values())


def test_merged_files_are_those_of_detect(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(folder)
    given = ["--decision", "plan.yaml"]
    expected = plain(folder, *given, "--save-csv", "--save-coco")
    run(folder, tmp_path / "job", *given)
    capsys.readouterr()
    assert merge(tmp_path / "job", "--json", "--csv", "--coco", "--report", "--out", tmp_path / "out", "--pictures", 1) == 1
    told = capsys.readouterr().out
    merged = json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))
    base = str(folder / "images") + os.sep
    assert [entry | {"image": entry["image"].removeprefix(base)} for entry in merged["images"]] == expected["images"]
    assert merged["skipped"] == expected["skipped"]
    for name in ("results.csv", "coco.json"):
        got, wanted = ((path / name).read_text(encoding="utf-8") for path in (tmp_path / "out", folder / "plain/exp"))
        got = got.replace(base, "")
        if name == "coco.json":
            got, wanted = (json.dumps({k: v for k, v in json.loads(text).items() if k != "info"}) for text in (got, wanted))
        else:  # detect.py reads ahead, and notes what it cannot read before the boxes of earlier images
            got, wanted = sorted(got.splitlines()), sorted(wanted.replace(base, "").splitlines())
        assert got == wanted
    counts = {code: sum(entry["verdict"] == code for entry in expected["images"]) for code in ("OK", "NG", "REVIEW")}
    assert f"{counts['OK']} OK, {counts['NG']} NG" in told and "2 UNDEFINED" in told and min(counts.values()) >= 2
    assert f"NG rate {counts['NG'] / 23:.2%}" in told and "Unreadable: 2 images: 1 " in told
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    cards = re.findall(r'data-group="(\w+)"', page)
    assert cards.count("ng") == cards.count("review") == 1 and page.count("data:image/jpeg") == 2
    assert f"{counts['NG'] + counts['REVIEW'] - 2} more are not shown" in page and "cut.png" in page


def test_a_resumed_job_does_only_what_is_missing(folder: Path, tmp_path: Path, done: Path) -> None:
    job = tmp_path / "job"
    run(folder, job)
    whole, rows = contents(job), rows_of(job_of(job))
    (job / "parts/part-00001.parquet").unlink()
    part = job / "parts/part-00003.parquet"
    part.write_bytes(part.read_bytes()[:-100])  # a disk that lost its last block
    other = open_folder(str(tmp_path / "other"))
    foreign = make_job(other, {"names": ["a"]}, [f"{n}.jpg" for n in range(IMAGES)], 5)
    write_part(foreign, 4, Rows(foreign.places(4), {0: "a"}, False, errors=dict.fromkeys(range(5), "gone")), {})
    (job / "parts/part-00004.parquet").write_bytes((tmp_path / "other/parts/part-00004.parquet").read_bytes())
    assert done_shards(job_of(job)) == {0, 2}
    assert run(folder, job) == 1
    again = contents(job)
    assert {name for name in whole if whole[name][0] != again[name][0]} == {f"part-0000{n}.parquet" for n in (1, 3, 4)}
    assert rows_of(job_of(job)) == rows == rows_of(job_of(done))


def test_the_parts_of_several_workers(folder: Path, tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tmp_path / "job"
    run(folder, job, "--shard", "1/3")
    assert done_shards(job_of(job)) == {1, 4}
    assert merge(job) == 1
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    run(folder, job, "--shard", "auto")
    assert done_shards(job_of(job)) == {1, 2, 4}
    assert run(folder, job, "--shard", "0/3") == 0  # the images of its own shards could be read
    assert rows_of(job_of(job)) == rows_of(job_of(done))


def test_two_drivers_at_once_on_one_job(folder: Path, tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock: the second one does the whole job while the first is in its second shard, and what both wrote is one file."""
    job, original, calls = tmp_path / "job", driver.do_shard, []

    def do_shard(looker, the_job, shard):
        calls.append(shard)
        if calls == [0, 1]:
            assert run(folder, job) == 1
        return original(looker, the_job, shard)

    monkeypatch.setattr(driver, "do_shard", do_shard)
    assert run(folder, job) == 1
    assert calls == [0, 1, 1, 2, 3, 4]  # one shard twice, those after it once
    assert rows_of(job_of(job)) == rows_of(job_of(done)) and len(contents(job)) == SHARDS


def test_two_drivers_that_begin_one_job(folder: Path, tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one's list of files is longer; the job is the first one's."""
    job, original = tmp_path / "job", driver.list_images

    def list_images(sources, exclude):
        run(folder, job, "--shard", "0/5")
        yield from [*original(sources, exclude), str(folder / "later.png")]

    with monkeypatch.context() as patch:
        patch.setattr(driver, "list_images", lambda *given: patch.undo() or list_images(*given))
        run(folder, job)
    assert rows_of(job_of(job)) == rows_of(job_of(done))


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_a_part_is_whole_or_not_there(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, moment: str) -> None:
    job = tmp_path / "job"
    run(folder, job, "--shard", "0/5")
    refuse = OSError(28, "No space left on device")

    def fail(*given, **options):
        raise refuse

    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(DiskFolder, "_whole", fail)
        else:
            patch.setattr(os, moment, fail)
        assert run(folder, job) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in (job / "parts").iterdir()] == ["part-00000.parquet"]
    assert run(folder, job) == 1 and done_shards(job_of(job)) == set(range(SHARDS))


def test_what_a_kill_left_is_swept_after_an_hour(folder: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    run(folder, job)
    old, new, own = (job / f"parts/{name}" for name in (".part-00001.parquet.a1.part", ".part-00002.parquet.b2.part", "notes.part"))
    for path in (old, new, own):
        path.write_bytes(b"PAR1")
    for path in (old, own):
        os.utime(path, (1e9, 1e9))
    run(folder, job)
    assert not old.exists() and new.exists() and own.exists()


def test_images_that_vanish_are_rows_with_an_error(folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "moved").mkdir()
    moved = place(tmp_path / "moved", 9)
    run(moved, tmp_path / "job", "--shard", "0/3")
    for path in (moved / "images").rglob("*"):
        if path.is_file():
            path.unlink()
    assert run(moved, tmp_path / "job") == 1
    rows = rows_of(job_of(tmp_path / "job"))
    assert len(rows) == 11 and [row["error"] for row in rows[5:]] == ["file is missing"] * 6 and rows[0]["boxes"]
    capsys.readouterr()
    assert merge(tmp_path / "job") == 1
    assert "6 file is missing" in capsys.readouterr().out


def write_pages(path: Path) -> None:
    path.parent.mkdir()
    assert cv2.imwritemulti(str(path), [np.full((64, 64, 3), value, dtype=np.uint8) for value in (60, 90)])


@pytest.mark.parametrize(("kind", "line"), [("undecided", "Undecided: 2 images"), ("part", "Read in part: 1 files")])
def test_images_undecided_or_read_in_part_end_with_status_1(folder: Path, tmp_path: Path, capsys, kind: str, line: str) -> None:
    """As in plain detect.py: a plan for images of 64 px is of no use for larger ones; of a file of two images only the first is read."""
    (tmp_path / "plan.yaml").write_text(PLAN + "regions: {unit: pixels, width: 64, height: 64, look_at: [[[0, 0], [64, 0], [64, 64]]]}")
    for number, side in enumerate((64, 80, 80)):
        write_image(tmp_path / f"undecided/{number}.png", number, side)
    write_pages(tmp_path / "part/pages.tif")
    given = ["--weights", folder / "best.pt", "--source", tmp_path / kind, "--device", "cpu"]
    given += ["--decision", tmp_path / "plan.yaml"] if kind == "undecided" else []
    assert guard(lambda: detect.main([*map(str, given), "--project", str(tmp_path / "plain")])) == 1
    for _ in range(2):  # done now, and done earlier
        capsys.readouterr()
        assert guard(lambda: detect.main([*map(str, given), "--shards", str(tmp_path / "job")])) == 1
        assert line in capsys.readouterr().out
    assert merge(tmp_path / "job") == 1
    assert line in capsys.readouterr().out


def test_a_worker_of_ray_tells_what_a_line_says(folder: Path, tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a source by a relative path is the same one from its working folder."""
    job = job_of(done)
    monkeypatch.chdir(folder)
    options = DetectOptions(str(folder / "best.pt"), absolute(["images"]), device="cpu")
    monkeypatch.chdir(tmp_path)
    row = ShardWorker(packed(options), options, str(done), job.fingerprint)({"shard": 0})
    assert told(job, 0, row).startswith("shard 1/5: 5 images")


def test_names_that_are_not_text_and_the_same_image_twice(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"stra\xdfe.png")
    write_image(tmp_path / "a.png", 1)
    odd.write_bytes((tmp_path / "a.png").read_bytes())
    given = ["--weights", folder / "best.pt", "--source", tmp_path, tmp_path / "a.png", "--shards", tmp_path / "job", "--device", "cpu"]
    assert guard(lambda: detect.main([*map(str, given)])) == 0
    rows = rows_of(job_of(tmp_path / "job"))
    assert [os.path.basename(row["image"]) for row in rows] == ["a.png", "stra\\udcdfe.png", "a.png"]
    assert rows[0]["boxes"] == rows[1]["boxes"] == rows[2]["boxes"] != []
    assert merge(tmp_path / "job", "--json") == 0


def test_missing_shards_are_named(folder: Path, tmp_path: Path, done: Path, capsys) -> None:
    job = tmp_path / "job"
    run(folder, job)
    (job / "parts/part-00002.parquet").write_bytes(b"PAR1")
    (job / "parts/part-00004.parquet").unlink()
    capsys.readouterr()
    assert merge(job, "--csv", "--report") == 1
    told = capsys.readouterr().out
    assert "3 of them done" in told and "Missing: 2 shards (parts/part-00002.parquet, parts/part-00004.parquet)" in told
    assert run(folder, job) == 1  # files of data.results are not in the way


OTHER = [(["--conf", "0.3"], "conf: 0.25 there, 0.3 now"), (["--imgsz", "96"], "imgsz: [64, 64] there, [96, 96] now"),
         (["--shard-size", "6"], "shard-size: 5 there, 6 now"), (["--classes", "pit"], "classes: null there, [1] now"),
         (["--decision", "plan.yaml"], "decision: null there, "), (["--tile", "64"], "tile: null there, 64 now"),
         (["--source", "plan.yaml"], "source: "), (["--weights", "other.pt"], "weights: ")]  # fmt: skip


@pytest.mark.parametrize(("more", "message"), OTHER, ids=[more[0] for more, _ in OTHER])
def test_another_job_in_the_folder_is_refused(folder: Path, done: Path, monkeypatch, capsys, more: list[str], message: str) -> None:
    monkeypatch.chdir(folder)
    if "other.pt" in more:
        import torch

        saved = torch.load(folder / "best.pt", weights_only=True)
        name = next(key for key, value in saved["state"].items() if value.is_floating_point())
        torch.save(saved | {"state": saved["state"] | {name: saved["state"][name] + 1}}, folder / "other.pt")
    before = contents(done)
    assert run(folder, done, *more) == 2
    told = capsys.readouterr().err
    assert "expected the job of that folder, got another one (" in told and message in told
    assert contents(done) == before


def test_bad_folders(folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/manifest.parquet").write_bytes(b"PAR1 or so")
    (tmp_path / "file").touch()
    messages = {"full": "holds notes.txt; choose another", "damaged": "damaged or other file", "file": "Not a directory",
                "weird://x/y": "expected an address that fsspec can open"}  # fmt: skip
    for name, message in messages.items():
        where = name if ":" in name else tmp_path / name
        assert run(folder, where) == 2
        assert message in capsys.readouterr().err
        assert merge(where) == 2
    assert merge(tmp_path / "absent") == 2
    assert "expected the folder of a job" in capsys.readouterr().err and not (tmp_path / "absent").exists()


WRONG = [(["--shard", "0/2"], "--shard: expected with --shards"), (["--shards", "j", "--save-json"], "--save-json: expected without --shards"),
         (["--shards", "j", "--report"], "data.results makes"), (["--shards", "j", "--shard", "0/2", "--ray", "local"], "one of them"),
         (["--shards", "j", "--actors", "2"], "--actors: expected with --ray")]  # fmt: skip


@pytest.mark.parametrize(("more", "message"), WRONG, ids=[" ".join(more) for more, _ in WRONG])
def test_arguments_that_do_not_go_together(more: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        detect.parse(["--weights", "w.pt", "--source", "x", *more])


@pytest.mark.parametrize("text", ["4/4", "1", "a/b", "-1/2", "0/0", "1/2/3", "auto"])
def test_parts_that_are_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE")]:
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match=f"^--shard {text}: expected "):
        driver.which_part(text)


def test_the_part_of_a_slurm_task(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ID": "7", "COUNT": "4", "MIN": "5"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert driver.which_part("auto") == (2, 4) and driver.which_part("3/9") == (3, 9) and driver.which_part(None) == (0, 1)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "11")
    with pytest.raises(UserError, match=r"say #SBATCH --array=0-3"):
        driver.which_part("auto")


def test_cameras_and_nothing_are_refused(folder: Path, tmp_path: Path, capsys) -> None:
    for source, message in (("0", "got a camera or stream"), ("rtsp://x/y", "camera or stream"), (str(tmp_path), "expected images")):
        assert run(folder, tmp_path / "job", "--source", source) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "job/manifest.parquet").exists()


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Four times the shards: neither the summary nor the charts of the report take more."""
    import numpy as np

    box, peaks = np.array([[1.0, 2, 30, 40]], dtype=np.float32), []
    for shards in (2, 8):
        job = make_job(open_folder(str(tmp_path / str(shards))), {"names": ["a"], "decision": None}, (f"{n}.png" for n in range(150 * shards)), 150)
        for shard in range(shards):
            images = job.places(shard)
            found = {n: Detections(Path(name), Path(name), None, 64, 64, box, np.array([(n % 97) / 97]), np.array([0]))
                     for n, name in enumerate(images)}  # fmt: skip
            write_part(job, shard, Rows(images, {0: "a"}, False, found), {"images": 150, "seconds": 1.0, "worker": "w"})
        assert len(list(read_rows(job, 0))) == 150
        pictures, summary = Pictures(job, range(shards), 150 * shards), results.Summary(job)
        gc.collect()
        tracemalloc.start()
        for shard in range(shards):
            for row in read_rows(job, shard):
                summary.add(row)
        chart, groups = statistics.p_chart(pictures), content.grouped(pictures, 20)
        histograms, density = statistics.histograms(pictures), statistics.density(pictures)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert summary.images == summary.found_in == 150 * shards == histograms["NG"].sum() == pytest.approx(density.sum())
        assert chart.centre == 1 and [p.score for p in groups["found"]] == sorted((p.score for p in groups["found"]), reverse=True)
        assert min(p.score for p in groups["found"]) > 0.85
    assert peaks[1] < 1.2 * peaks[0]
