"""What a comparison runs: methods and controls by name, the command line of each, a look at all before the first."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cfg import UserError, find, read_yaml

PLAIN = "none"
OURS = ("seed", "val", "plots", "teacher_init", "project", "name", "save_dir", "exist_ok", "resume", "teacher",
        "distill", "info", "model", "data", "split", "tensorboard")  # fmt: skip
FIXED = ("--val", "False", "--plots", "False", "--teacher-init", "False")


@dataclass(frozen=True)
class Question:
    """What is asked for: one student, one data set, several ways to train it.

    `arguments` are train.py's own, for every run.
    """

    cfg: str
    data: str
    teacher: str | None
    teacher_cfg: str | None
    arguments: tuple[str, ...]


@dataclass
class Method:
    """One row of the comparison.

    Attributes:
        label: as in ``--methods``: a distillation configuration, a combination, ``none`` or a control, with arguments
            of its own after spaces (``attention kd_cap=0.3``).
        arguments: of train.py, without seed and folder.
        longer: whether its epochs are scaled to the time of another method.
        reference: that method's label; None for the dearest one.
        epochs: of its runs; for `longer`, of the method before scaling.
        digest: of everything that its result depends on but the seed.
        same_start: whether its student starts with the weights of the plain one.
        settings: all arguments of its runs, as train.py completes them.
    """

    label: str
    arguments: list[str]
    longer: bool = False
    reference: str | None = None
    epochs: int = 0
    digest: str = ""
    same_start: bool = True
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def control(self) -> bool:
        """Whether it is the student alone, started or trained otherwise, or learning from noise."""
        return self.label.split()[0].partition(":")[0] in (PLAIN, *CONTROLS)


CONTROLS = ("teacher-init", "longer", "random-teacher")


def parse_methods(text: str, question: Question) -> list[Method]:
    """The methods of ``none,attention,longer:attention``; each name once.

    Raises:
        UserError: an empty or repeated name, or a control or method that lacks its teacher.
    """
    labels = [" ".join(label.split()) for label in text.split(",")]
    for label in labels:
        if not label or labels.count(label) > 1:
            raise UserError(f"--methods: expected names with commas between, each once, got '{text}'; correct it")
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
        return Method(label, [], longer=True, reference=label.partition(":")[2] or None)
    if of and kind != "random-teacher":
        raise UserError(f"--methods: only longer and random-teacher take a method after ':', got '{label}'; correct it")
    if name == PLAIN:
        return Method(label, own)
    if kind == "teacher-init":
        return Method(label, ["--weights", _required(question.teacher, "--teacher", label), *own])
    if kind == "random-teacher":
        teacher = _required(question.teacher_cfg, "--teacher-cfg", label)
        return Method(label, ["--teacher", teacher, "--distill", of or _default_method(), *own])
    arguments = ["--distill", name, *own]
    if uses_teacher(name):
        arguments += ["--teacher", _required(question.teacher, "--teacher", label)]
    return Method(label, arguments)


def _default_method() -> str:
    from engine.build import DEFAULT_METHOD

    return DEFAULT_METHOD


def _required(value: str | None, option: str, label: str) -> str:
    if not value:
        example = "t-model.yaml" if option == "--teacher-cfg" else "t.pt"
        raise UserError(f"--methods: {label} needs a teacher; say {option} {example}")
    return value


def configurations(wanted: str) -> dict[str, dict[str, Any]]:
    """The options of each part of `attention+0.5*ld`, by name."""
    from engine.build import parse_methods as parts

    return {name: read_yaml(find("distill", name)) for name in parts(wanted)}


def uses_teacher(wanted: str) -> bool:
    """Whether a distillation configuration or combination learns from a trained teacher."""
    from distill.base import METHODS

    options = configurations(wanted)
    return any(METHODS.get(o.get("method", find("distill", name).stem)).uses_teacher for name, o in options.items())


def command(question: Question, method: Method, seed: int, epochs: int | None = None) -> list[str]:
    """Arguments of train.py for one run, without the folder it writes to."""
    given = ["--cfg", question.cfg, "--data", question.data, *question.arguments, *method.arguments, *FIXED]
    given += ["--seed", str(seed)]
    return given + (["--epochs", str(epochs)] if epochs else [])


def check_arguments(arguments: list[str], known: set[str], free: tuple[str, ...] = ()) -> None:
    """Refuse train.py arguments that do not exist, or that the comparison sets itself (but for those that are `free`)."""
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
    from engine.launch import check_data
    from engine.settings import complete, known_names, read_command_line

    names, starts = None, {}
    for method in methods:
        try:
            settings = complete(read_command_line(command(question, method, seed=0), known_names()))
            names = names or check_data(settings)
            starts[method.label], digest = _build(settings, names)
        except UserError as error:
            raise UserError(f"method {method.label}: {error}") from None
        method.epochs, method.settings, method.digest = int(settings.get("epochs", 100)), settings, digest
    for method in methods:
        method.same_start = starts[method.label] == starts.get(PLAIN, starts[method.label])


def _build(settings: dict[str, Any], names: dict[int, str]) -> tuple[str, str]:
    """Digests of the student's first weights, and of all that the run depends on but the seed."""
    from engine.build import build_networks
    from engine.launch import init_seeds

    init_seeds(0)  # as train.py does, before it makes the student
    student = build_networks(settings, len(names), names).student
    start = hashlib.sha256()
    for value in student.state_dict().values():
        start.update(value.detach().cpu().numpy().tobytes())
    where = ("project", "name", "model", "data", "teacher", "weights", "seed")
    facts: list[Any] = [{k: v for k, v in settings.items() if k not in where}, student.yaml, names]
    facts += [configurations(settings["distill"])] if settings["distill"] else []
    facts += [_contents(settings[name]) for name in ("data", "teacher", "weights")]
    return start.hexdigest(), hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _contents(path: str | None) -> str | None:
    """Digest of a file, or the name of something in `cfg/` (which is in the repository)."""
    if not path or not Path(path).is_file():
        return path
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
