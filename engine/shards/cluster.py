"""`--ray`: Ray Data hands the shards to a pool of workers, on one machine or a cluster. What it repeats changes nothing: a shard that
is done is not done again, and one that two workers do has one file.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from cfg.cpus import available_cpus
from cfg.errors import UserError
from data.shards.extras import needed
from data.shards.folders import Folder, open_folder
from data.shards.manifest import Job, check_same, find_job
from data.shards.parts import done_shards, part_facts
from engine.detection.options import DetectOptions
from engine.shards.looking import Looker, absolute
from engine.shards.run import Outcome, do_shard, finish, settled_job, told

if TYPE_CHECKING:
    from engine.shards.run import ShardOptions

ROOT = Path(__file__).resolve().parents[2]
SENT = ("cfg", "data", "distill", "engine", "inspection", "models")  # to other machines: what a worker imports, and nothing of a user's beside it
STORE_BYTES = 2**28  # of Ray's memory for objects on this machine: only the weights are in it
# No usage reports, no bars, and not the notes of its C++ part, which tell of workers that were lost and of which it takes care.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_TQDM": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
ONE_TRY = {"RAY_NUM_REDIS_GET_RETRIES": "1"}  # of 40 s, where no cluster answers: Ray would try 20 times


class ShardWorker:
    """A worker of the pool: the model is loaded once, at its start.

    Args:
        files: weights, and plan where there is a file of it, as `packed`.
        options: of detect.py.
        place, fingerprint: the job's folder, and what the job in it must be.
    """

    def __init__(self, files: dict[str, bytes], options: DetectOptions, place: str, fingerprint: str) -> None:
        self.temporary = tempfile.TemporaryDirectory(prefix="tandem-weights-")
        self.looker = Looker(unpacked(files, options, Path(self.temporary.name)))
        job = find_job(open_folder(place))
        if job is None or job.fingerprint != fingerprint:
            raise UserError(f"--shards {place}: expected the job's folder on every machine, got another or none on {os.uname().nodename}; "
                            "use a shared folder, or a store as s3://")  # fmt: skip
        check_same(job, self.looker.facts, job.size)
        self.job = job

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Compute one shard, unless it is done: Ray may hand it out twice."""
        shard = int(row["shard"])
        facts = part_facts(self.job, shard) or do_shard(self.looker, self.job, shard)
        return {"shard": shard, "images": facts["images"], "errors": facts["errors"], "seconds": facts["seconds"]}


def run_on_ray(options: DetectOptions, shards: ShardOptions, folder: Folder) -> bool:
    """Do a job's shards on a cluster. Returns and raises as `engine.shards.run.detect_shards`."""
    assert shards.ray, "for a job with --ray"
    os.environ.update(QUIET if shards.ray == "local" else QUIET | ONE_TRY)  # before Ray is imported
    ray = needed("ray", "--ray")
    needed("ray.data", "--ray")
    find_job(folder)
    options = replace(options, source=absolute(options.source))  # workers have a working folder of their own
    looker = Looker(replace(options, device="cpu"))  # the workers have the GPUs
    job = settled_job(folder, looker.facts, options.source, shards.size)
    del looker
    left = left_of(job)
    print(f"{folder.place}: {job.images} images in {job.shards} shards, {len(left)} of them left", flush=True)
    outcome, began = Outcome(), perf_counter()
    if left:
        with connected(ray, shards.ray):
            for row in persistent(ray, options, job, shards.actors):
                outcome.add(row)
                print(told(job, row["shard"], row), flush=True)
    outcome.seconds = perf_counter() - began
    return finish(job, range(job.shards), outcome)


@contextmanager
def connected(ray: Any, address: str) -> Iterator[None]:
    """Be connected with a cluster, or with one of this machine alone. Raises `UserError` where there is none, or a worker raises it."""
    local: dict[str, Any] = {"num_cpus": available_cpus(), "object_store_memory": STORE_BYTES, "include_dashboard": False}
    rest = [f"/{path.name}" for path in ROOT.iterdir() if path.name not in SENT]
    remote = {"address": address, "runtime_env": {"working_dir": str(ROOT), "excludes": rest}}
    try:
        ray.init(**(local if address == "local" else remote), log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"--ray {address}: expected a Ray cluster there ({reason}); start one with ray start --head, or use --ray local") from None
    try:
        yield
    except ray.exceptions.RayError as error:
        raise as_user_error(error, ray) from error
    finally:
        ray.shutdown()


def as_user_error(error: Exception, ray: Any) -> Exception:
    """The `UserError` of a worker, out of Ray's exception; without one, Ray's message. Finished shards stay."""
    if told := caused_by(error, UserError):
        return UserError(*told.args)
    ours: bool = isinstance(error, ray.exceptions.RayTaskError)
    if ours:
        return error  # a bug, with its traceback
    return UserError(f"--ray: the cluster gave up ({' '.join(str(error).split())[:160]}); start again: the shards that are done stay")


def caused_by(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """The first exception of a kind in an error and what it was raised from, on this machine or on another."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = getattr(cause, "cause", None) or cause.__cause__
    return cause


def left_of(job: Job) -> list[int]:
    """The shards without a part."""
    return sorted(set(range(job.shards)) - done_shards(job))


def persistent(ray: Any, options: DetectOptions, job: Job, actors: int | None) -> Iterator[dict[str, Any]]:
    """`results`; if Ray gives up, as it can with a lost machine, again for the remaining shards, as long as some are done in between."""
    left = left_of(job)
    while left:
        try:
            yield from results(ray, options, job, left, actors)
            return
        except ray.exceptions.RayError as error:
            before, left = len(left), left_of(job)
            if len(left) == before or isinstance(as_user_error(error, ray), ray.exceptions.RayTaskError) or caused_by(error, UserError):
                raise
            print(f"Ray gave up ({type(error).__name__}); going on with {len(left)} shards", flush=True)


def results(ray: Any, options: DetectOptions, job: Job, left: list[int], actors: int | None) -> Iterator[dict[str, Any]]:
    """Yield what each shard's worker returns, in the order in which they end."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0)) if options.device != "cpu" else 0
    most = min(actors or gpus or int(there.get("CPU", 1)), len(left))
    given = {"files": packed(options), "options": options, "place": job.folder.place, "fingerprint": job.fingerprint}
    shards = ray.data.from_items([{"shard": shard} for shard in left], override_num_blocks=len(left))
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=most, max_tasks_in_flight_per_actor=1)
    done = shards.map(ShardWorker, fn_constructor_kwargs=given, compute=pool, num_cpus=0 if gpus else 1, num_gpus=1 if gpus else 0)
    yield from done.iter_rows()


def packed(options: DetectOptions) -> dict[str, bytes]:
    """Weights, and plan where a file was named, by relative path: machines of a cluster need not have them."""
    files: dict[str, bytes] = {}
    for kind, name in (("weights", options.weights), ("decision", options.decision)):
        path = Path(name) if name else None
        if path is not None and path.suffix == ".xml":
            path = path.parent
        if path is not None:
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    files[f"{kind}/{file.relative_to(path.parent)}"] = file.read_bytes()
    return files


def unpacked(files: dict[str, bytes], options: DetectOptions, folder: Path) -> DetectOptions:
    """Write `files` into a folder; return the options with the paths that they have there."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    weights = Path(options.weights)
    name = weights.parent.name if weights.suffix == ".xml" else weights.name
    decision = str(folder / "decision" / Path(options.decision).name) if options.decision else None
    return replace(options, weights=str(folder / "weights" / name), decision=decision)
