"""How the start weights in `weights/` were made: train a model on synthetic images of many materials, keep its tensors.

    python -m benchmarks.start_weights --cfg s-model-fast.yaml --epochs 5

Makes the images (`data.sample --materials all`) where they are not there yet, trains with the recipe `start`, scores the
model on the validation part, and writes `weights/<model>.safetensors`. No image, label or weight of others takes part.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.commands import run
from cfg import guard

RUNS = Path("runs/start")
PICTURES = Path("datasets/materials")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start_weights", description=__doc__.split("\n\n")[0])
    parser.add_argument("--cfg", required=True, help="model YAML, as of train.py")
    parser.add_argument("--epochs", type=int, default=5, help="times each image is seen (default: 5)")
    parser.add_argument("--images", type=int, default=20000, help="synthetic images, 70 %% of them to train on (default: 20000)")
    parser.add_argument("--size", type=int, default=160, help="their side in pixels (default: 160)")
    parser.add_argument("--out", type=Path, default=Path("weights"), help="folder (default: weights)")
    given = parser.parse_args()
    pictures = ("--images", str(given.images), "--size", str(given.size), "--out", str(PICTURES))
    run("-m", "data.sample", "--materials", "all", *pictures)
    name = Path(given.cfg).stem
    data = str(PICTURES / "data.yaml")
    where = ("--project", str(RUNS), "--name", name, "--exist-ok")
    seconds = run("train.py", "--cfg", given.cfg, "--data", data, "--recipe", "start", "--epochs", str(given.epochs), *where)
    trained = RUNS / name / "weights/best.pt"
    run("val.py", "--weights", str(trained), "--data", data, "--json", str(RUNS / f"{name}.json"), "--no-plots")
    metrics = json.loads((RUNS / f"{name}.json").read_text(encoding="utf-8"))["metrics"]
    made = f"{given.images} synthetic images of {given.size} px, 70 % of them seen {given.epochs} times"
    path = ship(trained, given.out / f"{name}.safetensors", made)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; {made}; {seconds / 60:.0f} minutes; on the synthetic validation "
          f"part mAP50 {metrics['mAP50']:.3f}, mAP50-95 {metrics['mAP50-95']:.3f}")  # fmt: skip
    return 0


def ship(trained: Path, path: Path, made: str) -> Path:
    """Write the tensors of a checkpoint as start weights that say how they were `made`, and nothing of where; return `path`."""
    from engine.checkpoint import load_detector, pack
    from engine.safe_tensors import save_safetensors

    detector, _ = load_detector(trained)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_safetensors(path, pack(detector, {"made": made}))
    return path


if __name__ == "__main__":
    sys.exit(guard(main))
