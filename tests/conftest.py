"""Shared fixtures; the package is imported under jaxtyping's hook, so that every annotated shape is checked."""

from __future__ import annotations

import os
from pathlib import Path

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
