"""A block, a head with its loss, a distillation method and a label format are each one new file: those of the documentation work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from small import description

ROOT = Path(__file__).resolve().parents[2]
READER = "data/convert/boxes_csv.py"

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


def documented_files() -> dict[str, str]:
    """The files that docs/extend.md shows, by the path in their first line."""
    text = (ROOT / "docs/extend.md").read_text(encoding="utf-8")
    return dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", text, re.S))


@pytest.mark.long
def test_adding_a_part_that_needs_an_edit_elsewhere(tmp_path: Path) -> None:
    rows = description(head=["FocusDetect", ["nc", "anchors", "coupled"]])
    rows["backbone"][1] = [-1, 1, "Gate", [8]]
    rows["backbone"][0] = [-1, 1, "Conv", [8, 3, 4]]
    rows["loss"] = {"power": 3.0}
    (tmp_path / "new.yaml").write_text(yaml.safe_dump(rows))
    parts = documented_files()
    (tmp_path / "new-method.yaml").write_text(parts.pop("cfg/distill/mean-only.yaml"))
    parts.pop(READER)
    assert len(parts) == 4
    for name, text in parts.items():
        package, _, module = name.rpartition("/")
        folder = tmp_path / package.replace("/", ".")
        folder.mkdir(exist_ok=True)
        (folder / module).write_text(text)
    code = RUN.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = "Gate ['cos_all', 'cos_mean', 'focus_loss', 'mean_loss', 'share_all', 'share_mean', 'w_focus', 'w_mean'] ['focus', 'mean'] []"
    assert done.stdout.strip().splitlines()[-1] == expected


def test_adding_a_label_format(tmp_path: Path) -> None:
    import data.convert.__main__ as convert

    source, out = tmp_path / "source", tmp_path / "out"
    (source / "images").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("L", (40, 20)).save(source / "images" / name)
    (source / "boxes.csv").write_text("image,class,x1,y1,x2,y2\na.png,pit,10,5,30,15\nb.png,scratch,0,0,20,10\nb.png,pit,20,10,40,20\n")
    (source / "other.csv").write_text("x,y\n1,2\n")
    known = dict(convert.READERS)
    try:
        exec(compile(documented_files()[READER], READER, "exec"), {})
        status = convert.main(["--format", "csv", "--source", str(source), "--out", str(out)])
    finally:
        convert.READERS.clear()
        convert.READERS.update(known)
    assert status == 1, "the other file was not left out with a note"
    rows = {path.stem: [[float(x) for x in line.split()] for line in path.read_text().splitlines()] for path in out.rglob("labels/**/*.txt")}
    assert rows == {"a": [[0, 0.5, 0.5, 0.5, 0.5]], "b": [[1, 0.25, 0.25, 0.5, 0.5], [0, 0.75, 0.75, 0.5, 0.5]]}
