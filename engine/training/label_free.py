"""A run on images without labels: what the student is trained on, how it is judged, what its checkpoints say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from data.files import list_images
from data.unlabelled import UNLABELLED, find_unlabelled, write_unlabelled
from distill.imitation import Imitation
from engine.checkpoint import UNTRAINED
from engine.training.trainer import Trainer
from engine.validation.validator import Validator

from ultralytics.utils import RANK


class LabelFreeTrainer(Trainer):
    """Trains a student to have its teacher's features (`Imitation`). `best.pt` is the epoch that does so best on the
    images that are held out; its head is as it was, and the checkpoint says so: a start from it leaves the head out.
    """

    def get_dataset(self) -> dict[str, Any]:
        """The run's own lists of images; a resumed run has them already."""
        self.args.split = "val"
        if not self.resume:
            self.args.data = str(self.save_dir / "data.yaml")
            if RANK in {-1, 0}:
                source = self.settings.data.unlabelled
                assert source, "a run of this trainer has images without labels"
                images, names = find_unlabelled(source), self.networks.student.names
                write_unlabelled(self.save_dir, source, images, names)
        data = super().get_dataset()
        trained, held_out = (len(list_images(Path(data[part]))) for part in ("train", "val"))
        self.networks.notes.append(
            f"NO LABELS are used: {trained} images of {data[UNLABELLED]}, and {held_out} held out, by whose distillation "
            "loss best.pt is chosen; the student's head stays untrained"
        )
        return data

    def make_model(self) -> Imitation:
        """Student, distiller and teacher, without a detection loss."""
        networks = self.networks
        assert networks.distiller and networks.teacher, "images without labels are taken with a teacher only"
        return Imitation(networks.student, networks.distiller, networks.teacher)

    def get_validator(self) -> Validator:
        """The losses of the held-out images."""
        args = vars(self.args) | {"plots": False}
        return LossValidator(self.test_loader, save_dir=self.save_dir, args=args, _callbacks=self.callbacks)

    def validate(self) -> tuple[dict[str, float] | None, float | None]:
        """Losses of the averaged weights on the held-out images; the fitness is their sum, negative."""
        best = self.best_fitness
        metrics, _ = super().validate()
        if metrics is None:  # another process than the first
            return None, None
        fitness = -sum(self.labelled["val"].values())
        self.best_fitness = fitness if best is None else max(best, fitness)
        return metrics, fitness

    def plot_training_labels(self) -> None:
        """Nothing: there are none."""

    def _meta(self, more: dict[str, float] | None = None) -> dict[str, Any]:
        head = self.networks.student.model[-1]
        return super()._meta(more) | {UNTRAINED: f"model.{head.i}."}

    def _validate_best(self) -> None:
        """Nothing: without labels there is no score."""


class LossValidator(Validator):
    """A validation within a run that computes the losses and nothing that needs labels or boxes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.metrics = SimpleNamespace(keys=[])  # columns that the trainer makes room for

    def get_desc(self) -> str:
        """The progress bar's text."""
        return "held-out images"

    def init_metrics(self, model: nn.Module) -> None:
        """Nothing to prepare."""

    def postprocess(self, preds: Any) -> Any:
        """The features as they are."""
        return preds

    def update_metrics(self, preds: Any, batch: dict[str, Any]) -> None:
        """Nothing to count."""

    def gather_stats(self) -> None:
        """Nothing to gather."""

    def get_stats(self) -> dict[str, Any]:
        """No figures besides the losses."""
        return {}

    def finalize_metrics(self) -> None:
        """Nothing to finish."""

    def print_results(self) -> None:
        """Nothing to print: the progress table has the losses of training, results.csv both."""
