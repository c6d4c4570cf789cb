"""A block, a head with its loss, and a distillation method are each one new file and no edit: each trains a step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent))
from small import description  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]

BLOCK = '''
from torch import nn
from models.blocks import BLOCKS
from models.rules import to_channels

@BLOCKS.register("Gate")
class Gate(nn.Module):
    rule = staticmethod(to_channels)

    def __init__(self, c_in, c_out):
        super().__init__()
        self.mix = nn.Conv2d(c_in, c_out, 1)

    def forward(self, features):
        return self.mix(features).sigmoid()
'''
HEAD = '''
from models.heads import HEADS
from models.heads.anchor import AnchorDetect
from models.losses.focus import Focus

@HEADS.register("FocusDetect")
class FocusDetect(AnchorDetect):
    loss_terms = ("focus_loss",)

    def loss(self, **options):
        return Focus(**options)
'''
LOSS = '''
from torch import nn

class Focus(nn.Module):
    def __init__(self, power=2.0):
        super().__init__()
        self.power = power

    def forward(self, raw, batch):
        return {"focus_loss": sum(p.abs().pow(self.power).mean() for p in raw["preds"])}
'''
METHOD = '''
from torch import nn
from distill.base import METHODS, Distiller, Term, float32

@METHODS.register("mean-only")
class MeanOnly(Distiller):
    terms = (Term("mean_loss", "mean"),)

    def __init__(self, student, teacher, power=2.0):
        super().__init__(student, teacher)
        self.power = power
        channels = {n: (student.levels[n].channels, teacher.levels[n].channels) for n in self.pairs}
        self.adapters = nn.ModuleDict({n: nn.Conv2d(a, b, 1) for n, (a, b) in channels.items()})

    def losses(self, step):
        student, teacher = float32(step.student), float32(step.teacher)
        gaps = [self.adapters[n](student[n]).mean((2, 3)) - teacher[n].mean((2, 3)) for n in self.pairs]
        return {"mean_loss": sum(gap.abs().pow(self.power).mean() for gap in gaps)}
'''
RUN = '''
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
folder = Path({folder!r})
import models.environment
import models.blocks, models.heads, models.losses, distill.methods
for package in (models.blocks, models.heads, models.losses, distill.methods):
    package.__path__.append(str(folder / package.__name__))
import torch
from small import batch
from distill.model import FrozenTeacher, TrainingModel
from distill.build import build_distiller
from engine.training.build import build_detector

teacher = FrozenTeacher(build_detector("s-model-fast.yaml", nc=2), "teacher s-model-fast")
student = build_detector(folder / "new.yaml")
distiller = build_distiller(folder / "new-method.yaml", student, teacher, "new")
model = TrainingModel(student, distiller, teacher)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
before = {{k: v.clone() for k, v in model.named_parameters()}}
total, items = model(batch())
total.sum().backward()
optimizer.step()
still = [k for k, v in model.named_parameters() if torch.equal(v, before[k]) and not k.startswith("student.model.5.m")]
print(type(student.model[1]).__name__, sorted(items), model.weights.names, still)
'''


def test_adding_a_part_that_needs_an_edit_elsewhere(tmp_path: Path) -> None:
    rows = description(head=["FocusDetect", ["nc", "anchors", "coupled"]])
    rows["backbone"][1] = [-1, 1, "Gate", [8]]
    rows["backbone"][0] = [-1, 1, "Conv", [8, 3, 4]]
    rows["loss"] = {"power": 3.0}
    (tmp_path / "new.yaml").write_text(yaml.safe_dump(rows))
    (tmp_path / "new-method.yaml").write_text("method: mean-only\npower: 1.0\n")
    parts = {"models.blocks/gate.py": BLOCK, "models.heads/focus.py": HEAD, "models.losses/focus.py": LOSS}
    for name, text in (parts | {"distill.methods/mean_only.py": METHOD}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    code = RUN.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = "Gate ['cos_all', 'cos_mean', 'focus_loss', 'mean_loss', 'share_all', 'share_mean', 'w_focus', 'w_mean'] ['focus', 'mean'] []"
    assert done.stdout.strip().splitlines()[-1] == expected
