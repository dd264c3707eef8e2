"""Writing a classifier as weights with their card, which every command takes as a model without further words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orthogon import runs
from orthogon.classifier import Classifier
from orthogon.models.cards import normalization_entry


def save_classifier(classifier: Classifier, path: Path, facts: Mapping[str, Any]) -> None:
    """Write `path` (.safetensors) and the card beside it, each in one step; the card last.

    Args:
        classifier: its `card` says the architecture, unless `facts` does.
        path: ends in .safetensors.
        facts: goes into the card (JSON-like): architecture, accuracy, provenance, … Wins over the
            classifier's own card.

    Raises:
        ValueError: another suffix, or an architecture that nobody names (a whole pickled network, TorchScript).
        OSError: the folder is full or cannot be written.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"a classifier is saved as .safetensors, not {path.name!r}")
    card = {
        **classifier.card,
        **facts,
        "normalisation": normalization_entry(classifier.normalization),
        "classes": list(classifier.classes),
        "image_shape": list(classifier.image_shape),
    }
    if not isinstance(card.get("architecture"), str):
        raise ValueError(f"{path}: the card needs the name of the architecture, without it nobody can load the weights")
    runs.write_tensors(path, classifier.network.state_dict())
    runs.write_json(path.with_suffix(".json"), card)
