"""Every seam of ultralytics we rely on, by name: a new version fails loudly here and not somewhere in a run.

When a version is raised, read what changed behind each failing line before changing the line.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from small import ROOT, batch, detector, distilling

from engine.backend import Backend, OnnxBackend, OpenVinoBackend
from engine.detection.predictor import Predictor
from engine.detection.sources import MediaSource
from engine.detection.stream_source import StreamSource
from engine.export.exporter import DetectorExporter
from engine.settings import OWN_DEFAULTS, defaults
from engine.training.trainer import Trainer
from engine.validation.validator import Validator
from models.blocks.host import SPP, Conv
from models.detector import Detector
from models.heads.anchor import AnchorDetect
from models.heads.base import Head
from models.heads.gfl import GFLDetect

import ultralytics
from ultralytics.cfg import DEFAULT_CFG_DICT, get_cfg, get_save_dir
from ultralytics.data import base as data_base
from ultralytics.data import build as data_build
from ultralytics.data import loaders
from ultralytics.data import utils as data_utils
from ultralytics.data.augment import LetterBox
from ultralytics.data.base import BaseDataset
from ultralytics.engine import exporter as host_exporter
from ultralytics.engine import trainer as host_trainer
from ultralytics.engine import validator as host_validator
from ultralytics.engine.predictor import BasePredictor
from ultralytics.engine.results import Results
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.nn import autobackend, tasks
from ultralytics.nn.backends.base import BaseBackend
from ultralytics.nn.backends.openvino import OpenVINOBackend
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.nn.modules.head import Detect
from ultralytics.utils import SETTINGS, nms, ops, torch_utils
from ultralytics.utils.export import engine as export_engine
from ultralytics.utils.metrics import Metric

VERSION = "8.4.190"


def test_the_pinned_version_is_installed() -> None:
    assert f"ultralytics=={VERSION}" in (ROOT / "requirements.txt").read_text()
    assert ultralytics.__version__ == VERSION, f"installed {ultralytics.__version__}: pip install ultralytics=={VERSION}"


def imports() -> list[tuple[str, str, str]]:
    """(file, module, name) of everything our code imports from ultralytics."""
    found = []
    for package in ("models", "distill", "engine"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ultralytics"):
                    found += [(path.relative_to(ROOT).as_posix(), node.module, alias.name) for alias in node.names]
    return found


def exists(module: str, name: str) -> bool:
    """Whether `from module import name` works: a name in it, or a module below it."""
    try:
        return hasattr(importlib.import_module(module), name) or bool(importlib.import_module(f"{module}.{name}"))
    except ImportError:
        return False


def test_what_is_imported_exists() -> None:
    found = imports()
    assert len(found) > 80 and not exists("ultralytics.utils", "no_such_name")
    assert not [row for row in found if not exists(*row[1:])]


# Methods of ultralytics' classes that ours replace or extend. `__init__` is ours to shape.
OVERRIDES: dict[type, str] = {
    Trainer: "check_resume get_dataset setup_model set_model_attributes _setup_ddp _setup_train "
    "_build_train_pipeline build_optimizer get_validator _do_train progress_string label_loss_items "
    "validate get_dataloader _setup_scheduler _handle_nan_recovery optimizer_step "
    "save_metrics plot_metrics save_model resume_training final_eval",
    Validator: "init_metrics postprocess update_metrics print_results",
    Predictor: "setup_source construct_results pre_transform postprocess",
    Backend: "_BACKEND_MAP warmup",
    OnnxBackend: "",
    OpenVinoBackend: "",
    Detector: "init_criterion fuse",
    Head: "fuse xyxy",
    AnchorDetect: "forward bias_init",
    GFLDetect: "forward bias_init",
    DetectorExporter: "",
}
# Names of the base classes that ours happen to share, or that every class has.
OWN = {"__init__", "__module__", "__doc__", "__qualname__", "__firstlineno__", "__static_attributes__", "__annotations__",
       "__abstractmethods__", "_abc_impl"}  # fmt: skip


def host_class(cls: type) -> type:
    """The first class of ultralytics that it is made of."""
    return next(base for base in cls.__mro__ if base.__module__.startswith("ultralytics"))


@pytest.mark.parametrize("cls", OVERRIDES, ids=lambda c: c.__name__)
def test_what_is_overridden_exists_under_that_name(cls: type) -> None:
    base, named = host_class(cls), set(OVERRIDES[cls].split())
    missing = {name for name in named if not hasattr(base, name)}
    assert not missing, f"{base.__name__} has no {missing} any more: ours is never called"
    assert not named - set(vars(cls)), f"{cls.__name__} no longer overrides these: strike them out"
    unnamed = {name for name in vars(cls) if hasattr(base, name)} - OWN - named
    assert not unnamed, f"{cls.__name__} overrides {unnamed}: name it in OVERRIDES"


@pytest.mark.parametrize("cls", OVERRIDES, ids=lambda c: c.__name__)
def test_what_is_overridden_takes_the_same_arguments(cls: type) -> None:
    for name in OVERRIDES[cls].split():
        ours, theirs = getattr(cls, name), getattr(host_class(cls), name)
        if callable(theirs):
            wanted, given = inspect.signature(theirs).parameters, inspect.signature(ours).parameters
            assert len(wanted) == len(given), f"{cls.__name__}.{name}: theirs {list(wanted)}, ours {list(given)}"


# What a class or module of ultralytics must have because our code reads, calls or sets it.
ATTRIBUTES: list[tuple[Any, str]] = [
    (Detect, "dynamic export format max_det agnostic_nms shape anchors strides xyxy end2end"),
    (tasks.DetectionModel, "forward loss predict _predict_once fuse info load is_fused set_head_attr end2end _apply"),
    (tasks, "torch_safe_load load_checkpoint guess_model_task guess_model_scale DetectionModel"),
    (ultralytics.nn, "torch_safe_load"),
    (data_utils, "VID_FORMATS"),
    (data_build, "YOLODataset build_yolo_dataset"),
    (data_base, "imread BaseDataset"),
    (torch_utils, "NUM_THREADS ModelEMA unwrap_model initialize_weights init_seeds select_device"),
    (host_trainer, "check_amp"),
    (host_trainer.BaseTrainer, "add_callback run_callbacks preprocess_batch build_optimizer"),
    (DetectionValidator, "_prepare_batch postprocess get_stats"),
    (BasePredictor, "stream_inference"),
    (autobackend.AutoBackend, "forward from_numpy warmup"),
    (BaseBackend, "read_metadata"),
    (ops, "scale_boxes"),
    (Metric, "mp mr map map50 map75"),
    (Results, "plot"),
    (host_exporter.Exporter, "add_callback run_callbacks"),
    (loaders.SourceTypes, "stream screenshot from_img tensor"),
]


@pytest.mark.parametrize("owner, names", ATTRIBUTES, ids=[o.__name__ for o, _ in ATTRIBUTES])
def test_what_is_used_exists(owner: Any, names: str) -> None:
    missing = [name for name in names.split() if not hasattr(owner, name)]
    assert not missing, f"{owner.__name__}: no {missing} any more"


# Lines of ultralytics that our code depends on, spaces apart.
LINES: list[tuple[Any, str, str]] = [
    (host_trainer.BaseTrainer._do_train, "loss, self.loss_items = self.model(batch)", "TrainingModel.forward takes a batch"),
    (host_trainer.BaseTrainer._do_train, "self.loss = loss.sum()", "the loss is a vector of terms times images"),
    (host_trainer.BaseTrainer._do_train, "self.loss_names = tuple(self.loss_items)", "columns are the first batch's names"),
    (host_trainer.BaseTrainer._do_train, "unwrap_model(self.model).criterion", "TrainingModel.criterion"),
    (host_trainer.BaseTrainer._do_train, 'self.run_callbacks("on_train_batch_start")', "progress of the run"),
    (host_trainer.BaseTrainer._do_train, 'self.run_callbacks("on_train_epoch_end")', "adaptive weights"),
    (host_trainer.BaseTrainer._do_train, "self._handle_nan_recovery(epoch)", "ours never recovers"),
    (host_trainer.BaseTrainer._do_train, 'with batch={old_batch}. "f"Reducing to batch=', "kd.py refuses a halved batch"),
    (host_trainer.BaseTrainer._do_train, "if ni - last_opt_step >= self.accumulate: self.optimizer_step()",
     "Trainer.optimizer_step counts for itself"),
    (host_trainer.BaseTrainer._do_train, 'self.run_callbacks("on_train_batch_end")', "a step the host did not see was due"),
    (host_trainer.BaseTrainer._do_train, "self.save_model()", "our checkpoints"),
    (host_trainer.BaseTrainer._do_train, "self.final_eval()", "ours strips and validates"),
    (host_trainer.BaseTrainer._setup_train, "ckpt = self.setup_model()", "ours wraps the student"),
    (host_trainer.BaseTrainer._setup_train, "self.set_model_attributes()", "class names of the student"),
    (host_trainer.BaseTrainer._setup_train, "self.ema = ModelEMA(self.model)", "the average of a TrainingModel"),
    (host_trainer.BaseTrainer._setup_train, "self.resume_training(ckpt)", "ours resumes"),
    (host_trainer.BaseTrainer._setup_train, "nn.parallel.DistributedDataParallel(", "patched on a CPU"),
    (host_trainer.BaseTrainer._setup_train, "device_ids=[self.device.index]", "the argument that the patch drops"),
    (host_trainer.BaseTrainer.build_optimizer, 'g[1] = {"params": g[1], **optim_args, "weight_decay": 0.0, "param_group": "bn"}',
     "engine.host.without_decay"),
    (host_trainer.BaseTrainer._do_train, 'self.run_callbacks("on_train_epoch_start")', "steps are counted from there"),
    (host_trainer.BaseTrainer._setup_train, '".dfl"', "the only names frozen without being asked"),
    (host_trainer.BaseTrainer.__init__, "self.check_resume(", "ours only notes it"),
    (host_trainer.BaseTrainer.__init__, "self.get_dataset()", "ours writes the data YAML first"),
    (host_validator.BaseValidator.__call__, "model.loss(batch, preds)[1]", "validation loss under the training's names"),
    (host_validator.BaseValidator.__call__, "model = AutoBackend(", "engine.host.own_backend"),
    (OpenVINOBackend.load_model, "self.compile_model = partial(core.compile_model, device_name=device_name, config=config)",
     "OpenVinoBackend changes what is put there"),
    (OpenVINOBackend.load_model, "self.ov_compiled_model = self.compile_model(ov_model)", "and has it called"),
    (torch_utils.ModelEMA.__init__, "deepcopy(unwrap_model(model))", "FrozenTeacher.__deepcopy__ shares the teacher"),
    (torch_utils.unwrap_model, "m = m.module", "nothing of ours may be called module"),
    (torch_utils.select_device, "torch.set_num_threads(NUM_THREADS)", "engine.host sets NUM_THREADS"),
    (tasks.load_checkpoint, "ckpt, weight = torch_safe_load(weight)", "looked up when it runs: engine.checkpoint.install"),
    (tasks.load_checkpoint, 'ckpt.get("ema") or ckpt.get("model")', "where _torch_safe_load puts the module"),
    (DistillationModel.loss_sl2, "self, student_feat: torch.Tensor, teacher_feat: torch.Tensor, feat_idx: int, teacher_scores",
     "models.losses.host calls it without a model"),
    (tasks.RTDETRDetectionModel.predict, "x = head([y[j] for j in head.f], batch)", "FeatureTap takes both arguments"),
    (tasks.BaseModel._apply, "m.stride = fn(m.stride)", "the head's strides follow the model's device"),
    (tasks.BaseModel.fuse, "m.fuse()", "Head.fuse is called"),
    (tasks.BaseModel.loss, "self.init_criterion()", "Detector.init_criterion"),
    (data_build.build_yolo_dataset, "dataset = YOLODataset", "looked up when it runs: engine.dataset.use_own_data"),
    (BaseDataset.load_image, "im = imread(f, flags=self.cv2_flag)", "looked up when it runs: engine.dataset.use_own_data"),
    (BaseDataset.load_image, "self.npy_files[i]", "engine.dataset.Dataset.npy_files"),
    (BaseDataset.cache_images_to_disk, "f = self.npy_files[i]", "engine.dataset.Dataset.npy_files"),
    (BaseDataset.__init__, "self.im_files = self.get_img_files(self.img_path) self.labels = self.get_labels()", "read once"),
    (BaseDataset.set_rectangle, "self.imgsz / self.stride + self.pad", "engine.dataset.Dataset.set_rectangle"),
    (data_build.build_dataloader, "generator=generator,", "engine.training.repeat seeds the order of images"),
    (data_build.InfiniteDataLoader.reset, "self.iterator = None", "engine.training.repeat starts each epoch's order anew"),
    (BaseDataset.load_image, "self.buffer.append(i)", "engine.training.repeat keeps the images of mosaics"),
    (BasePredictor.stream_inference, "self.setup_source(", "ours gives our sources"),
    (nms.non_max_suppression, "i = TorchNMS.nms(boxes, scores, iou_thres)", "torchvision's operator is put there"),
]


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


@cache
def source_of(owner: Any) -> str:
    return squeezed(inspect.getsource(owner))


@pytest.mark.parametrize("owner, line, why", LINES, ids=[why for _, _, why in LINES])
def test_what_is_relied_on_is_still_written_there(owner: Any, line: str, why: str) -> None:
    found = squeezed(line) in source_of(owner)
    assert found, f"{owner.__qualname__} no longer has '{line}' ({why})"


def test_the_trainer_has_the_fields_that_ours_reads() -> None:
    source = inspect.getsource(host_trainer.BaseTrainer)
    fields = "args save_dir wdir best last csv stopper ema scaler optimizer tloss epoch epochs start_epoch "
    fields += "train_loader test_loader best_fitness fitness metrics save_period data device world_size resume "
    fields += "loss_names stop batch_size validator callbacks"
    missing = [f for f in fields.split() if not re.search(rf"self\.{f}\b[^=\n]*=", source)]
    assert not missing


def test_the_exporter_has_the_fields_that_ours_reads() -> None:
    source = inspect.getsource(host_exporter.Exporter)
    assert all(re.search(rf"self\.{f}\b", source) for f in ("metadata", "args", "file", "model", "imgsz"))
    assert 'run_callbacks("on_export_start")' in source and "isinstance(m, (Detect" in source
    table = host_exporter.export_formats()
    assert {"onnx", "torchscript", "openvino"} <= set(table["Argument"])
    assert len(table["Arguments"]) == len(table["Argument"])
    assert isinstance(export_engine.best_onnx_opset(pytest.importorskip("onnx")), int)


def test_our_arguments_pass_in_the_base_configuration_only() -> None:
    assert get_cfg({**DEFAULT_CFG_DICT, "teacher": None}, {"teacher": "t.pt"}).teacher == "t.pt"
    with pytest.raises(SyntaxError):
        get_cfg(overrides={"teacher": "t.pt"})
    names = {"device", "imgsz", "batch", "amp", "channels_last", "compile", "nbs", "patience", "cls_pw"}
    assert names <= set(DEFAULT_CFG_DICT)
    assert next(iter(inspect.signature(get_save_dir).parameters)) == "args"


def test_a_head_is_taken_for_a_detection_head_and_keeps_its_class_clean() -> None:
    head = detector().head
    assert isinstance(head, Detect) and isinstance(head.cv2, nn.ModuleList) and len(head.cv2) == 0
    assert not head.end2end and head.reg_max == 1
    assert torch.equal(Detect.anchors, torch.empty(0)) and "anchor_wh" in dict(head.named_buffers())


def test_the_average_of_weights_shares_the_teacher() -> None:
    model = distilling("attention")
    ema = torch_utils.ModelEMA(model)
    assert ema.ema is not model and ema.ema.teacher is model.teacher and not ema.ema.training
    assert torch_utils.unwrap_model(model) is model


def test_the_loss_contract() -> None:
    model = detector()
    total, items = model(batch(2))
    assert total.shape == (3,) and all(v.ndim == 0 and not v.requires_grad for v in items.values())
    assert torch.allclose(total / 2, torch.stack(list(items.values())))


def test_non_maximum_suppression_reads_what_the_head_gives() -> None:
    y = torch.zeros(1, 4 + 2, 5)
    y[0, :4, 0] = torch.tensor([20.0, 30.0, 10.0, 20.0])  # xywh
    y[0, 5, 0] = 0.9
    found = nms.non_max_suppression(y, 0.25, 0.45)[0]
    assert torch.allclose(found, torch.tensor([[15.0, 20.0, 25.0, 40.0, 0.9, 1.0]]))


def test_letterbox_keeps_the_ratio_and_pads_with_grey() -> None:
    import numpy as np

    image = LetterBox((64, 64), auto=False)(image=np.zeros((32, 64, 3), np.uint8))
    assert image.shape == (64, 64, 3) and image[0, 0, 0] == 114 and image[32, 0, 0] == 0


def test_layers_have_the_form_that_our_parser_gives_them() -> None:
    assert list(inspect.signature(Conv.__init__).parameters)[1:5] == ["c1", "c2", "k", "s"]
    assert list(inspect.signature(SPP.__init__).parameters)[1:] == ["c1", "c2", "k"]
    for layer in detector().model:
        assert all(hasattr(layer, name) for name in ("i", "f", "type", "np"))


def test_training_arguments_are_read_without_importing() -> None:
    assert defaults() == DEFAULT_CFG_DICT | OWN_DEFAULTS


def test_onnx_runtime_takes_our_options() -> None:
    theirs = inspect.signature(OnnxBackend.__mro__[1].__init__).parameters
    assert list(theirs)[1:] == ["weight", "device", "fp16", "format", "session_options"]
    assert "sys.modules" in inspect.getsource(nms.non_max_suppression), "torchvision is used where it is imported, only"


def test_sources_have_the_shape_of_loaders() -> None:
    for source in (MediaSource, StreamSource):
        assert isinstance(source.source_type, loaders.SourceTypes) and hasattr(source, "__iter__")


def test_fusing_changes_speed_and_nothing_else() -> None:
    model, image = detector().eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = model(image)[0]
        fused = copy.deepcopy(model).fuse(verbose=False)
        assert fused.is_fused() and torch.allclose(fused(image)[0], before, atol=1e-3, rtol=1e-4)


def test_nothing_can_be_looked_up_or_installed() -> None:
    assert os.environ["YOLO_OFFLINE"] == "true" and os.environ["YOLO_AUTOINSTALL"] == "false"
    from ultralytics.utils import AUTOINSTALL, ONLINE

    assert not AUTOINSTALL and not ONLINE
    assert Path(SETTINGS.file).is_relative_to(os.environ["YOLO_CONFIG_DIR"])
