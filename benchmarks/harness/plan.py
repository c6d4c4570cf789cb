"""What a comparison runs: methods and controls by name, the command line of each, a look at all before the first."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cfg import UserError, find, read_yaml
from cfg.find import ROOT
from data.dataset import PARTS, part_paths, resolve
from data.files import list_images
from data.layout import label_path

PLAIN = "none"
TRAIN, RIVAL_SCRIPT = "train.py", "benchmarks/harness/rival.py"
RIVAL, RIVAL_ALONE = "ultralytics", "ultralytics-none"  # its own trainer, with and without its own distillation
OURS = ("seed", "val", "plots", "project", "name", "save_dir", "exist_ok", "resume", "teacher",
        "distill", "info", "model", "data", "split", "tensorboard")  # fmt: skip
FIXED = ("--val", "False", "--plots", "False")
ONE_START = ("--teacher-init", "False")  # all students of a seed start alike, but those of methods that say otherwise


@dataclass(frozen=True)
class Question:
    """A comparison: one student, one data set, several ways to train it.

    `arguments` are train.py's own, for every run; `rival_cfg` and `rival_teacher` are ultralytics' student and teacher
    where they are not these.
    """

    cfg: str
    data: str
    teacher: str | None
    teacher_cfg: str | None
    arguments: tuple[str, ...]
    rival_cfg: str | None = None
    rival_teacher: str | None = None


@dataclass
class Method:
    """One row of the comparison.

    Attributes:
        label: as in ``--methods``: a distillation configuration, a combination, ``none`` or a control, with arguments
            of its own after spaces (``attention kd_cap=0.3``).
        arguments: of train.py, without seed and folder.
        cfg: its student's YAML; None for the question's.
        against: label of the method it is compared with; None for the comparison's baseline.
        script: what trains it, from the repository's root.
        longer: whether its epochs are scaled to the time of another method.
        reference: that method's label; None for the dearest one.
        epochs: of its runs; for `longer`, of the method before scaling.
        digest: of everything that its result depends on but the seed.
        same_start: whether its student starts with the weights of the plain one.
        settings: all arguments of its runs, as train.py completes them.
    """

    label: str
    arguments: list[str]
    cfg: str | None = None
    against: str | None = None
    script: str = TRAIN
    longer: bool = False
    reference: str | None = None
    epochs: int = 0
    digest: str = ""
    same_start: bool = True
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def control(self) -> bool:
        """Whether it is the student alone, started or trained otherwise, or learning from noise."""
        return self.rival or self.label.split()[0].partition(":")[0] in (PLAIN, *CONTROLS)

    @property
    def rival(self) -> bool:
        """Whether ultralytics' own trainer trains it."""
        return self.script == RIVAL_SCRIPT


CONTROLS = ("teacher-init", "longer", "random-teacher")


def parse_methods(text: str, question: Question) -> list[Method]:
    """The methods of ``none,attention,longer:attention``; each name once. The rival brings its own student alone.

    Raises:
        UserError: an empty or repeated name, or a control or method that lacks its teacher.
    """
    labels = [" ".join(label.split()) for label in text.split(",")]
    for label in labels:
        if not label or labels.count(label) > 1:
            raise UserError(f"--methods: expected names with commas between, each once, got '{text}'; correct it")
    rivals = [label for label in labels if label.split()[0] == RIVAL]
    if rivals and RIVAL_ALONE not in labels:
        labels.insert(labels.index(rivals[0]), RIVAL_ALONE)
    methods = [_method(label, question) for label in labels]
    for method in methods:
        if method.longer and not _references(method, methods):
            wanted = method.reference or "a distillation method"
            raise UserError(f"--methods: {method.label} trains as long as {wanted} does, which is not there; add it")
        if method.longer and PLAIN not in labels:
            raise UserError(f"--methods: {method.label} needs the time of '{PLAIN}', which is not there; add it")
    return methods


def _references(method: Method, methods: list[Method]) -> list[Method]:
    """The methods whose time a `longer` control may take."""
    if method.reference:
        return [m for m in methods if m.label == method.reference and not m.longer]
    return [m for m in methods if not m.control]


