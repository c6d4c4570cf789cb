"""Train with ultralytics' own trainer and its own distillation, not ours: the rival's row of a comparison.

    python benchmarks/harness/rival.py --cfg yolo11n.yaml --data neu-det.yaml --recipe quick --teacher yolo11s.pt

Arguments are train.py's; what only ours has (`adaptive`, `kd_share`, `lr_steps` ...) is left out, `--teacher` is
ultralytics' `distill_model`, and `--weights` its `pretrained`. Model, loss, distillation, optimiser, loop and
checkpoints are ultralytics'. Ours are: files are read without running anything in them, nothing is looked up or
downloaded, and the CPU gets the threads the others get.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

if __name__ == "__main__":  # started as a file: Python looks beside it, not in the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from cfg import UserError, guard
from cfg.class_names import check_classes


def build_pair(settings: dict[str, Any], names: dict[int, str]) -> Any:
    """Build the student, and its teacher's wrapper where there is one, as ultralytics will; return the student.

    Args:
        settings: complete arguments (`engine.settings.complete`).
        names: classes of the data set.

    Raises:
        UserError: a student of ours, a teacher or weights that cannot be read or have other classes, or a pair that
            ultralytics refuses.
    """
    from engine.checkpoint import install, load_detector, read_weights
    from engine.detectors import build_detector
    from models.detector import Detector

    from ultralytics.cfg import DEFAULT_CFG_DICT
    from ultralytics.nn.distill_model import DistillationModel

    student = build_detector(settings["model"], len(names), names)
    if isinstance(student, Detector):
        raise UserError(f"{settings['model']}: expected a stock model of ultralytics, which its trainer can train, got "
                        "one of ours; use --rival-cfg yolo11n.yaml")  # fmt: skip
    if has_weights(settings):
        known = read_weights(settings["weights"])[1]
        if known and len(known) == len(names):  # else ultralytics leaves the class outputs out
            check_classes(settings["weights"], known, settings["data"], names, "give other --weights, or none")
    if settings["teacher"]:
        install()
        teacher = load_detector(settings["teacher"])[0]
        if isinstance(teacher, Detector):
            raise UserError(f"{settings['teacher']}: expected a stock model of ultralytics, whose scores its "
                            "distillation reads, got one of ours; use --rival-teacher yolo11s.pt")  # fmt: skip
        check_classes(settings["teacher"], teacher.names, settings["data"], names, "train the teacher on this data set")
        student.args = SimpleNamespace(**DEFAULT_CFG_DICT | {"imgsz": settings.get("imgsz") or 640})
        try:
            DistillationModel(teacher, student)
        except Exception as error:  # its own checks are few: what else is wrong fails somewhere in its dry run
            detail = " ".join(str(error).split())
            raise UserError(f"{settings['teacher']}: ultralytics cannot distil from it into {settings['model']} "
                            f"({detail}); choose another --rival-teacher") from error  # fmt: skip
    return student


def has_weights(settings: dict[str, Any]) -> bool:
    """Whether a file was given to start from: nothing ships for ultralytics' models."""
    from engine.settings import SHIPPED

    return settings["weights"] not in (None, SHIPPED)


def train(settings: dict[str, Any]) -> Path:
    """Train as the arguments say; return the run folder. Raises as `engine.training.launch.check_data` and ultralytics."""
    import yaml

    from data import resolve
    from engine.checkpoint import install
    from engine.dataset import use_own_data
    from engine.host import no_amp_probe, use_all_cores
    from engine.settings import Settings
    from engine.training.folders import run_folder
    from engine.training.launch import check_data

    from ultralytics.cfg import DEFAULT_CFG_DICT
    from ultralytics.models.yolo.detect import DetectionTrainer

    typed = Settings.of(settings)
    check_data(typed.data)
    folder = run_folder(typed.run)
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data.yaml"
    data.write_text(yaml.safe_dump(resolve(settings["data"]), sort_keys=False, allow_unicode=True), encoding="utf-8")
    overrides = {k: v for k, v in settings.items() if k in DEFAULT_CFG_DICT}
    overrides |= {"data": str(data), "distill_model": settings["teacher"], "exist_ok": True}
    overrides |= {"project": str(folder.parent), "name": folder.name}
    overrides |= {"pretrained": settings["weights"]} if has_weights(settings) else {}
    install()
    use_own_data()
    use_all_cores()
    with no_amp_probe():
        trainer = DetectionTrainer(overrides=overrides)
        trainer.train()
    return Path(trainer.save_dir)


def main() -> int:
    """Run the command line."""
    from engine.settings import complete, known_names, read_command_line

    train(complete(read_command_line(sys.argv[1:], known_names())))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
