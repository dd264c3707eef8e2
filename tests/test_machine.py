"""What the machine says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from orthogon import machine
from orthogon.machine import cores, device_of, exact_convolutions, fast_precision, free_gib, has_compiler, memory_bytes

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


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the machine looks for its container's limits: an empty folder."""
    monkeypatch.setattr(machine, "_CONTAINER", tmp_path)
    return tmp_path


@pytest.fixture
def told(container: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the machine says of its memory: 3 GiB are free."""
    path = container / "meminfo"
    path.write_text("MemTotal: 9 kB\nMemAvailable:    3145728 kB\n")
    monkeypatch.setattr(machine, "_MEMORY", path)
    return path


def test_free_memory_is_what_the_system_says(told: Path) -> None:
    assert free_gib(CPU) == 3.0


@pytest.mark.parametrize("text", [None, "MemTotal: 9 kB\n"])
def test_a_system_that_does_not_tell_has_eight(text: str | None, told: Path) -> None:
    told.unlink() if text is None else told.write_text(text)
    assert free_gib(CPU) == 8.0


def test_a_container_has_what_it_is_given(told: Path, container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(6)), raising=False)
    assert (cores(), free_gib(CPU)) == (6, 3.0)
    for name, text in (("cpu.max", "max 100000\n"), ("memory.max", "max\n"), ("memory.current", f"{2**30}\n")):
        (container / name).write_text(text)
    assert (cores(), free_gib(CPU)) == (6, 3.0)
    (container / "cpu.max").write_text("250000 100000\n")
    (container / "memory.max").write_text(f"{2 * 2**30}\n")
    assert (cores(), free_gib(CPU)) == (2, 1.0)
    (container / "memory.stat").write_text(f"anon 5\nfile 7\ninactive_file {2**28}\nactive_file {2**28}\n")
    assert free_gib(CPU) == 1.5
    (container / "cpu.max").write_text("50000 100000\n")
    assert cores() == 1


def test_memory_is_the_machines_or_the_containers_whichever_is_less(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__, raising=False)
    assert memory_bytes() == 4096 * 1000
    (container / "memory.max").write_text("max\n")
    assert memory_bytes() == 4096 * 1000
    (container / "memory.max").write_text("5000\n")
    assert memory_bytes() == 5000
    monkeypatch.delattr("os.sysconf")
    assert memory_bytes() == 5000
    (container / "memory.max").unlink()
    assert memory_bytes() is None


def test_exact_convolutions_leave_the_settings_as_they_were() -> None:
    def now() -> tuple[bool, ...]:
        known = torch.backends.cudnn
        return known.enabled, known.benchmark, known.deterministic, known.allow_tf32

    before = now()
    with exact_convolutions():
        assert now() == (*before[:3], False)
    assert now() == before