def _method(label: str, question: Question) -> Method:
    name, *own = label.split()
    kind, _, of = name.partition(":")
    if kind == "longer":
        wanted = label.partition(":")[2] or None  # with the arguments it may have, which are part of that method's name
        return Method(label, [] if wanted else own, longer=True, reference=wanted)
    if of and kind != "random-teacher":
        raise UserError(f"--methods: only longer and random-teacher take a method after ':', got '{label}'; correct it")
    if name == PLAIN:
        return Method(label, own)
    if name in (RIVAL, RIVAL_ALONE):
        return _rival(label, own, question)
    if kind == "teacher-init":
        return Method(label, ["--weights", _required(question.teacher, "--teacher", label), *own])
    if kind == "random-teacher":
        teacher = _required(question.teacher_cfg, "--teacher-cfg", label)
        return Method(label, ["--teacher", teacher, "--distill", of or _default_method(), *own])
    arguments = ["--distill", name, *own]
    if uses_teacher(name):
        arguments += ["--teacher", _required(question.teacher, "--teacher", label)]
    return Method(label, arguments)


def _rival(label: str, own: list[str], question: Question) -> Method:
    """Ultralytics' trainer on a stock student: `--cfg` where it is one, else `--rival-cfg`."""
    from engine.detectors import stock_yaml

    if not question.rival_cfg and stock_yaml(question.cfg) is None:
        raise UserError(f"--methods: {label} trains a stock model of ultralytics, and --cfg {question.cfg} is none; "
                        "use --rival-cfg yolo11n.yaml")  # fmt: skip
    cfg = question.rival_cfg or question.cfg
    if label.split()[0] == RIVAL_ALONE:
        return Method(label, own, cfg, None if cfg == question.cfg else label, RIVAL_SCRIPT)
    teacher = question.rival_teacher or (question.teacher if cfg == question.cfg else None)
    own = ["--teacher", _required(teacher, "--rival-teacher", label), *own]
    return Method(label, own, cfg, RIVAL_ALONE, RIVAL_SCRIPT)


def _default_method() -> str:
    from engine.training.build import DEFAULT_METHOD

    return DEFAULT_METHOD


def _required(value: str | None, option: str, label: str) -> str:
    if not value:
        example = {"--teacher-cfg": "t-model.yaml", "--rival-teacher": "yolo11s.pt"}.get(option, "t.pt")
        raise UserError(f"--methods: {label} needs a teacher; use {option} {example}")
    return value


def configurations(wanted: str) -> dict[str, dict[str, Any]]:
    """The options of each part of `attention+0.5*ld`, by name."""
    from distill.build import parse_methods as parts

    return {name: read_yaml(find("distill", name)) for name in parts(wanted)}


def uses_teacher(wanted: str) -> bool:
    """Whether a distillation configuration or combination learns from a trained teacher."""
    from distill.base import METHODS

    options = configurations(wanted)
    return any(METHODS.get(o.get("method", find("distill", name).stem)).uses_teacher for name, o in options.items())


def command(question: Question, method: Method, seed: int, epochs: int | None = None) -> list[str]:
    """Arguments of train.py for one run, without the folder it writes to."""
    from engine.settings import known_names, read_command_line

    own = [*question.arguments, *method.arguments]
    start = () if "teacher_init" in read_command_line(own, known_names()) else ONE_START
    given = ["--cfg", method.cfg or question.cfg, "--data", question.data, *own, *start, *FIXED, "--seed", str(seed)]
    return given + (["--epochs", str(epochs)] if epochs else [])


def check_arguments(arguments: list[str], known: set[str], free: tuple[str, ...] = ()) -> None:
    """Refuse train.py arguments that do not exist, or that the comparison sets itself (but for the `free` ones)."""
    from engine.settings import read_command_line

    for name in read_command_line(arguments, known):
        if name in OURS and name not in free:
            raise UserError(f"{name}: the comparison sets it for each run; leave it out")


