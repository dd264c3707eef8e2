"""What this machine can do: devices, bfloat16, compilers, memory."""

from __future__ import annotations

import math
import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import nn

_CONTAINER = Path("/sys/fs/cgroup")
_CACHED = ("active_file ", "inactive_file ")
"""Rows of its memory.stat: what files have left in memory, and the system gives back when it is asked."""
_MEMORY = Path("/proc/meminfo")


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


def exact_convolutions() -> AbstractContextManager[None]:
    """Convolutions of float32 numbers in float32, on a GPU too, where PyTorch would take TF32's ten bits of each number."""
    now = torch.backends.cudnn
    return now.flags(enabled=now.enabled, benchmark=now.benchmark, deterministic=now.deterministic, allow_tf32=False)


def cores() -> int:
    """Processor cores that this process may use: those of its affinity, as far as its container's share goes; at least 1."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = (_of_container("cpu.max") or "").partition(" ")
    return max(1, min(mine, int(quota) // int(period))) if quota.isdecimal() and period.isdecimal() else mine


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile can build code for the device here."""
    if device.type == "cpu":
        return any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl"))
    return device.type == "cuda"


def memory_bytes() -> int | None:
    """Memory of the machine, or that of this process's container, whichever is less; None where neither is told."""
    limit = _of_container("memory.max") or ""
    told = [int(limit)] if limit.isdecimal() else []
    if hasattr(os, "sysconf"):  # not on Windows
        told.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(told, default=None)


def free_gib(device: torch.device) -> float:
    """Free memory of a GPU, or of the machine or this process's container, whichever is less; 8 where none tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**30
    limit, used = _of_container("memory.max") or "", _of_container("memory.current") or ""
    given_back = sum(int(row.split()[1]) for row in (_of_container("memory.stat") or "").splitlines() if row.startswith(_CACHED))
    left = (int(limit) - int(used) + given_back) / 2**30 if limit.isdecimal() and used.isdecimal() else math.inf
    try:
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text("ascii").splitlines())
        return max(0.0, min(left, int(lines["MemAvailable"].split()[0]) / 2**20))
    except (OSError, KeyError):
        return max(0.0, min(left, 8.0))


def _of_container(name: str) -> str | None:
    """What the control group of this process says (cgroup v2, as a container sees its own); None where there is none."""
    try:
        return (_CONTAINER / name).read_text("ascii").strip()
    except OSError:
        return None
