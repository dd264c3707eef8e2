"""Draws that take no generator: layers such as Dropout draw from PyTorch's global ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def layer_draws(device: torch.device, seed: int) -> Iterator[None]:
    """The global generators of the CPU and a device begin at a seed, and afterwards are where they were before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed % 2**63)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed % 2**63)
        yield
