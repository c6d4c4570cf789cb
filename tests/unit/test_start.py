"""Start weights: from YOLOv5's files, from our own, from the teacher; what is taken, from where, and what is refused."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError
from distill.model import TrainingModel
from distill.networks import FrozenTeacher
from engine.checkpoint import pack, save_student
from engine.safe_tensors import save_safetensors
from engine.settings import Network, Settings
from engine.start import start as start_module
from engine.start.race import put
from engine.start.selection import select
from engine.start.shipped import shipped_for
from engine.start.source import read_source, yolov5_layout
from engine.start.start import Start, start_from_file, start_from_teacher, start_of
from models.detector import Detector
from models.parser import read_model
from models.wiring import wiring_of

from ultralytics.nn.tasks import DetectionModel

pytestmark = pytest.mark.long  # networks of their real sizes
REAL = Path(__file__).resolve().parents[3] / "shared/weights/yolov5n_coco_state_dict_fp16.pt"
SCALES = {"n": (0.33, 0.25), "s": (0.33, 0.5), "m": (0.67, 0.75)}
NAMES = {0: "crazing", 1: "patches"}
T_SMALL, S_SMALL = (str(Path(__file__).parent / f"{kind}-small.yaml") for kind in "ts")  # laid out alike


def yolov5(size: str = "n", width: float | None = None, nc: int = 3) -> Detector:
    """A YOLOv5 with random weights and BatchNorm statistics of its own; a copy of what is built once, as `trained` and `new`."""
    return deepcopy(_yolov5(size, width, nc))


@cache
def _yolov5(size: str, width: float | None, nc: int) -> Detector:
    depth, usual = SCALES[size]
    torch.manual_seed(7)
    model = Detector(read_model("yolov5s.yaml") | {"depth_multiple": depth, "width_multiple": width or usual, "nc": nc})
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and "anchor" not in name:
            scale = torch.randn(tensor.shape) / tensor[0].numel() ** 0.5 if tensor.ndim > 1 else torch.rand(tensor.shape) + 0.5
            tensor.copy_(scale)
    return model


def new(name: str, nc: int = 2, names: dict[int, str] | None = None) -> Detector:
    """A model before training."""
    model = deepcopy(_new(name, nc))
    model.names = names or model.names
    return model


@cache
def _new(name: str, nc: int) -> Detector:
    return Detector(name, nc=nc)


def as_published(model: Detector) -> dict[str, Tensor]:
    """The tensors as YOLOv5's files have them: half precision, anchors in grid cells."""
    state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()}
    pixels = state.pop("model.24.anchor_wh").float()
    return state | {"model.24.anchors": (pixels / model.stride.view(-1, 1, 1)).half()}


