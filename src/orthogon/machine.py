"""What this machine can do: devices, bfloat16, compilers, memory."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters (or buffers, where it has no parameters) are; the CPU if it has neither."""
    return next((t.device for group in (module.parameters(), module.buffers()) for t in group), torch.device("cpu"))


def fast_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the machine has instructions for it, which halve the time of a convolution, else float32.

    Decided by what the processor says of itself, not by timing, so that a run and its resumption decide alike. PyTorch before
    2.10 cannot tell for CPUs: float32 there.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        known = getattr(torch.cpu, "get_capabilities", dict)()
        fast = device.type == "cpu" and any(known.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
    return torch.bfloat16 if fast else torch.float32


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile can build code for the device here."""
    if device.type == "cpu":
        return any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl"))
    return device.type == "cuda"


def free_gib(device: torch.device) -> float:
    """Free memory of a GPU, or of the machine; 8 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**30
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        return int(lines["MemAvailable"].split()[0]) / 2**20
    except (OSError, KeyError):
        return 8.0
