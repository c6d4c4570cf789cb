"""Jobs of detect.py --shards on tiny models, and what their parts hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny import save_tiny, write_image

import detect
from cfg.errors import guard
from data.shards.folders import open_folder
from data.shards.manifest import Job, find_job
from data.shards.parts import part_name


def place(folder: Path, images: int = 23) -> Path:
    """Weights, and images of two sizes in two folders, of which two cannot be read."""
    save_tiny(folder / "best.pt")
    for number in range(images):
        write_image(folder / f"images/{'ab'[number % 2]}/{number:03}.png", number, 64 + 16 * (number % 3 == 0))
    (folder / "images/a/cut.png").write_bytes((folder / "images/a/000.png").read_bytes()[:-400])
    (folder / "images/b/empty.jpg").touch()
    return folder


def command(folder: Path, job: Path | str, *more: str) -> list[str]:
    """Arguments of detect.py for shards of 5 images."""
    given = ["--weights", folder / "best.pt", "--source", folder / "images", "--shards", job, "--shard-size", 5, "--device", "cpu"]
    return [*map(str, given), *more]


def run(folder: Path, job: Path | str, *more: str) -> int:
    """Run detect.py in this process; return its exit status."""
    return guard(lambda: detect.main(command(folder, job, *more)))


def job_of(place: Path | str) -> Job:
    """The job of a folder, which must hold one."""
    job = find_job(open_folder(str(place)))
    assert job is not None
    return job


def rows_of(job: Job) -> list[dict[str, Any]]:
    """The rows of all parts in order, as pyarrow gives them."""
    import pyarrow.parquet as parquet

    rows = []
    for shard in range(job.shards):
        with job.folder.open(part_name(shard)) as file:
            rows += parquet.read_table(file).to_pylist()
    return rows


def plain(folder: Path, *more: str) -> dict[str, Any]:
    """results.json of detect.py without --shards."""
    given = ["--weights", folder / "best.pt", "--source", folder / "images", "--project", folder / "plain", "--exist-ok", "--device", "cpu"]
    guard(lambda: detect.main([*map(str, given), "--no-draw", "--save-json", *more]))
    return json.loads((folder / "plain/exp/results.json").read_text(encoding="utf-8"))