def saved(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


def network(**given: Any) -> Network:
    return Settings.of(given).network


def from_file(student: Detector, path: str, model: str = "s-model-fast.yaml") -> Start:
    return start_from_file(student, path, network(model=model), dict(student.names))


def rows_of(start: Start) -> dict[str, tuple[str, str]]:
    """The table by block: tensors, how."""
    found = (re.fullmatch(r"  (.+?)  +(\d+/\d+)  (.+)", line) for line in start.table[1:])
    return {row[1]: (row[2], row[3]) for row in found}


# -- from YOLOv5 -------------------------------------------------------------------------------------------------------


def test_the_fast_student_takes_the_whole_backbone_of_yolov5n_but_its_swin_block(tmp_path: Path) -> None:
    source = yolov5()
    student = new("s-model-fast.yaml", 2, NAMES)
    start = from_file(student, saved(tmp_path / "v5n.pt", {"state_dict": as_published(source)}), "s-model-fast.yaml")
    rows = rows_of(start)
    backbone = {title: how for title, (_, how) in rows.items() if title.startswith("backbone")}
    assert backbone.pop("backbone 32 Swin") == "own start"
    assert set(backbone.values()) == {"whole"} and len(backbone) == 9
    assert rows["backbone 16 C3"] == ("54/54", "whole") and rows["lateral 16 Conv"] == ("6/6", "whole")
    assert rows["bottom-up 32 C3"] == ("30/30", "whole") and rows["head 8 decoupled"][1] == "own start"
    own, given = student.state_dict(), as_published(source)
    for row in (0, 1, 2, 3, 4, 5, 6, 7, 9, 10):  # the rows of both, up to the neck's first conv
        for name in own:
            if name.startswith(f"model.{row}."):
                assert torch.equal(own[name], given[name].to(own[name])), name
    assert torch.equal(own["model.13.mix.cv3.conv.weight"], given["model.17.cv3.conv.weight"].float())
    assert re.match(r"start: 1,\d{3},\d{3} of 2,\d{3},\d{3} values from the weights \S+ \(YOLOv5, 16 to 256 channels\)", start.lines[0])


def test_where_everything_is_taken_the_function_is_the_source_s() -> None:
    """The fast student's layout with a C3 for its Swin block, no attention and a coupled head is YOLOv5n."""
    source = yolov5(nc=2)
    rows = deepcopy(read_model("s-model-fast.yaml")) | {"attention": "none", "nc": 2}
    rows["backbone"][8] = [-1, 1, "C3", [256]]
    rows["head"][-1] = [[13, 14, 15], 1, "AnchorDetect", ["nc", "anchors", "coupled"]]
    student = Detector(rows)
    total = select(student, wiring_of(source), source.state_dict()).total
    assert total.whole == total.tensors == len(source.state_dict()) == 349
    image = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        assert torch.equal(student.eval()(image)[0], source.eval()(image)[0])


@pytest.mark.parametrize(("name", "size", "least", "whole"), [
    ("s-model-fast.yaml", "n", 0.60, True), ("s-model-fast.yaml", "s", 0.60, False), ("s-model.yaml", "n", 0.28, True),
    ("t-model.yaml", "m", 0.25, False),
])  # fmt: skip
def test_how_much_of_a_model_loads(name: str, size: str, least: float, whole: bool) -> None:
    source, student = yolov5(size), Detector(name, nc=6)
    total = select(student, wiring_of(source), source.state_dict()).total
    assert total.numbers_taken / total.numbers > least and total.partial == 0
    assert (total.whole == total.taken) == whole


def test_a_narrower_student_takes_the_same_channels_wherever_they_are_read() -> None:
    source, student = yolov5("s"), new("s-model.yaml", 6)  # twice as wide
    select(student, wiring_of(source), source.state_dict())
    own, given = student.state_dict(), source.state_dict()
    even, lateral = torch.arange(64) * 2, torch.arange(128) * 2
    assert torch.equal(own["model.3.conv.weight"], given["model.3.conv.weight"][even][:, ::2])
    assert torch.equal(own["model.3.bn.running_var"], given["model.3.bn.running_var"][even])
    # Top-down C3 at stride 16: 128 channels of the lateral conv beside 128 of the backbone, of 256 beside 256.
    columns = torch.cat((lateral, 256 + lateral))
    assert torch.equal(own["model.14.mix.cv1.conv.weight"], given["model.13.cv1.conv.weight"][::2][:, columns])
    # C3's cv3: both branches side by side; SPP's cv2: four times the same channels.
    both = torch.cat((torch.arange(32) * 2, 64 + torch.arange(32) * 2))
    assert torch.equal(own["model.4.cv3.conv.weight"], given["model.4.cv3.conv.weight"][even][:, both])
    pooled = torch.cat([256 * i + lateral for i in range(4)])
    assert torch.equal(own["model.11.cv2.conv.weight"], given["model.9.cv2.conv.weight"][::2][:, pooled])


def test_a_deeper_source_gives_its_first_layers_and_a_shallower_one_all_of_them() -> None:
    deep, shallow = yolov5("m", width=0.25), yolov5()
    student = Detector(read_model("yolov5s.yaml") | {"width_multiple": 0.25, "nc": 3})
    select(student, wiring_of(deep), deep.state_dict())
    own, given = student.state_dict(), deep.state_dict()
    assert len(deep.model[4].m) == 4 and len(student.model[4].m) == 2
    for i in range(2):
        assert torch.equal(own[f"model.4.m.{i}.cv2.conv.weight"], given[f"model.4.m.{i}.cv2.conv.weight"])
    assert torch.equal(own["model.13.cv3.conv.weight"], given["model.13.cv3.conv.weight"])  # reads the last of one or two
    larger = Detector(deep.yaml)
    select(larger, wiring_of(shallow), shallow.state_dict())
    assert torch.equal(larger.model[4].m[1].cv2.conv.weight, shallow.model[4].m[1].cv2.conv.weight)
    # A bottleneck that only the larger one has adds nothing at first; one that is no residual keeps its own start.
    assert not larger.model[4].m[2].cv2.bn.weight.any() and larger.model[13].m[1].cv2.bn.weight.all()


def test_residual_branches_that_the_source_has_not_are_closed_at_first() -> None:
    source, student = yolov5(), new("s-model-fast.yaml", 6)
    block = student.model[8].blocks[0]
    assert block.attention.out.weight.any() and block.mlp[2].weight.any()
    select(student, wiring_of(source), source.state_dict())
    x = torch.randn(1, 256, 4, 4)
    assert torch.equal(student.model[8](x), x)
    student.model[8](x).square().sum().backward()
    assert block.attention.out.weight.grad.abs().sum() > 0 and block.mlp[2].weight.grad.abs().sum() > 0


def test_the_s_model_computes_yolov5n_s_features_at_the_start() -> None:
    """What YOLOv5n has not (patch merging, Swin, fusion) adds nothing at first, so that the backbones are one function."""
    source, student = yolov5().eval(), new("s-model.yaml", 6).eval()
    select(student, wiring_of(source), source.state_dict())
    theirs = ours = torch.rand(1, 3, 96, 64)
    found = {}
    with torch.no_grad():
        for layer in source.model[:10]:
            theirs = found[int(layer.gives[0][1])] = layer(theirs)
        kept = {}
        for i, layer in enumerate(student.model[:13]):
            ours = kept[i] = layer(ours if layer.f == -1 else [kept[j if j >= 0 else i + j] for j in layer.f])
    for row, stride in ((2, 4), (4, 8), (7, 16), (12, 32)):
        assert torch.equal(kept[row], found[stride]), stride


def test_ultralytics_yolov5u_gives_all_but_its_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stock = DetectionModel("yolov5n.yaml", nc=4, verbose=False)
    path = tmp_path / "v5nu.pt"
    save_student(path, stock, {})
    student = new("s-model-fast.yaml")
    rows = rows_of(from_file(student, str(path), "s-model-fast.yaml"))
    assert rows["backbone 16 C3"] == ("54/54", "whole") and rows["bottom-up 32 C3"] == ("30/30", "whole")
    assert torch.equal(student.state_dict()["model.15.mix.cv1.conv.weight"], stock.state_dict()["model.23.cv1.conv.weight"])
    coupled = Detector("yolov5n.yaml", nc=4)  # the same rows, another head
    rows = rows_of(from_file(coupled, str(path), "yolov5n.yaml"))
    assert {how for title, (_, how) in rows.items() if not title.startswith("head")} == {"whole"}
    assert {how for title, (_, how) in rows.items() if title.startswith("head")} == {"own start"}


def test_the_coupled_head_of_another_size_gives_boxes_and_the_classes_of_the_same_names(tmp_path: Path) -> None:
    source = yolov5("s", nc=3)
    path = saved(tmp_path / "v5s.pt", {"state_dict": as_published(source), "names": ["patches", "other", "crazing"]})
    student = Detector("yolov5n.yaml", nc=2, names=NAMES)
    from_file(student, path, "yolov5n.yaml")
    given = as_published(source)["model.24.m.0.bias"].float().view(3, 8)
    got = student.state_dict()["model.24.m.0.bias"].view(3, 7)
    assert torch.equal(got[:, :5], given[:, :5])
    assert torch.equal(got[:, 5], given[:, 7]) and torch.equal(got[:, 6], given[:, 5])  # crazing, patches
    assert torch.allclose(student.head.anchor_wh, source.head.anchor_wh, atol=0.1)


@pytest.mark.real
def test_the_real_yolov5n_starts_ours_as_it_is(tmp_path: Path) -> None:
    if not REAL.is_file():
        pytest.skip(f"needs {REAL.name} in ../shared/weights")
    content = torch.load(REAL, weights_only=True)
    given = content["state_dict"]
    same = Detector("yolov5n.yaml", names=dict(enumerate(content["names"])))
    start = from_file(same, str(REAL), "yolov5n.yaml")
    assert start.lines[0].startswith("start: 349 of 349 tensors") and not start.table
    own = same.state_dict()
    assert all(torch.equal(own[name], tensor.to(own[name])) for name, tensor in given.items() if name in own)
    for name, least in (("s-model-fast.yaml", 1_460_000), ("s-model.yaml", 1_720_000), ("t-model.yaml", 1_720_000)):
        model = Detector(name, nc=6)
        line = from_file(model, str(REAL), name).lines[0]
        assert int(line.split()[1].replace(",", "")) > least
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


# -- from our own, and from the teacher ---------------------------------------------------------------------------------


def teacher_of(model: Detector, label: str = "teacher t.pt") -> FrozenTeacher:
    return FrozenTeacher(model, label)


def trained(name: str, names: dict[int, str] = NAMES) -> Detector:
    """A model as after training: nothing in it is zero or one by its initialisation."""
    return deepcopy(_trained(name, tuple(names.values())))


@cache
def _trained(name: str, names: tuple[str, ...]) -> Detector:
    torch.manual_seed(3)
    model = Detector(name, nc=len(names), names=dict(enumerate(names)))
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape) * 0.1)
    return model