def examine(question: Question, methods: list[Method]) -> None:
    """Build the networks of every method once, so that what cannot work is refused before the first run.

    Fills in `epochs`, `settings`, `digest` and `same_start` of each.

    Raises:
        UserError: whatever train.py would refuse, with the method's label before it.
    """
    from engine.settings import Settings, complete, known_names, read_command_line
    from engine.training.launch import check_data

    names, labels, starts = None, None, {}
    for method in methods:
        try:
            settings = complete(read_command_line(command(question, method, seed=0), known_names()))
            names, labels = names or check_data(Settings.of(settings).data), labels or _labels(settings["data"])
            build = _build_rival if method.rival else _build
            starts[method.label], digest = build(settings, names, labels)
        except UserError as error:
            raise UserError(f"method {method.label}: {error}") from None
        method.epochs, method.settings, method.digest = int(settings.get("epochs", 100)), settings, digest
    for method in methods:
        method.same_start = starts[method.label] == starts.get(PLAIN, starts[method.label])


def _build(settings: dict[str, Any], names: dict[int, str], labels: str) -> tuple[str, str]:
    """Digests of the student's first weights, and of all that the run depends on but the seed."""
    from engine.precision import training_precision
    from engine.settings import SHIPPED, Settings
    from engine.start.shipped import shipped_for
    from engine.training.build import build_networks
    from engine.training.launch import init_seeds
    from engine.training.processes import runs_on_cpu

    init_seeds(0)  # as train.py does, before it makes the student
    run = Settings.of(settings).run
    networks = build_networks(Settings.of(settings), len(names), names)
    student, teacher = networks.student, networks.teacher
    start = hashlib.sha256()
    for value in student.state_dict().values():
        start.update(value.detach().cpu().numpy().tobytes())
    facts = [student.yaml, names, labels, training_precision(run.amp, runs_on_cpu(run))]
    facts += [teacher.model.yaml] if teacher and not teacher.trained else []  # a YAML of `cfg/` is known by its content too
    facts += [configurations(settings["distill"])] if settings["distill"] else []
    facts += [_contents(str(shipped_for(student)))] if settings["weights"] == SHIPPED else []
    return start.hexdigest(), _digest(settings, facts, _torchvision_weights(settings["teacher"]))


def _build_rival(settings: dict[str, Any], names: dict[int, str], labels: str) -> tuple[str, str]:
    """As `_build`, for ultralytics' trainer, whose students never start like ours."""
    from benchmarks.harness.rival import build_pair

    return RIVAL, _digest(settings, [build_pair(settings, names).yaml, names, labels], [RIVAL])


def _digest(settings: dict[str, Any], facts: list[Any], more: list[Any]) -> str:
    where = ("project", "name", "model", "data", "teacher", "weights", "seed")
    known = [{k: v for k, v in settings.items() if k not in where}, *facts]
    known += [_contents(settings[name]) for name in ("teacher", "weights")]
    return hashlib.sha256(json.dumps(known + more, sort_keys=True, default=str).encode()).hexdigest()


def _labels(data: str) -> str:
    """Digest of a data set's labels, and of its images' names and sizes: a corrected label is another data set."""
    content, seen = resolve(data), hashlib.sha256()
    for part, entry in ((name, path) for name in PARTS for path in part_paths(content, name) if path.exists()):
        for image in list_images(entry):
            size = image.stat().st_size if image.is_file() else None
            labels = label_path(image)
            seen.update(f"{part} {image.name} {size}".encode() + (labels.read_bytes() if labels.is_file() else b""))
    return seen.hexdigest()


def _contents(path: str | None) -> str | None:
    """Digest of a file, or the name of something in `cfg/` (which is in the repository)."""
    if not path or not Path(path).is_file():
        return path
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _torchvision_weights(teacher: str | None) -> list[str | None]:
    """The digest of the weights file that a torchvision teacher's YAML names, in a list; else an empty one."""
    if not str(teacher).endswith((".yaml", ".yml")):
        return []
    known = Path(teacher).is_file() or (ROOT / "teachers" / Path(teacher).name).is_file()
    file = find("teachers", teacher) if known else None
    content = read_yaml(file) if file else {}
    named = "torchvision" in content and content.get("weights")
    return [_contents(str(file.parent / str(content["weights"])))] if named else []
