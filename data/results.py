"""`python -m data.results DIR`: what a job of detect.py --shards has found, over all its shards.

Prints counts, the NG rate, what could not be read and which shards are missing; writes CSV, JSON, COCO and a report on request, as
detect.py does. The shards themselves are a Parquet data set: DIR/parts.

Exit status: 0 every image was looked at, 1 shards are missing or images could not be read, 2 no job there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cfg import UserError, guard
from cfg.command_line import read_arguments
from data.shards.folders import as_path, is_address, open_folder
from data.shards.manifest import Job, find_job
from data.shards.parts import read_rows
from data.shards.report import write_job_report
from data.shards.summary import WRITERS, Summary, open_writers, write_row


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m data.results", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("job", metavar="DIR", help="job folder, or its address")
    for kind, (_, name) in WRITERS.items():
        add(f"--{kind}", dest="kinds", action="append_const", const=kind, default=[], help=name)
    add("--report", action="store_true", help="report.html: one page with charts and images; works offline")
    add("--pictures", type=int, default=500, metavar="N", help="most images of each kind in the report (default: 500)")
    add("--out", type=Path, help="folder of these files (default: the job folder)")
    options = read_arguments(parser, argv)
    if options.pictures < 0:
        parser.error(f"--pictures: expected a number of at least 0, got {options.pictures}")
    return options


def main(argv: list[str] | None = None) -> int:
    """Command line of this module. Returns 1 where the results are not those of all images."""
    options = parse(argv)
    job = find_job(open_folder(options.job))
    if job is None:
        raise UserError(f"{options.job}: expected the folder of a job, got an empty or no folder; detect.py --shards makes one")
    folder = options.out or Path(as_path(options.job))
    if (options.kinds or options.report) and options.out is None and is_address(options.job):
        raise UserError(f"{options.job}: expected a folder of this machine for the files; add --out FOLDER")
    try:
        summary = merge(job, options, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); free space or choose another --out") from None
    print("\n".join(summary.lines()))
    return 0 if summary.complete else 1


def merge(job: Job, options: argparse.Namespace, folder: Path) -> Summary:
    """Go through the shards that are done, write the requested files, return the counts."""
    summary, kinds = Summary(job), dict.fromkeys(options.kinds)
    if kinds or options.report:
        folder.mkdir(parents=True, exist_ok=True)
    writers = open_writers(kinds, folder, job)
    try:
        done = [shard for shard in range(job.shards) if summary.add_shard(shard)]
        for shard in done:
            for row in read_rows(job, shard):
                summary.add(row)
                write_row(writers, row)
    finally:
        for writer in writers:
            writer.close()
    for kind in kinds:
        print(f"written: {folder / WRITERS[kind][1]}")
    if options.report:
        looked_at = summary.images - summary.errors
        print(f"written: {write_job_report(job, done, looked_at, summary.errors, folder, options.pictures)}")
    return summary


if __name__ == "__main__":
    sys.exit(guard(main))
