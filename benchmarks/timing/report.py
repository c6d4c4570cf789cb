"""results.json, results.md and plots of the speed benchmark."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.machine import commit, machine
from benchmarks.timing import tables

LIBRARIES = ("torch", "ultralytics", "onnxruntime", "openvino", "tensorrt")
TITLES = {
    "inference": "How fast models run",
    "training": "How fast models train",
    "scaling": "How cost grows",
}
PROTOCOLS = {
    "inference": "Medians, with the quartiles in brackets. "
                 "Each row is a process of its own, asked in turn (A B C A B C ...) after warming up; a turn is one "
                 "untimed pass and {passes} timed ones, of which it gives the median. Ratios are medians of the ratios "
                 "within a round: of the forward pass, below 1 is faster than {reference}. Pre-processing (resizing, "
                 "padding, to a tensor) and NMS are apart, per batch; NMS gets about 100 candidates per image, because "
                 "scores of untrained models say nothing. Memory is the peak while running; libraries are in it. "
                 "Ready: loaded, compiled and warmed up.",
    "training": "Medians, with the quartiles in brackets. "
                "Each row is a process of its own, asked for one step in turn. A step is forward and backward pass, "
                "gradient clipping and SGD with momentum for all alike, on random images ({batch} of {imgsz} px with "
                "{objects} boxes each): no loading of images, no moving average of weights. Ratios are medians of "
                "those within a round.",
    "scaling": "Medians of {rounds} rounds. "
               "One axis at a time, the others at {imgsz} px, batch {batch}, {objects} objects per image, {classes} "
               "classes; PyTorch, fp32, points in turn. NMS gets ten candidates per object. A slope is that of "
               "log(time) over log(size) from the value before: 1 is linear; ^ marks slopes above 1.15. Images are "
               "compared by pixels.",
}  # fmt: skip


def facts(command: str, name: str, threads: int, **chosen: Any) -> dict[str, Any]:
    """What results.json says of the run beside its numbers.

    Args:
        command: as it was typed.
        name: of the subcommand.
        chosen: settings that the protocol names.
    """
    return {
        "title": TITLES[name],
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": {"python": platform.python_version()} | versions(),
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "protocol": PROTOCOLS[name].format(**chosen),
        "settings": chosen,
    }


def versions() -> dict[str, str]:
    """Of the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write(folder: Path, name: str, result: dict[str, Any]) -> list[str]:
    """Write the results of a subcommand; return the names of the files.

    Each file appears at once, so that no reader finds half of one.
    """
    from benchmarks.timing.plot import plot

    texts = {"results.json": json.dumps(result, indent=2) + "\n", "results.md": markdown(name, result)}
    for file, text in texts.items():
        part = folder / f".{file}.part"
        part.write_text(text, encoding="utf-8")
        os.replace(part, folder / file)
    axes = dict.fromkeys(row["axis"] for row in result["rows"]) if name == "scaling" else ()
    pictures = {axis: f"scaling-{axis}.png" for axis in axes}
    return [*texts, *(file for axis, file in pictures.items() if plot(result["rows"], axis, folder / file))]


def markdown(name: str, result: dict[str, Any]) -> str:
    """The report for people."""
    about = ", ".join(f"{library} {version}" for library, version in result["versions"].items())
    load = "" if result["load"] is None else f", load average {result['load']} at the start"
    lines = [f"# {result['title']}", "", f"    {result['command']}", ""]
    lines += [f"{result['date']}, commit {result['commit']}, {result['machine']}; {result['threads']} threads{load}.",
              f"{about}.", "", result["protocol"], ""]  # fmt: skip
    return "\n".join([*lines, *getattr(tables, name)(result)]) + "\n"
