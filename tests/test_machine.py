"""What the machine says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from orthogon.machine import device_of, fast_precision, free_gib, has_compiler

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.mark.parametrize("name", ["g++", "clang++", "c++", "cl"])
def test_a_compiler_of_any_usual_name_will_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda asked: f"/usr/bin/{name}" if asked == name else None)
    assert has_compiler(CPU)
    assert not has_compiler(META)


def test_no_compiler_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda asked: None)
    assert not has_compiler(CPU)


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ({"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "amx_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_bfloat16_needs_instructions_for_it(
    flags: dict[str, bool], precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert fast_precision(CPU) is precision
    assert fast_precision(META) is torch.float32


def test_a_pytorch_that_cannot_tell_means_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert fast_precision(CPU) is torch.float32


def test_this_machine_decides_alike_each_time() -> None:
    assert fast_precision(CPU) is fast_precision(CPU)
    assert fast_precision(CPU) in (torch.float32, torch.bfloat16)


def test_a_module_is_where_its_tensors_are() -> None:
    assert device_of(nn.Linear(2, 2, device="meta")) == META
    assert device_of(nn.BatchNorm1d(2, affine=False, device="meta")) == META
    assert device_of(nn.ReLU()) == CPU


def test_free_memory_is_what_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_: "MemTotal: 9 kB\nMemAvailable:    3145728 kB\n")
    assert free_gib(CPU) == 3.0


@pytest.mark.parametrize("error", [FileNotFoundError("/proc/meminfo"), KeyError("MemAvailable")])
def test_a_system_that_does_not_tell_has_eight(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> str:
        raise error

    monkeypatch.setattr(Path, "read_text", refused)
    assert free_gib(CPU) == 8.0