def test_s_is_selected_from_t_whole() -> None:
    teacher, student = trained(T_SMALL), new(S_SMALL, 2, NAMES)
    start = start_from_teacher(student, teacher_of(teacher), "select")
    total = len(student.state_dict())
    assert f"({total} of {total} tensors" in start.lines[0] and "the teacher t.pt, by weight selection" in start.lines[0]
    own, given = student.state_dict(), teacher.state_dict()
    # By role: the bottom-up block at stride 16 is row 20 of S and row 24 of T. 16 of 32 channels, of 64 and of 32.
    lateral = torch.arange(own["model.20.resample.conv.weight"].shape[0]) * 2
    assert torch.equal(own["model.20.resample.conv.weight"], given["model.24.resample.conv.weight"][lateral][:, lateral])
    # Heads of attention: S has one at stride 16, T two; of query, key and value each the first.
    query = torch.cat([torch.arange(32) + 64 * i for i in range(3)])
    even = torch.arange(32) * 2
    name = "blocks.1.attention.qkv.weight"
    assert torch.equal(own[f"model.7.{name}"], given[f"model.7.{name}"][query][:, even])
    assert torch.equal(own["model.7.blocks.1.attention.position_bias"], given["model.7.blocks.1.attention.position_bias"][:, :1])
    assert torch.equal(own["model.22.anchor_wh"], given["model.28.anchor_wh"][:4])  # strides 4 to 32 of 4 to 128
    assert torch.equal(own["model.22.m.3.class_out.bias"], given["model.28.m.3.class_out.bias"])


