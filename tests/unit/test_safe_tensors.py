"""Start weights as safetensors: what is written is read again, what is damaged or foreign is said."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "contract"))
from small import detector

from cfg import UserError
from data.drawn.families import FAMILIES
from engine.checkpoint import VERSION, load_detector, pack, read
from engine.safe_tensors import read_safetensors, save_safetensors, shapes_of
from engine.start.shipped import FOLDER, shipped_for
from engine.start.source import read_source
from models.detector import Detector


@pytest.fixture
def packed():
    return pack(detector(16), {"note": "äöü"})


def test_a_checkpoint_comes_back_in_single_precision(tmp_path, packed):
    save_safetensors(tmp_path / "a.safetensors", packed)
    content = read(tmp_path / "a.safetensors")
    assert {k: v for k, v in content.items() if k != "state"} == {k: v for k, v in packed.items() if k != "state"}
    for name, tensor in packed["state"].items():
        assert content["state"][name].dtype == tensor.dtype and torch.allclose(content["state"][name], tensor, rtol=1e-3, atol=1e-6)
    model, _ = load_detector(tmp_path / "a.safetensors")
    assert model.names == {int(k): v for k, v in packed["names"].items()}
    assert (tmp_path / "a.safetensors").stat().st_size < 2.3 * sum(t.numel() for t in packed["state"].values()) + 40000


def test_numbers_beyond_half_precision(tmp_path, packed):
    next(t for t in packed["state"].values() if t.is_floating_point()).view(-1)[0] = 1e6
    with pytest.raises(UserError, match="beyond those of float16"):
        save_safetensors(tmp_path / "a.safetensors", packed)
    assert not list(tmp_path.iterdir())


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "picture":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    else:
        fields = json.loads(header["__metadata__"]["tandem"])
        fields |= {"version": {"version": VERSION + 1}, "list": {"names": ["a"]}, "kind": {"kind": 3}}[how]
        header["__metadata__"]["tandem"] = json.dumps(fields)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


@pytest.mark.parametrize(
    ("how", "message"),
    [("cut", "damaged"), ("empty", "empty file"), ("picture", "damaged"), ("version", f"version {VERSION + 1}, expected"),
     ("list", "description cannot be read"), ("kind", "has int for 'kind'")],
)  # fmt: skip
def test_files_that_are_not_as_they_were_written(tmp_path, packed, how, message):
    path = tmp_path / "a.safetensors"
    save_safetensors(path, packed)
    damaged(path, how)
    with pytest.raises(UserError, match=message):
        read_source(path)


def test_tensors_of_another_program(tmp_path):
    save_file({"model.0.conv.weight": torch.ones(2, 3, 3, 3, dtype=torch.bfloat16)}, tmp_path / "b.safetensors")
    assert read_safetensors(tmp_path / "b.safetensors")["model.0.conv.weight"].dtype == torch.float32
    assert read_source(tmp_path / "b.safetensors").description is None


def test_a_student_is_known_by_its_tensors(tmp_path, packed):
    save_safetensors(tmp_path / "any-name.safetensors", packed)
    assert shapes_of(tmp_path / "any-name.safetensors") == {k: tuple(v.shape) for k, v in packed["state"].items()}
    assert shipped_for(detector(16), tmp_path) == tmp_path / "any-name.safetensors"
    assert shipped_for(detector(8), tmp_path) is None


@pytest.mark.long
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.safetensors")), ids=lambda path: path.stem)
def test_weights_that_ship_are_a_models_and_say_how_they_were_made(path):
    student = Detector(f"{path.stem}.yaml", nc=6)
    assert shipped_for(student) == path
    source = read_source(path)
    assert source.description["yaml_file"].endswith(f"{path.stem}.yaml") and set(source.names.values()) == set(FAMILIES)
    meta = read(path)["meta"]
    assert "made pictures" in meta["made"] and "/" not in str({key: meta[key] for key in meta if key != "date"})
    assert f"`{path.name}`" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_weights_that_ship_are_small():
    files = list(FOLDER.glob("*.safetensors"))
    assert files and sum(path.stat().st_size for path in files) < 30e6
