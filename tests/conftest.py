"""Shared fixtures; the package is imported under jaxtyping's hook, so that every annotated shape is checked."""

from __future__ import annotations

import os
from pathlib import Path

# Of `make test`, each process of several has its share of the cores: more threads would wait for each other.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("orthogon", "beartype.beartype").__enter__()


@pytest.fixture
def shared() -> Path:
    """The folder of real data and real models that others made; absent on most machines."""
    path = Path(os.environ.get("ORTHOGON_SHARED", Path(__file__).parents[2] / "shared"))
    if not (path / "MANIFEST.md").exists():
        pytest.skip(f"no real data and models at {path} (set ORTHOGON_SHARED to their folder)")
    return path


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