def test_classes_are_selected_by_name() -> None:
    teacher = trained(T_SMALL, names={0: "patches", 1: "inclusion", 2: "crazing"})
    student = new(S_SMALL, 2, NAMES)
    start_from_teacher(student, teacher_of(teacher), "select")
    given = teacher.state_dict()["model.28.m.0.class_out.bias"].view(3, 3)
    assert torch.equal(student.state_dict()["model.22.m.0.class_out.bias"].view(3, 2), given[:, [2, 0]])


def test_a_checkpoint_as_weights_and_as_teacher_start_alike(tmp_path: Path) -> None:
    teacher, path = trained(T_SMALL), str(tmp_path / "t.pt")
    save_student(path, teacher, {})
    one, other = (Detector(S_SMALL, nc=2, names=NAMES) for _ in range(2))
    start = from_file(one, path, S_SMALL)
    start_from_teacher(other, teacher_of(teacher), "select")
    state = other.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in one.state_dict().items())
    assert rows_of(start)["bottom-up 16 C3"] == ("30/30", "sliced") and "(t-small.yaml)" in start.lines[0]


def test_a_teacher_laid_out_otherwise_gives_nothing_unless_it_is_asked_to() -> None:
    teacher = teacher_of(trained("s-model-fast.yaml"))
    student = new(S_SMALL, 2, NAMES)
    before = deepcopy(student.state_dict())
    line = start_from_teacher(student, teacher, "select").lines[0]
    assert line.startswith("start: no weights of the teacher t.pt: its layout differs (no ") and "--teacher-init True" in line
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    stock = FrozenTeacher(DetectionModel("yolov8n.yaml", nc=2, verbose=False), "v8")
    assert "its layout differs" in start_from_teacher(student, stock, "select").lines[0]
    # A smaller teacher has not what a larger student needs.
    line = start_from_teacher(trained("s-model.yaml"), teacher_of(trained(S_SMALL)), "select").lines[0]
    assert "its layout differs (no backbone 2 Conv (conv.weight))" in line


