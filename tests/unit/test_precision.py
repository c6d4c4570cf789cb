"""The arithmetic of a run: what the arguments, the environment and the processor say, in this order."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cfg import UserError
from engine import precision
from engine.precision import SWITCH, described, has_fast_bfloat16, training_precision
from engine.training.repeat import laid_out_as, lay_out_state


@pytest.fixture
def processor(monkeypatch):
    """A processor with fast bfloat16 or without, and nothing said in the environment."""
    monkeypatch.delenv(SWITCH, raising=False)

    def have(fast: bool) -> None:
        monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: fast)

    return have


@pytest.mark.parametrize(
    ("amx", "avx512", "expected"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_bfloat16_only_in_hardware(monkeypatch, amx, avx512, expected):
    probes = SimpleNamespace(_is_amx_tile_supported=lambda: amx, _is_avx512_bf16_supported=lambda: avx512)
    monkeypatch.setattr(torch, "cpu", probes)
    assert has_fast_bfloat16() is expected
    monkeypatch.setattr(torch, "cpu", SimpleNamespace())  # a torch without these probes
    assert has_fast_bfloat16() is False


@pytest.mark.parametrize(
    ("amp", "said", "fast", "expected"),
    [
        (True, None, False, "fp32"), (True, None, True, "bf16"), (True, "", True, "bf16"),
        (True, "1", False, "bf16"), (True, "0", True, "fp32"), ("fp16", "1", False, "bf16"),
        ("bf16", "0", False, "bf16"), ("BF16", None, False, "bf16"),
        (False, "1", True, "fp32"), ("fp32", "1", True, "fp32"), ("FP32", None, True, "fp32"),
    ],
)  # fmt: skip
def test_arguments_come_before_the_environment_and_that_before_the_processor(
    monkeypatch, processor, amp, said, fast, expected
):
    processor(fast)
    if said is not None:
        monkeypatch.setenv(SWITCH, said)
    assert training_precision(amp, on_cpu=True) == expected
    assert training_precision(expected, on_cpu=True) == expected, "what was kept is what a resumed run does"


def test_on_a_gpu_the_arguments_are_ultralytics_own(monkeypatch, processor):
    processor(True)
    monkeypatch.setenv(SWITCH, "0")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert [training_precision(amp, on_cpu=False) for amp in (True, False, "bf16")] == [True, False, "bf16"]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    with pytest.raises(UserError, match="amp=bf16: expected a GPU with bfloat16"):
        training_precision("bf16", on_cpu=False)


def test_a_switch_that_says_neither_is_refused(monkeypatch, processor):
    processor(True)
    monkeypatch.setenv(SWITCH, "yes")
    with pytest.raises(UserError, match=r"TANDEM_BF16=yes: expected 1 .*, 0 .*, or nothing"):
        training_precision(True, on_cpu=True)


def test_the_header_says_what_and_when_it_is_slow(processor):
    processor(True)
    assert described("bf16", True, False) == "bfloat16" and described(True, False, False) == "amp=True"
    assert described("fp32", True, True) == "float32 as the run was started"
    processor(False)
    assert "emulates slowly" in described("bf16", True, True) and described("fp32", True, False) == "float32"


def test_restored_state_of_an_optimiser_lies_in_memory_as_its_parameters():
    layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.rand(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    kept = {"state": {}, "param_groups": optimizer.state_dict()["param_groups"]}
    for index, state in optimizer.state_dict()["state"].items():
        kept["state"][index] = {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    values = optimizer.state[layer.weight]["exp_avg"].clone()
    optimizer.load_state_dict(kept)
    assert optimizer.state[layer.weight]["exp_avg"].stride() != layer.weight.stride()
    lay_out_state(optimizer)
    restored = optimizer.state[layer.weight]["exp_avg"]
    assert restored.stride() == layer.weight.stride() and torch.equal(restored, values)
    assert optimizer.state[layer.weight]["step"].shape == () and not laid_out_as(layer.weight, values).requires_grad
