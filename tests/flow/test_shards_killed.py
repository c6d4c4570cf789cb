"""Workers, drivers and machines of a Ray cluster killed at random moments: no image is lost, and none is there twice. Slow."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("pyarrow", reason="needs pyarrow: pip install -r requirements-scale.txt")
sys.path.insert(0, str(Path(__file__).parent))
from jobs import command, job_of, place, rows_of, run

from data.shards.parts import done_shards

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
IMAGES = 398
SECONDS = 900  # for one detect.py, on a machine that does other work too
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "PYTHONUNBUFFERED": "1"}  # Ray's 15 starves its workers beside other tests


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = place(tmp_path_factory.mktemp("killed"), IMAGES)
    run(folder, folder / "whole")
    return folder


def start(folder: Path, job: Path, *more: str) -> subprocess.Popen[str]:
    """detect.py in a process of its own; its lines can be read. Killed after `SECONDS`: a hang is a failure."""
    driver = subprocess.Popen([sys.executable, ROOT / "detect.py", *command(folder, job, *more)], cwd=folder, env=os.environ | QUIET, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    watch = threading.Timer(SECONDS, driver.kill)
    watch.daemon = True
    watch.start()
    return driver


def until(driver: subprocess.Popen[str], sign: str) -> str:
    """Read lines until one has the sign, or tells that there is nothing left to do; return all of them."""
    lines = ""
    for line in driver.stdout:
        lines += line
        if sign in line or "python -m data.results" in line:
            return lines
    raise AssertionError(lines)


def times(job: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (job / "parts").glob("part-*")}


def check_whole(folder: Path, job: Path) -> None:
    """Every image once, with the results of a job that nothing interrupted, in whole parts that data.results can read."""
    rows = rows_of(job_of(job))
    assert len(rows) == len({row["image"] for row in rows}) == IMAGES + 2
    assert rows == rows_of(job_of(folder / "whole"))
    assert {path.name for path in (job / "parts").iterdir() if not path.name.startswith(".")} == set(times(job))


def test_a_driver_killed_at_twenty_moments(folder: Path, tmp_path: Path) -> None:
    chance, job, kept = random.Random(0), tmp_path / "job", {}
    for _ in range(20):
        driver = start(folder, job, "--shard-size", "2")
        until(driver, "shard ")  # the first one that is done
        time.sleep(chance.uniform(0, 0.3))
        driver.kill()
        driver.wait()
        now = times(job)
        assert kept.items() <= now.items()  # what was done is not done again
        kept = now
    assert 0 < len(done_shards(job_of(job))) == len(kept) < job_of(job).shards, "the job was over before the last kill"
    driver = start(folder, job, "--shard-size", "2")
    assert "200 of 200 shards" in driver.communicate()[0] and driver.returncode == 1
    assert kept.items() <= times(job).items()
    check_whole(folder, job)


def test_four_workers_of_slurm_killed_and_started_again(folder: Path, tmp_path: Path) -> None:
    chance, job = random.Random(1), tmp_path / "job"
    for _ in range(5):
        workers = [start(folder, job, "--shard-size", "2", "--shard", f"{index}/4") for index in range(4)]
        until(workers[chance.randrange(4)], "shard ")
        time.sleep(chance.uniform(0, 0.5))
        for worker in workers:
            worker.kill()
            worker.wait()
    for worker in [start(folder, job, "--shard-size", "2", "--shard", f"{index}/4") for index in range(4)]:
        worker.communicate()
        assert worker.returncode in (0, 1)
    check_whole(folder, job)


def test_torchrun_shares_the_shards_out(folder: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", ROOT / "detect.py"]
    given = [*command(folder, tmp_path / "job", "--shard", "auto")]  # shards as in the whole job: a batch of another size rounds otherwise
    done = subprocess.run([*launcher, *given], cwd=folder, env=os.environ | QUIET, capture_output=True, text=True, check=False)
    assert done.stdout.count("80 shards, 40 of them here") == 2, done.stderr[-2000:]
    check_whole(folder, tmp_path / "job")


def add_machine(cluster: Any) -> Any:
    """One more machine with a core. Ray gives its own processes 30 s to start, which a busy machine exceeds: tried three times."""
    for _ in range(2):
        with suppress(Exception):
            return cluster.add_node(num_cpus=1, object_store_memory=2**27)
    return cluster.add_node(num_cpus=1, object_store_memory=2**27)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Three machines on this one: a head without workers, and two with a core each."""
    os.environ.update(QUIET)
    utilities = pytest.importorskip("ray.cluster_utils", reason="needs ray: pip install -r requirements-scale.txt")
    cluster = utilities.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 2**27})
    for _ in range(2):
        add_machine(cluster)
    cluster.wait_for_nodes(timeout=300)
    yield cluster
    cluster.shutdown()


def actors(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """The cluster's processes that look at images; waited for while all are being started again. Empty after the driver's end."""
    while driver.poll() is None:
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if "ray::MapWorker" in " ".join(process.cmdline()):
                    found.append(process)
        if found:
            return found
        time.sleep(0.1)
    return []


def test_workers_machines_and_drivers_of_a_cluster_killed_at_twenty_moments(folder: Path, tmp_path: Path, cluster: Any) -> None:
    chance, job, killed = random.Random(2), tmp_path / "job", {"worker": 0, "machine": 0, "driver": 0}
    kinds = ["worker"] * 10 + ["machine"] * 4 + ["driver"] * 6
    chance.shuffle(kinds)
    given = ("--shard-size", "2", "--ray", cluster.address)
    machines = list(cluster.worker_nodes)
    driver = start(folder, job, *given)
    for kind in kinds:
        print(until(driver, "shard ").strip().splitlines()[-2:], flush=True)  # one more is done
        time.sleep(chance.uniform(0, 0.3))
        if kind == "driver":
            driver.kill()
            driver.wait()
            driver = start(folder, job, *given)
        elif kind == "machine":
            cluster.remove_node(machines.pop(chance.randrange(2)), allow_graceful=False)
            machines.append(add_machine(cluster))
        else:
            there = actors(driver)
            assert there, driver.communicate()[0][-2000:]
            chance.choice(there).kill()
        killed[kind] += 1
        print(f"{time.strftime('%H:%M:%S')} {killed}, {len(done_shards(job_of(job)))} shards done", flush=True)
    assert len(done_shards(job_of(job))) < job_of(job).shards, "the job was over before the last kill"
    output = driver.communicate()[0]
    assert "200 of 200 shards" in output and driver.returncode == 1, output[-2000:]
    check_whole(folder, job)


def test_a_cluster_does_what_one_process_does(folder: Path, tmp_path: Path, cluster: Any) -> None:
    job = tmp_path / "job"
    driver = start(folder, job, "--ray", cluster.address)
    output = driver.communicate()[0]
    assert driver.returncode == 1 and "80 of 80 shards" in output
    check_whole(folder, job)
    (folder / "text.pt").write_text("no weights")
    driver = start(folder, tmp_path / "other", "--weights", "text.pt", "--ray", cluster.address)
    assert "error: " in driver.communicate()[0] and driver.returncode == 2


def test_no_cluster_there(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs ray: pip install -r requirements-scale.txt")
    driver = start(folder, tmp_path / "job", "--ray", "127.0.0.1:1")
    output = driver.communicate(timeout=300)[0]
    assert driver.returncode == 2 and "--ray 127.0.0.1:1: expected a Ray cluster there" in output
