"""`detect.py --shards`: make or find the job of a folder, and do its shards, or a worker's part of them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch

from cfg.errors import UserError
from data.shards.extras import needed
from data.shards.folders import Folder, open_folder
from data.shards.manifest import PARTS, WHY, Job, check_same, find_job, make_job
from data.shards.parts import done_shards, part_facts, write_part
from engine.detection.options import DetectOptions
from engine.shards.listing import check_sources, list_images
from engine.shards.looking import Looker

SIZE = 5000  # images in a shard: minutes of work on a CPU, some hundred files for a million images
GAPS = {"errors": "Unreadable: {} images, each a row with its error", "notes": "Read in part: {} files, each a row with a note",
        "undecided": "Undecided: {} images, each a row with the verdict UNDEFINED and the reason"}  # fmt: skip


@dataclass(frozen=True)
class ShardOptions:
    """The options of `--shards`, beside detect.py's own.

    Attributes:
        folder: of the job, a path or an address.
        size: images in a shard.
        part: (i, n): shards i, i + n, i + 2 n ...
        ray: address of a Ray cluster, or `local`; None without Ray.
        actors: workers of Ray; None for one on each GPU, else on each core.
    """

    folder: str
    size: int = SIZE
    part: tuple[int, int] = (0, 1)
    ray: str | None = None
    actors: int | None = None


def asked(shards: str, shard: str | None, shard_size: int | None, ray: str | None, actors: int | None) -> ShardOptions:
    """The options of a command line. Raises `UserError` as `which_part`."""
    return ShardOptions(shards, shard_size or SIZE, which_part(shard), ray, actors)


@dataclass
class Outcome:
    """What a worker did: shards, their images, and the seconds."""

    shards: int = 0
    images: int = 0
    seconds: float = 0.0

    def add(self, facts: dict[str, Any]) -> None:
        """Count a shard by what is written beside its results."""
        self.shards += 1
        self.images += facts["images"]


def detect_shards(options: DetectOptions, shards: ShardOptions) -> bool:
    """Do the shards of a job that are not done yet; print one line for each.

    Returns:
        Whether every image of them was read, whole, and with a plan decided about.

    Raises:
        UserError: an argument is wrong, the folder is of another job, or the disk, store or cluster refuses.
        KeyboardInterrupt: after Ctrl-C; the shards that are done stay.
    """
    needed("pyarrow.parquet", WHY)
    check_sources(options.source)
    folder = open_folder(shards.folder)
    options = on_own_gpu(options)
    if shards.ray:
        from engine.shards.cluster import run_on_ray

        return run_on_ray(options, shards, folder)
    find_job(folder)  # a folder of other things costs no loading of the model
    looker = Looker(options)
    job = settled_job(folder, looker.facts, options.source, shards.size)
    index, count = shards.part
    outcome, began = Outcome(), perf_counter()
    mine = range(index, job.shards, count)
    print(f"{folder.place}: {job.images} images in {job.shards} shards" + (f", {len(mine)} of them here" if count > 1 else ""), flush=True)
    for shard in mine:
        if part_facts(job, shard) is None:
            outcome.add(facts := do_shard(looker, job, shard))
            print(told(job, shard, facts), flush=True)
    outcome.seconds = perf_counter() - began
    return finish(job, mine, outcome)


def settled_job(folder: Folder, facts: dict[str, Any], sources: Iterable[str], size: int) -> Job:
    """The job of a folder, made where there is none. Raises `UserError` where it is another job."""
    folder.sweep()
    folder.sweep(PARTS)
    job = find_job(folder)
    if job is None:
        print(f"{folder.place}: listing the images", flush=True)
        return make_job(folder, facts, list_images(sources, folder.place), size)
    check_same(job, facts, size)
    return job


def do_shard(looker: Looker, job: Job, shard: int) -> dict[str, Any]:
    """Look at the images of a shard and write its results; return what was written beside them."""
    began = perf_counter()
    images = job.places(shard)
    rows = looker.rows(images)
    seconds = round(perf_counter() - began, 3)
    facts = {"images": len(images), "seconds": seconds, "worker": f"{socket.gethostname()} {os.getpid()}"}
    write_part(job, shard, rows, facts)
    return facts | rows.gaps()


def told(job: Job, shard: int, facts: dict[str, Any]) -> str:
    """The line of a shard that was done."""
    errors = f", {facts['errors']} unreadable" if facts["errors"] else ""
    return f"shard {shard + 1}/{job.shards}: {facts['images']} images{errors}, {facts['images'] / facts['seconds']:.1f} images/s"


def finish(job: Job, mine: Iterable[int], outcome: Outcome) -> bool:
    """Print what was done and what is left; return whether the images of `mine`, done now or earlier, have no gaps (`Rows.gaps`)."""
    done = done_shards(job)
    facts = [part_facts(job, shard) or {} for shard in mine if shard in done]
    gaps = {line: sum(each.get(kind, 0) for each in facts) for kind, line in GAPS.items()}
    rate = f" in {outcome.seconds:.1f} s, {outcome.images / outcome.seconds:.1f} images/s" if outcome.images else ""
    print(f"{outcome.images} images looked at{rate}")
    for line, number in gaps.items():
        if number:
            print(line.format(number))
    print(f"Done: {len(done)} of {job.shards} shards; python -m data.results {job.folder.place}", flush=True)
    return not any(gaps.values())


def on_own_gpu(options: DetectOptions) -> DetectOptions:
    """The options; under torchrun with the GPU of this process where none was named."""
    local = os.environ.get("LOCAL_RANK")
    if options.device or local is None or not torch.cuda.device_count():
        return options
    return replace(options, device=str(int(local) % torch.cuda.device_count()))


def which_part(text: str | None) -> tuple[int, int]:
    """(i, n) of ``--shard``: `i/n` counted from 0, or `auto` for what SLURM or torchrun says to this process.

    Raises:
        UserError: it is neither, or nothing of the kind is in the environment.
    """
    if text is None:
        return 0, 1
    if text == "auto":
        return _from_environment()
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(f"--shard {text}: expected i/n with i from 0 to n - 1, as 0/4, 1/4, 2/4 and 3/4, or auto under SLURM and torchrun")
    return int(index), int(count)


def _from_environment() -> tuple[int, int]:
    for index, count, first in (("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"), ("RANK", "WORLD_SIZE", ""),
                                ("SLURM_PROCID", "SLURM_NTASKS", "")):  # fmt: skip
        if index in os.environ and count in os.environ:
            i, n = int(os.environ[index]) - int(os.environ.get(first, 0)), int(os.environ[count])
            if i < n:
                return i, n
            raise UserError(f"--shard auto: expected task numbers without gaps, got task {i} of {n}; say #SBATCH --array=0-{n - 1}")
    raise UserError("--shard auto: expected SLURM's array or torchrun, found neither in the environment; use --shard 0/4, and so on")
