"""A watched folder whose service is killed again and again while images come: each has exactly one outcome."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURES, KILLS = 120, 5
SERVICE = """
import json, sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from service.cameras import FolderOptions, open_cameras
folder = Path(sys.argv[2])
accepted, settled = (folder / name for name in ("accepted", "settled"))
read = lambda path: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
left = {entry[0] for entry in read(accepted)} - {entry[0] for entry in read(settled)}

def write(path, *words):
    with path.open("a") as file:
        file.write(json.dumps(words) + "\\n")

for source in left:
    write(settled, source, "UNDEFINED")

def submit(data, source):
    write(accepted, source, time.time())
    time.sleep(0.004)
    write(settled, source, data.decode())

answered = lambda source, since: any(name == source and moment >= since for name, moment in read(accepted))
camera = open_cameras([FolderOptions(str(folder / "in"))], folder / "state", answered)[0]
print("ready", flush=True)
camera.run(submit, threading.Event())
"""


def drop(folder: Path) -> None:
    """Write images as a line does, in both ways."""
    for number in range(PICTURES):
        target = folder / f"{number}.jpg"
        part = target if number % 2 else folder / f"{number}.part"
        part.write_bytes(b"content %d" % number)
        part.rename(target)
        time.sleep(0.01)


def test_each_picture_has_one_outcome_whenever_the_service_is_killed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    line = threading.Thread(target=drop, args=(tmp_path / "in",))
    chance = random.Random(1)
    for kill in range(KILLS + 1):
        service = subprocess.Popen([sys.executable, "-c", SERVICE, ROOT, tmp_path], stdout=subprocess.PIPE, text=True)
        assert service.stdout.readline() == "ready\n"
        if not kill:
            line.start()
        if kill < KILLS:
            time.sleep(0.4 + chance.uniform(0, 0.15))
        else:
            line.join()
            deadline = time.monotonic() + 20
            while len(outcomes(tmp_path)) < PICTURES and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.5)
        service.kill()
        service.communicate()
    names = Counter(source for source, _ in outcomes(tmp_path))
    assert set(names) == {f"in/{number}.jpg" for number in range(PICTURES)} and set(names.values()) == {1}
    known = [(source, word) for source, word in outcomes(tmp_path) if word != "UNDEFINED"]
    assert all(word == f"content {source[3:-4]}" for source, word in known) and len(known) >= PICTURES - KILLS


def outcomes(folder: Path) -> list[list[str]]:
    path = folder / "settled"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
