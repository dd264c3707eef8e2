"""A small model with a real backdoor, from the repository's zoo, and clean signs that it was not trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from orthogon import load_classifier, open_images
from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.methods import METHODS
from orthogon.planting import SavedTrigger, read_trigger
from orthogon.protocols import PROTOCOLS, InversionSettings, Protocol, Stage

ZOO = Path(__file__).parents[2] / "zoo"

SHORT = Protocol("screen", 10, InversionSettings((Stage(restarts=1, steps=24, batch=8, rates=(0.5, 0.2), accept_every=4),)))


@pytest.fixture(autouse=True)
def short_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """`screen` as a search of two dozen steps, so that a remover that searches is seen in a second."""
    monkeypatch.setitem(PROTOCOLS, "screen", SHORT)


@pytest.fixture(autouse=True)
def short_hardening(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short searches of few pairs at once, and small batches."""
    searches = {"first_inversion": 20, "warm_up_inversion": 20, "inversion": 6, "trigger_samples": 8, "prior_samples": 2}
    updates = {"arms_per_pick": 3, "updates_per_pick": 2, "batch": 32, "stamped": 36, "average": 0.8, "horizon": 10}
    fewer = {"first_inversion": 4, "warm_up_inversion": 4, "inversion": 2, "trigger_samples": 4}  # of dearer steps
    for name in ("moth", "moth-filter", "moth-colour", "moth-additive", "deck"):
        own = searches | (fewer if name == "deck" else {})
        monkeypatch.setitem(METHODS, name, replace(METHODS[name], **own, **updates))


@pytest.fixture
def poisoned() -> Classifier:
    return load_classifier(str(ZOO / "signs-badnets" / "model.safetensors"))


@pytest.fixture(scope="session")
def trigger() -> SavedTrigger:
    return read_trigger(ZOO / "signs-badnets" / "trigger.safetensors")


@pytest.fixture(scope="session")
def clean() -> LabelledImages:
    """Sixteen of each of six classes."""
    return open_images("signs:classes=6,size=20,per_class=16,seed=3", split="train")


@pytest.fixture(scope="session")
def unseen() -> LabelledImages:
    return open_images("signs:classes=6,size=20,per_class=20,seed=4", split="test")


@pytest.fixture
def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)