def test_a_teacher_that_has_most_of_the_blocks_gives_these_and_the_rest_stays_as_it_was() -> None:
    teacher, student = trained("yolov5n.yaml"), trained("s-model-fast.yaml")
    before = deepcopy(student.state_dict())
    start = start_from_teacher(student, teacher_of(teacher), "select")
    assert "the teacher t.pt, by weight selection (312 of 452 tensors, 312 of them whole)" in start.lines[0] and not start.whole
    rows, state = rows_of(start), student.state_dict()
    assert rows["backbone 32 Swin"] == ("0/13", "own start") and rows["bottom-up 32 C3"] == ("30/30", "whole")
    assert torch.equal(next(student.parameters()), next(teacher.parameters()))
    head = f"model.{student.model[-1].i}."
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.items() if name.startswith(head))


def test_of_a_teacher_of_another_layout_blocks_of_the_same_width_are_taken_and_slices_of_wider_ones_are_not() -> None:
    teacher, student = trained("s-model.yaml"), trained("s-model-fast.yaml")
    before = deepcopy(student.state_dict())
    start = start_from_teacher(student, teacher_of(teacher), "select")
    assert "by weight selection (366 of 452 tensors, 366 of them whole)" in start.lines[0] and not start.whole
    rows, state = rows_of(start), student.state_dict()
    assert rows["backbone 8 C3"] == ("42/42", "whole") and rows["backbone 32 Swin"] == ("0/13", "own start")
    same = [name for name, tensor in state.items() if torch.equal(tensor, before[name])]
    assert "model.8.blocks.0.attention.qkv.weight" in same and "model.4.m.0.cv1.conv.weight" not in same


def test_the_start_that_a_teacher_s_blocks_replaced_is_kept_for_a_race() -> None:
    teacher, student = teacher_of(trained("s-model.yaml")), trained("s-model-fast.yaml")
    before = deepcopy(student.state_dict())
    anchors = f"model.{student.model[-1].i}.anchor_wh"
    start = start_from_teacher(student, teacher, "select", trained=True)
    assert start.rival and start.rival.current == "the teacher t.pt" and anchors not in start.rival.tensors
    now = student.state_dict()
    changed = {name for name, tensor in now.items() if not torch.equal(tensor, before[name])}
    assert set(start.rival.tensors) == changed - {anchors} and len(changed) > 300
    put(TrainingModel(student), start.rival.tensors)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items() if name != anchors)
    # Nothing to choose from: a student that knew nothing, and one that takes all.
    assert start_from_teacher(new("s-model-fast.yaml", 2, NAMES), teacher, "select").rival is None
    assert start_from_teacher(trained(S_SMALL), teacher_of(trained(S_SMALL)), "select", trained=True).rival is None


