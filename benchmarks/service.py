"""How fast, how large and how steady the service is (benchmarks/service.md).

    python benchmarks/service.py models --out runs/service            # the S-model and the fast student as ONNX, with a plan; needs PyTorch
    python benchmarks/service.py load --weights runs/service/s-model-fast.onnx
    python benchmarks/service.py overhead                              # of the service alone: the network takes no time
    python benchmarks/service.py memory --weights runs/service/s-model-fast.onnx
    python benchmarks/service.py soak --weights runs/service/s-model-fast.onnx --seconds 3600

It speaks to services that it starts on this machine, and to no others.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.machine import commit
from benchmarks.serving.load import Load, bare_network, closed_loop, open_loop, together
from benchmarks.serving.process import Service
from cfg.command_line import read_arguments
from cfg.cpus import available_cpus
from cfg.errors import guard
from engine.arguments import count, fraction, seconds


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="service.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("part", choices=tuple(PARTS), help="what to do")
    add("--weights", help="an exported model with a plan in it")
    add("--out", default="runs/service", help="folder for models and results (default %(default)s)")
    add("--threads", type=count, default=available_cpus(), help="of the network (default: all cores, %(default)s)")
    add("--clients", type=numbers, default="1,4,16,64", help="numbers of clients (default %(default)s)")
    add("--seconds", type=seconds, default=20.0, help="of each measurement; of a soak, in all (default %(default)g)")
    add("--rounds", type=count, default=5, help="turns of bare network and service (default %(default)s)")
    add("--share", type=fraction, default=0.8, help="of a soak: of what the service can do (default %(default)s)")
    add("--side", type=count, default=640, help="of the images, in pixels (default %(default)s)")
    add("--more", default="", help="further arguments of serve.py, as one text")
    options = read_arguments(parser, argv)
    if options.part not in ("models", "overhead") and not options.weights:
        parser.error("--weights: expected an exported model; make some: python benchmarks/service.py models")
    return options


def numbers(text: str) -> list[int]:
    """Read `1,4,16`."""
    return [count(part) for part in text.split(",")]


def pictures(side: int) -> list[bytes]:
    """Eight JPEG images as a camera makes them: smooth, with some noise, always the same."""
    import cv2

    rng, made = np.random.default_rng(0), []
    for _ in range(8):
        coarse = cv2.resize(rng.integers(60, 200, (12, 12, 3), dtype=np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(coarse + rng.normal(0, 4, coarse.shape), 0, 255).astype(np.uint8)
        made.append(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
    return made


def start(options: argparse.Namespace, *more: object) -> Service:
    """The service with the options' model."""
    return Service("--weights", options.weights, "--threads", options.threads, *options.more.split(), *more)


def models(options: argparse.Namespace) -> None:
    """Export the S-model and the fast student from their start weights, with a plan of one threshold."""
    from benchmarks.serving.exports import make_exports

    for path in make_exports(Path(options.out)):
        print(path)


def load(options: argparse.Namespace) -> None:
    """The bare network and the service with one client, in turns; then the service with more clients."""
    sent, clients = pictures(options.side), options.clients
    alone, whole, single = [], [], []
    service, turn = start(options, "--queue", max(32, *clients)), options.seconds / options.rounds
    try:
        closed_loop(service, sent, 1, 2.0)
        for _ in range(options.rounds):
            for kind, found in zip((alone, whole), bare_network(Path(options.weights), options.threads, sent, turn), strict=True):
                kind.append(found)
            single.append(closed_loop(service, sent, 1, turn))
        named = {"network alone": alone, "image to boxes, in one process": whole, "service, 1 client": single}
        rows = {name: together(parts).row() for name, parts in named.items()}
        for number in clients[clients[0] == 1 :]:
            rows[f"service, {number} clients"] = closed_loop(service, sent, number, options.seconds).row()
    finally:
        service.stop()
    tell(options, "load", rows)


def overhead(options: argparse.Namespace) -> None:
    """As `load`, with one client and a network that takes no time: what is left is the service."""
    from benchmarks.serving.brightness import write_onnx

    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    options.weights, options.clients = write_onnx(folder / "no-time.onnx", size=options.side), [1]
    load(options)


def full(options: argparse.Namespace) -> None:
    """How long it takes to be told that the queue is full."""
    service, sent = start(options, "--queue", 2), pictures(options.side)
    try:
        found = closed_loop(service, sent, 16, options.seconds)
    finally:
        service.stop()
    tell(options, "full", {"answers 503": Load(found.refused, elapsed=found.elapsed).row(), "verdicts beside them": found.row()})


def memory(options: argparse.Namespace) -> None:
    """From the start of the process to the first verdict; resident memory then, and after some load."""
    sent, starts, processor = pictures(options.side), [], []
    for _ in range(options.rounds):
        began = time.perf_counter()
        service = start(options)
        service.inspect(sent[0])
        starts.append(time.perf_counter() - began)
        first = service.memory()
        processor.append(service.processor_seconds())
        if len(starts) < options.rounds:
            service.stop()
    closed_loop(service, sent, 4, options.seconds)
    row = {"start_s": float(np.median(starts)), "start_least_s": min(starts), "start_processor_s": min(processor)}
    row |= {"first_mib": first, "after_load_mib": service.memory()}
    service.stop()
    tell(options, "memory", {Path(options.weights).name: row})


def soak(options: argparse.Namespace) -> None:
    """Load at a share of what the service can do, and its memory over time, with a journal."""
    sent = pictures(options.side)
    with tempfile.TemporaryDirectory() as folder:
        service = start(options, "--journal", folder)
        try:
            most = closed_loop(service, sent, 4, 15.0).row()["per_second"]
            rate, step, rows = options.share * most, max(10.0, options.seconds / 20), {}
            for number in range(round(options.seconds / step)):
                found = open_loop(service, sent, rate, step)
                rows[f"after {(number + 1) * step:.0f} s"] = found.row() | {"mib": service.memory()}
                print(f"{(number + 1) * step:6.0f} s  {service.memory():.1f} MiB  {found.row()}", flush=True)
        finally:
            service.stop()
    tell(options, "soak", {f"at {rate:.2f} of {most:.2f} images/s": {}} | rows)


def tell(options: argparse.Namespace, part: str, rows: dict[str, dict[str, float]]) -> None:
    """Print rows as a table, and write them to ``--out``."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    print(f"{part}: {Path(options.weights).name}, {options.threads} threads, commit {commit()}")
    print("| | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{row[key]:.4g}" if key in row else "" for key in columns) + " |")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{part}-{Path(options.weights).stem}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.write_text(json.dumps({"commit": commit(), "threads": options.threads, "rows": rows}, indent=1), encoding="utf-8")
    print(file)


PARTS = {"models": models, "load": load, "overhead": overhead, "full": full, "memory": memory, "soak": soak}


def main(argv: list[str] | None = None) -> int:
    """Run one part."""
    options = parse(argv)
    PARTS[options.part](options)
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
