"""A job: its images in shards, and the fingerprint of all that its results depend on. Both are in `manifest.parquet`."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cfg import UserError
from data.shards.extras import needed
from data.shards.folders import Folder

MANIFEST, PARTS = "manifest.parquet", "parts"
KEY = b"tandem.job"  # in the metadata of the Parquet file
WHY = "--shards"


@dataclass(frozen=True)
class Job:
    """A job as its manifest has it.

    Attributes:
        folder: where the manifest and the results are.
        facts: all that results depend on, by the name of the argument, as plain data.
        size: images in a shard; the last one has what is left.
        images, shards: how many.
        fingerprint: SHA-256 of facts, size and the list of the images.
    """

    folder: Folder
    facts: dict[str, Any]
    size: int
    images: int
    fingerprint: str

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.images // self.size)

    def rows(self, shard: int) -> int:
        """How many images a shard has."""
        return min(self.size, self.images - shard * self.size)

    def places(self, shard: int) -> list[str]:
        """Paths or addresses of a shard's images, in order."""
        parquet = needed("pyarrow.parquet", WHY)
        with self.folder.open(MANIFEST) as file:
            table = parquet.ParquetFile(file).read_row_group(shard)
        pairs = zip(table["image"].to_pylist(), table["bytes"].to_pylist(), strict=True)
        return [image if raw is None else os.fsdecode(raw) for image, raw in pairs]


def find_job(folder: Folder) -> Job | None:
    """The job of a folder, None where the folder is empty or absent.

    Raises:
        UserError: the folder holds other things, or a damaged manifest.
    """
    parquet = needed("pyarrow.parquet", WHY)
    there = folder.names()
    if MANIFEST not in there:
        if there:
            raise UserError(f"--shards {folder.place}: expected a new or empty folder or one with a {MANIFEST}, got one that holds "
                            f"{sorted(there)[0]}; choose another")  # fmt: skip
        return None
    try:
        with folder.open(MANIFEST) as file:
            metadata = parquet.read_metadata(file)
        content = json.loads(metadata.metadata[KEY])
        job = Job(folder, content["facts"], content["shard_size"], metadata.num_rows, content["fingerprint"])
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's errors are ValueErrors and OSErrors
        raise UserError(f"{folder.place}: expected a {MANIFEST} of a job, got a damaged or other file ({' '.join(str(error).split())[:120]}); "
                        "choose another folder") from None  # fmt: skip
    return job


def check_same(job: Job, facts: Mapping[str, Any], size: int) -> None:
    """Raise `UserError` where a folder's job has other facts than the requested ones; says which."""
    asked, had = {**facts, "shard-size": size}, {**job.facts, "shard-size": job.size}
    different = [name for name in {**had, **asked} if had.get(name) != asked.get(name)]
    if different:
        told = "; ".join(f"{name}: {_short(had.get(name))} there, {_short(asked.get(name))} now" for name in different[:4])
        raise UserError(f"--shards {job.folder.place}: expected the job of that folder, got another one ({told}); choose another folder, or "
                        "the same arguments")  # fmt: skip


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:40]}... (SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:8]})"


def make_job(folder: Folder, facts: Mapping[str, Any], images: Iterable[str], size: int) -> Job:
    """Write the manifest of a new job, shard by shard; where another driver was first, take its job.

    Args:
        images: paths and addresses, taken lazily.

    Raises:
        UserError: there is no image, the folder cannot be written, or the other driver's job is another one.
    """
    handle, name = tempfile.mkstemp(suffix=".parquet")
    os.close(handle)
    try:
        _write(Path(name), facts, images, size)
        folder.create(MANIFEST, Path(name).read_bytes())
    finally:
        os.unlink(name)
    job = find_job(folder)
    if job is None:
        raise UserError(f"--shards {folder.place}: expected the {MANIFEST} that was just written, got none; let no other program empty the folder")
    check_same(job, facts, size)
    return job


def _write(path: Path, facts: Mapping[str, Any], images: Iterable[str], size: int) -> None:
    arrow, parquet = needed("pyarrow", WHY), needed("pyarrow.parquet", WHY)
    schema = arrow.schema([("image", arrow.string()), ("shard", arrow.int32()), ("bytes", arrow.binary())])
    digest = hashlib.sha256(json.dumps([facts, size], sort_keys=True).encode())
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for shard, chunk in enumerate(_chunks(images, size)):
            raw = [os.fsencode(image) for image in chunk]
            for name in raw:
                digest.update(len(name).to_bytes(4, "big") + name)
            shown = [name.decode("utf-8", "backslashreplace") for name in raw]
            odd = [name if text != image else None for name, text, image in zip(raw, shown, chunk, strict=True)]
            writer.write_table(arrow.table([shown, [shard] * len(raw), odd], schema=schema), row_group_size=size)
        content = {"facts": facts, "shard_size": size, "fingerprint": digest.hexdigest()}
        writer.add_key_value_metadata({KEY.decode(): json.dumps(content, ensure_ascii=False)})


def _chunks(images: Iterable[str], size: int) -> Iterator[Sequence[str]]:
    images = iter(images)
    while chunk := list(islice(images, size)):
        yield chunk
