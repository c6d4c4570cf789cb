"""The results of a shard: one Parquet file, a row for each of its images in their order, whole or not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from cfg import UserError
from data.result_files import Detections
from data.shards.extras import needed
from data.shards.manifest import PARTS, WHY, Job
from inspection.rules import Code, Found, Verdict

KEY = b"tandem.part"
BOX = ("x1", "y1", "x2", "y2", "score", "class", "counts")


def part_name(shard: int) -> str:
    """The file of a shard's results, below the job's folder."""
    return f"{PARTS}/part-{shard:05d}.parquet"


@cache
def schema() -> Any:
    """Columns of a part.

    image: path or address; width, height: of the image in pixels, 0 where it could not be read; boxes: corners in pixels of the
    image, score, class index and name, and whether the box counts for the verdict (without a plan: all do); verdict (OK, NG, REVIEW,
    UNDEFINED), rule and score of it: null without a plan; error: why it could not be read; note: what of the file was not looked at.
    """
    arrow = needed("pyarrow", WHY)
    real, text = arrow.float32(), arrow.string()
    box = arrow.struct([*((name, real) for name in BOX[:5]), ("class", arrow.int32()), ("name", text), ("counts", arrow.bool_())])
    return arrow.schema([
        ("image", text), ("width", arrow.int32()), ("height", arrow.int32()), ("boxes", arrow.list_(box)), ("verdict", text),
        ("rule", text), ("score", arrow.float64()), ("error", text), ("note", text),
    ])  # fmt: skip


@dataclass
class Rows:
    """The rows of a part while its images are looked at, each to be filled once.

    Args:
        images: of the shard, as the manifest has them.
        names: class names by index.
        decided: whether there is a plan, so that what could not be read is UNDEFINED.
    """

    images: list[str]
    names: dict[int, str]
    decided: bool
    found: dict[int, Detections] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)

    def table(self) -> Any:
        """The rows as an Arrow table. Raises RuntimeError where one is missing: a part is whole or not there."""
        if missing := set(range(len(self.images))) - self.found.keys() - self.errors.keys():
            raise RuntimeError(f"{len(missing)} images of a shard were not looked at, first {self.images[min(missing)]}")
        arrow = needed("pyarrow", WHY)
        return arrow.Table.from_pylist([self._row(index) for index in range(len(self.images))], schema=schema())

    def gaps(self) -> dict[str, int]:
        """How many images were not looked at (`errors`), only in part (`notes`), or not decided about (`undecided`)."""
        undecided = sum(found.verdict is not None and found.verdict.code == Code.UNDEFINED for found in self.found.values())
        return {"errors": len(self.errors), "notes": len(self.notes), "undecided": undecided}

    def _row(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = {"image": self.images[index].encode("utf-8", "backslashreplace").decode(), "width": 0, "height": 0, "boxes": []}
        row["note"] = self.notes.get(index)
        if index in self.errors:
            undefined = {"verdict": Code.UNDEFINED.name, "rule": self.errors[index], "score": 0.0} if self.decided else {}
            return row | {"error": self.errors[index]} | undefined
        found = self.found[index]
        row |= {"width": found.width, "height": found.height, "boxes": self._boxes(found)}
        if found.verdict:
            row |= {"verdict": found.verdict.code.name, "rule": found.verdict.rule, "score": float(found.verdict.score)}
        return row

    def _boxes(self, found: Detections) -> list[dict[str, Any]]:
        counting = np.full(len(found.scores), found.verdict is None)
        if found.verdict:
            counting[found.verdict.boxes] = True
        columns = [*found.boxes_xyxy.reshape(-1, 4).T.tolist(), found.scores.tolist(), found.classes.tolist(), counting.tolist()]
        boxes = [dict(zip(BOX, values, strict=True)) for values in zip(*columns, strict=True)]
        return [box | {"name": self.names[box["class"]]} for box in boxes]


def write_part(job: Job, shard: int, rows: Rows, facts: dict[str, Any]) -> None:
    """Write a shard's results. Of several that write the same, the last one counts: they are equal.

    Args:
        facts: how it was made, for the summary; no results.
    """
    arrow, parquet = needed("pyarrow", WHY), needed("pyarrow.parquet", WHY)
    content = {"fingerprint": job.fingerprint, "shard": shard} | rows.gaps() | facts
    table = rows.table().replace_schema_metadata({KEY: json.dumps(content).encode()})
    buffer = arrow.BufferOutputStream()
    parquet.write_table(table, buffer, compression="zstd", use_dictionary=["verdict", "rule", "error", "note", "boxes.list.element.name"])
    job.folder.write(part_name(shard), buffer.getvalue().to_pybytes())


def part_facts(job: Job, shard: int) -> dict[str, Any] | None:
    """What was written beside a shard's results; None where there are none of this job: absent, damaged, or of another job."""
    parquet = needed("pyarrow.parquet", WHY)
    try:
        with job.folder.open(part_name(shard)) as file:
            metadata = parquet.read_metadata(file)
        content = json.loads(metadata.metadata[KEY])
    except UserError:  # the store does not answer: nothing is known of the part
        raise
    except (OSError, ValueError, KeyError, TypeError):
        return None
    own = content.get("fingerprint") == job.fingerprint and content.get("shard") == shard
    return content if own and metadata.num_rows == job.rows(shard) else None


def done_shards(job: Job) -> set[int]:
    """The shards whose results are there."""
    there = job.folder.names(PARTS)
    listed = (shard for shard in range(job.shards) if part_name(shard).rpartition("/")[2] in there)
    return {shard for shard in listed if part_facts(job, shard) is not None}


@dataclass(frozen=True)
class Row:
    """One image's results, read back: the fields of `schema`, boxes as `Found`; `verdict` None without a plan."""

    image: str
    width: int
    height: int
    found: Found
    verdict: Verdict | None
    error: str | None
    note: str | None


def read_rows(job: Job, shard: int) -> Iterator[Row]:
    """Yield the rows of a shard that is done."""
    parquet = needed("pyarrow.parquet", WHY)
    with job.folder.open(part_name(shard)) as file:
        table = parquet.ParquetFile(file).read().combine_chunks()
    if not table.num_rows:
        return
    lists = table["boxes"].chunk(0)
    ends = lists.offsets.to_numpy()
    values = {name: lists.values.field(name).to_numpy(zero_copy_only=False) for name in BOX}
    corners = np.stack([values[name] for name in BOX[:4]], axis=1)
    columns = [table[name].to_pylist() for name in ("image", "width", "height", "verdict", "rule", "score", "error", "note")]
    for number, (image, width, height, code, rule, score, error, note) in enumerate(zip(*columns, strict=True)):
        part = slice(ends[number], ends[number + 1])
        found = Found(corners[part], values["score"][part], values["class"][part])
        verdict = Verdict(Code[code], rule, score, np.flatnonzero(values["counts"][part])) if code else None
        yield Row(image, width, height, found, verdict, error, note)
