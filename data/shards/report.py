"""The report over all shards of a job. The rows stay on the disk and are gone through several times: memory does not grow with them."""

from __future__ import annotations

import platform
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from data.decode import Unreadable
from data.shards.folders import read_picture
from data.shards.manifest import Job
from data.shards.parts import read_rows
from inspection.plan import Plan
from inspection.plan_file import parse_plan
from inspection.report.content import Content, Seen, grouped
from inspection.report.page import promise_lines, write_report
from inspection.report.thumbnails import Thumbnails

MOST_SKIPPED = 50  # unreadable images that are named


class Pictures(Collection[Seen]):
    """The images of shards that could be read, in the order of the job, read anew each time.

    Args:
        count: how many there are.
    """

    def __init__(self, job: Job, shards: Sequence[int], count: int) -> None:
        self.job, self.shards, self.count = job, shards, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Seen]:
        for shard in self.shards:
            for row in read_rows(self.job, shard):
                if row.error is None:
                    yield Seen(row.image, row.height, row.width, row.found, row.verdict)

    def __contains__(self, picture: object) -> bool:
        return any(picture is seen for seen in self)


def write_job_report(job: Job, shards: Sequence[int], looked_at: int, errors: int, folder: Path, most: int) -> Path:
    """Write ``report.html`` and its pages; return its path.

    Args:
        shards: those that are done.
        looked_at, errors: images that could be read, and that could not.
        most: images that are shown of each group.

    Raises:
        OSError: the disk refuses.
        UserError: a store does not answer.
    """
    pictures, thumbnails = Pictures(job, shards, looked_at), Thumbnails(folder / "report-pictures")
    chosen = {key: [with_thumbnail(picture, thumbnails) for picture in group] for key, group in grouped(pictures, most).items()}
    content = job.facts["decision"]
    plan: Plan | None = parse_plan(content, job.folder.place) if content else None
    skipped = unread(job, shards) if errors else []
    promise = promise_lines(plan, job.facts.get("doubts", ())) if plan else ()
    page = Content("Inspection report", job.facts["names"], pictures, plan, promise, facts(job, shards),
                   skipped=skipped, more_skipped=errors - len(skipped), chosen=chosen)  # fmt: skip
    path = folder / "report.html"
    write_report(path, page, thumbnails)
    return path


def with_thumbnail(picture: Seen, thumbnails: Thumbnails) -> Seen:
    """The image with its thumbnail, made of the file as it is now; without one where that cannot be read any more."""
    try:
        return replace(picture, thumbnail=thumbnails.add(read_picture(picture.name).pixels))
    except Unreadable as error:
        print(f"report: no image of {picture.name}: {error}", file=sys.stderr)
        return picture


def unread(job: Job, shards: Sequence[int]) -> list[tuple[str, str]]:
    """The first images that could not be read, with the reason."""
    named: list[tuple[str, str]] = []
    for shard in shards:
        named += [(row.image, row.error) for row in read_rows(job, shard) if row.error is not None]
        if len(named) >= MOST_SKIPPED:
            break
    return named[:MOST_SKIPPED]


def facts(job: Job, shards: Sequence[int]) -> list[tuple[str, str]]:
    """(what, value) of the job."""
    given = job.facts
    return [
        ("model file", given["weights"]), ("source", ", ".join(given["source"])), ("input size", "x".join(map(str, given["imgsz"]))),
        ("lowest score", f"{given['conf']:g}"), ("job", job.folder.place), ("shards", f"{len(shards)} of {job.shards}"),
        ("fingerprint", job.fingerprint), ("Tandem", given["tandem"]), ("Python", platform.python_version()),
        ("written", f"{datetime.now():%Y-%m-%d %H:%M}"),
    ]  # fmt: skip
