"""Measure the base gains of a distillation configuration for a pair and a data set.

    python -m benchmarks.gains --cfg s-model.yaml --teacher t.pt --data neu-det.yaml --recipe quick

Prints, for an untrained student, the gradient norm at the student's neck of the detection loss and of each distillation loss (terms
that share a gain together), and by which factor that gain would have to change for the loss to pull a tenth as hard as the
detection loss. The factors times the gains in `cfg/distill/*.yaml` are what that file should hold.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import islice
from typing import Any

from cfg import guard

SHARE = 0.1  # of the detection loss's gradient
BATCHES = 8


def measure(given: dict[str, Any]) -> dict[str, float]:
    """Mean gradient norm at the student's neck over some training batches, by loss; `detection` is all its terms together."""
    from data import validate
    from distill.gradients import neck_gradients
    from engine.build import build_networks
    from engine.checkpoint import install
    from engine.launch import make_trainer
    from engine.settings import complete
    from models.detector import raw_output

    install()
    with tempfile.TemporaryDirectory() as folder:
        settings = complete(given | {"project": folder, "plots": False, "cache": False})
        summary = validate(settings["data"])
        trainer = make_trainer(settings, build_networks(settings, summary.nc, summary.names), None)
        trainer._setup_train()
        model = trainer.model.train()
        sums: dict[str, float] = {}
        for batch in islice(trainer.train_loader, BATCHES):
            batch = trainer.preprocess_batch(batch)
            preds = model.student(batch["img"])
            vector, _ = model.student.loss(batch, preds)
            losses = {"detection": vector.sum() / len(batch["img"])} | model.grouped(model.distil(batch, batch["img"], preds))
            for name, norm in neck_gradients(losses, raw_output(preds)["feats"]).items():
                sums[name] = sums.get(name, 0.0) + norm / BATCHES
    return sums


def main() -> int:
    if len(sys.argv) < 2 or "--help" in sys.argv:
        print(__doc__)
        return 2 if len(sys.argv) < 2 else 0
    from engine.settings import known_names, read_command_line

    norms = measure(read_command_line(sys.argv[1:], known_names()))
    for name, norm in norms.items():
        factor = f"factor for a share of {SHARE}: {SHARE * norms['detection'] / norm:.3g}" if norm else "no gradient"
        print(f"{name:<14} gradient at the neck {norm:.3e}   {'' if name == 'detection' else factor}")
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
