"""Spoiled model YAMLs, distillation options, command lines and checkpoints: an error of one line, never a traceback."""

from __future__ import annotations

import io
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests/contract")]
from fuzz import SCALARS, VALUES, damaged, inputs, spoiled  # noqa: E402
from small import description, detector  # noqa: E402

from cfg import UserError  # noqa: E402
from cfg.find import ROOT as CFG  # noqa: E402
from distill.build import build_distiller  # noqa: E402
from distill.networks import FrozenTeacher  # noqa: E402
from engine.checkpoint import load_detector, pack, read_state  # noqa: E402
from engine.detectors import build_detector  # noqa: E402
from engine.settings import OWN_DEFAULTS, complete, defaults, known_names, read_command_line  # noqa: E402

pytestmark = pytest.mark.slow
GFL = ["GFLDetect", ["nc", "hkh", 32, 1, 17]]


def one_line(error: UserError) -> None:
    text = str(error)
    assert text.strip() and "\n" not in text, text


def written(path: Path, content: object) -> bool:
    try:
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    except UnicodeEncodeError:
        return False
    return True


def plain(content: dict) -> dict:
    return {k: v for k, v in content.items() if k != "yaml_file"}


@inputs()
@given(content=spoiled(plain(description())) | spoiled(plain(description(head=GFL))) | VALUES)
def test_model_yamls(tmp_path: Path, content: object) -> None:
    if not written(tmp_path / "model.yaml", content):
        return
    try:
        build_detector(tmp_path / "model.yaml", 2, {0: "scratch", 1: "pit"}).init_criterion()
    except UserError as error:
        one_line(error)


@cache
def pair(with_bins: bool) -> tuple:
    head = GFL if with_bins else None
    return detector(head=head), FrozenTeacher(detector(16, head=head), "teacher", True)


METHODS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CFG / "distill").glob("*.yaml"))}


@pytest.mark.parametrize("name", METHODS)
@inputs(0.2)
@given(data=st.data())
def test_distillation_yamls(tmp_path_factory, name: str, data) -> None:
    path = tmp_path_factory.getbasetemp() / f"{name}-fuzz.yaml"
    if not written(path, data.draw(spoiled(METHODS[name]) | VALUES)):
        return
    student, teacher = pair(METHODS[name]["method"] in ("ld", "hsd"))
    try:
        build_distiller(str(path), student, None if METHODS[name]["method"] in ("sdd", "lgd") else teacher, "student")
    except UserError as error:
        one_line(error)


NAMES = sorted(known_names())
TOKENS = st.sampled_from([f"--{name}" for name in NAMES] + NAMES + ["--", "-", "=", "--cfg", "--teacher"]) | st.text(max_size=6)
WORDS = SCALARS.map(str) | st.sampled_from(["s-model-fast.yaml", "sample.yaml", "attention+0.5*ld", "[1,2]", "{a: 1}", "12:30", "1e-3", "True"])


@inputs(4)
@given(tokens=st.lists(st.tuples(TOKENS, st.sampled_from([" ", "=", ""]), WORDS), max_size=4))
def test_command_lines(tokens: list[tuple[str, str, str]]) -> None:
    words = [part for name, sign, value in tokens for part in ([name, value] if sign == " " else [name + sign + value])]
    try:
        given = {"model": "s-model-fast.yaml", "data": "sample.yaml"} | read_command_line(words, known_names())
        complete(given)
    except UserError as error:
        one_line(error)


@inputs(2)
@given(name=st.sampled_from(sorted(set(defaults()) | set(OWN_DEFAULTS))), value=VALUES)
def test_settings(name: str, value: object) -> None:
    try:
        complete({"model": "s-model-fast.yaml", "data": "sample.yaml", name: value})
    except UserError as error:
        one_line(error)


def saved(content: object, **options) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


CHECKPOINT = pack(detector(), {"train_args": {"imgsz": 64}})


@inputs(2)
@given(data=damaged(saved(CHECKPOINT)) | damaged(saved(CHECKPOINT, _use_new_zipfile_serialization=False)) | st.binary(max_size=99))
def test_damaged_checkpoints(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(data)
    for read in (load_detector, read_state):
        try:
            read(tmp_path / "x.pt")
        except UserError as error:
            one_line(error)


@inputs()
@given(content=spoiled({k: v for k, v in CHECKPOINT.items() if k != "state"} | {"state": {}}))
def test_spoiled_checkpoints(tmp_path: Path, content: object) -> None:
    if isinstance(content, dict) and content.get("state") == {}:
        content["state"] = CHECKPOINT["state"]
    torch.save(content, tmp_path / "x.pt")
    try:
        load_detector(tmp_path / "x.pt")
    except UserError as error:
        one_line(error)