def test_a_wider_teacher_of_another_layout_gives_nothing() -> None:
    student = Detector("s-model-fast.yaml", nc=2, names=NAMES)
    before = deepcopy(student.state_dict())
    start = start_from_teacher(student, teacher_of(trained("t-demo.yaml")), "select")
    assert "no weights of the teacher t.pt: its layout differs" in start.lines[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


def test_yolov5u_as_a_teacher_gives_its_backbone_and_neck() -> None:
    teacher, student = DetectionModel("yolov5n.yaml", nc=2, verbose=False), Detector("s-model-fast.yaml", nc=2, names=NAMES)
    start = start_from_teacher(student, FrozenTeacher(teacher, "teacher v5u.pt"), "select")
    assert "the teacher v5u.pt, by weight selection (312 of 452 tensors, 312 of them whole)" in start.lines[0]
    assert torch.equal(next(student.parameters()), next(teacher.parameters()))


def test_a_stock_pair_of_one_layout_starts_alike() -> None:
    models = [DetectionModel("yolov8n.yaml", nc=2, verbose=False) for _ in range(2)]
    line = start_from_teacher(models[0], FrozenTeacher(models[1], "teacher v8.pt"), "select").lines[0]
    total = len(models[0].state_dict())
    assert line == f"start: {total} of {total} tensors of the teacher v8.pt fit the student by name and shape"


@pytest.mark.parametrize(("mode", "weights", "lines"), [
    ("select", False, ["by weight selection"]), (True, False, ["by name and shape"]), (False, False, ["random weights"]),
    ("select", True, ["values from the weights"]), (True, True, ["by name and shape", "values from the weights"]),
])  # fmt: skip
def test_what_a_run_starts_from(tmp_path: Path, mode: bool | str, weights: bool, lines: list[str]) -> None:
    path = saved(tmp_path / "v5.pt", as_published(yolov5(width=0.125))) if weights else None
    settings = network(model=S_SMALL, teacher_init=mode, weights=path)
    student = new(S_SMALL, 2, NAMES)
    starts = start_of(student, teacher_of(trained(T_SMALL)), settings, NAMES)
    assert len(starts) == len(lines) and all(line in start.lines[0] for line, start in zip(lines, starts))
    untrained = FrozenTeacher(trained(T_SMALL), "t", trained=False)
    (start,) = start_of(student, untrained, replace(settings, weights=None), NAMES)
    assert start.lines == ["start: random weights; --weights FILE starts s-small.yaml from trained ones"]


@pytest.mark.parametrize(("mode", "lines"), [
    (False, ["tensors of the weights"]), ("select", ["tensors of the weights", "36 of its 37 blocks are wider; --weights"]),
    (True, ["tensors of the weights", "tensors of the teacher"]),
])  # fmt: skip
def test_shipped_weights_are_the_start_unless_something_else_is_given(tmp_path, monkeypatch, mode, lines) -> None:
    shipped = trained(S_SMALL)
    save_safetensors(tmp_path / "s.safetensors", pack(shipped, {}))
    monkeypatch.setattr(start_module, "shipped_for", lambda student: shipped_for(student, tmp_path))
    student, other = Detector(S_SMALL, nc=3), Detector("s-model-fast.yaml", nc=3)
    settings = network(model=S_SMALL, teacher_init=mode)
    starts = start_of(student, teacher_of(trained(T_SMALL)), settings, dict(enumerate("abc")))
    assert len(starts) == len(lines) and all(line in start.lines[0] for line, start in zip(lines, starts))
    if mode is False:
        state, source = student.state_dict(), shipped.state_dict()
        assert torch.allclose(state["model.0.conv.weight"], source["model.0.conv.weight"], rtol=1e-3)
        assert "class outputs" in starts[0].lines[1] and "none taken, it has 2 classes and the data 3" in starts[0].lines[1]
    equal = start_of(student, teacher_of(trained(S_SMALL)), settings, dict(enumerate("abc")))
    assert mode != "select" or ["by weight selection" in start.lines[0] for start in equal] == [True], "all its blocks are as wide"
    (alone,) = start_of(student, None, replace(settings, weights=None), dict(enumerate("abc")))
    (none_shipped,) = start_of(other, None, settings, dict(enumerate("abc")))
    assert "random weights" in alone.lines[0] and "random weights" in none_shipped.lines[0]


def test_the_rest_of_a_start_does_not_depend_on_what_is_filled_in(tmp_path: Path) -> None:
    path = saved(tmp_path / "v5.pt", as_published(yolov5()))
    torch.manual_seed(0)
    student = new("s-model-fast.yaml")
    before, state = deepcopy(student.state_dict()), torch.get_rng_state()
    from_file(student, path, "m")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items() if k.startswith("model.16."))


# -- bad input ----------------------------------------------------------------------------------------------------------


def cut(state: dict[str, Tensor], name: str, count: int) -> dict[str, Tensor]:
    return state | {name: state[name][:count]}


FAULTS = {
    "pruned": (lambda s: cut(s, "model.2.cv1.conv.weight", 10), r"expected model\.2\.cv1\.conv\.weight of shape \[16, 32, 1, 1\]"),
    "fused": (lambda s: {k: v for k, v in s.items() if ".bn." not in k}, r"expected model\.0\.bn\.weight of shape \[16\].*got none"),
    "not finite": (lambda s: s | {"model.5.bn.weight": s["model.5.bn.weight"] * torch.nan}, r"got NaN or infinity in model\.5\.bn"),
    "without some rows": (lambda s: {k: v for k, v in s.items() if ".9." not in k}, r"got another layout: \d+ of \d+ tensors fit"),
    "older stem": (lambda s: s | {"model.0.conv.weight": torch.rand(16, 12, 3, 3)}, r"got another layout: \d+ of \d+ tensors fit"),
    "foreign": (lambda s: {f"backbone.{k}": v for k, v in s.items()}, r"no tensor fits s-model-fast\.yaml by name and shape"),
    "no tensors": (lambda s: {"a": 1}, r"expected a checkpoint with named tensors, got none"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_weights_that_cannot_be_used_are_told_in_one_line(tmp_path: Path, kind: str) -> None:
    spoil, message = FAULTS[kind]
    path = saved(tmp_path / "w.pt", spoil(as_published(yolov5())))
    student = new("s-model-fast.yaml")
    with pytest.raises(UserError, match=message) as error:
        from_file(student, path, "s-model-fast.yaml")
    assert "\n" not in str(error.value) and path in str(error.value)


def test_a_damaged_file(tmp_path: Path) -> None:
    path = Path(saved(tmp_path / "w.pt", as_published(yolov5())))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"w\.pt: expected a checkpoint .*damaged"):
        read_source(path)


def test_a_stock_student_takes_what_a_like_file_has_and_nothing_that_fits_by_chance(tmp_path: Path) -> None:
    save_student(tmp_path / "fast.pt", trained("s-model-fast.yaml"), {})
    student = DetectionModel("yolo11n.yaml", nc=2, verbose=False)
    with pytest.raises(UserError, match=r"expected weights of this model or its backbone, .*: 59 of 452 tensors fit yolo11n.yaml .* by chance"):
        from_file(student, str(tmp_path / "fast.pt"), "yolo11n.yaml")
    whole = DetectionModel("yolo11n.yaml", nc=2, verbose=False).state_dict()
    part = {name: value if i % 2 else torch.zeros(1) for i, (name, value) in enumerate(whole.items())}  # of a changed copy of the YAML
    start = from_file(student, saved(tmp_path / "half.pt", part), "yolo11n.yaml")
    assert "fit the student by name and shape" in start.lines[0]


def test_a_network_that_shares_no_block(tmp_path: Path) -> None:
    save_student(tmp_path / "mlp.pt", trained("fault-mlp.yaml"), {})
    with pytest.raises(UserError, match=r"no block of it \(fault-mlp\.yaml\) has a place in s-model-fast\.yaml"):
        from_file(new("s-model-fast.yaml"), str(tmp_path / "mlp.pt"), "s-model-fast.yaml")


@pytest.mark.parametrize("width", [0.25, 0.4, 0.75])
def test_a_yolov5_of_any_width_is_known_by_its_tensors(width: float) -> None:
    state = yolov5(width=width).state_dict()
    layout = yolov5_layout(state)
    assert layout["nc"] == 3 and layout["backbone"][6][1] == 3
    assert Detector(layout).state_dict().keys() == state.keys()
