"""Class distances of image classifiers: how small a trigger turns one class into another.

    import orthogon

    classifier = orthogon.load_classifier("net.safetensors", arch="resnet20")
    images = orthogon.open_images("images/", image_shape=classifier.image_shape, classes=classifier.classes)
    measurement = orthogon.measure(classifier, images)
    print(measurement.matrix.mean(), measurement.matrix.unit)

The names below are fetched from their modules on first use, so that importing the package does not import PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orthogon.attacks import ATTACKS, Attack, Materials, Threat, poison
    from orthogon.classifier import Classifier, Normalization
    from orthogon.data import open_images
    from orthogon.distance import Measurement, measure
    from orthogon.evaluate import PGDSettings, accuracy, attack_success, near_chance, robust_accuracy
    from orthogon.frozen import Speed
    from orthogon.hardening import Hardening, HardeningProgress, harden
    from orthogon.images import LabelledImages
    from orthogon.matrix import DistanceMatrix, improvement
    from orthogon.methods import METHODS, HardeningSettings, PervasiveSettings
    from orthogon.models import load_classifier, save_classifier
    from orthogon.pairs import Inversion, Outcome, Pair, choose_pairs
    from orthogon.planting import plant
    from orthogon.protocols import PROTOCOLS, InversionSettings, Protocol, Stage
    from orthogon.recipe import TrainingSettings
    from orthogon.removal import REMOVERS, Removal, Remover, remove
    from orthogon.report import compare, model_card, write_card, write_comparison, write_report
    from orthogon.results import write_triggers
    from orthogon.scanning import SCANNERS, scan
    from orthogon.training import fit
    from orthogon.triggers import FAMILIES, Additive, Colour, Filter, Patch, TriggerFamily, Warp

    __version__: str

__all__ = [
    "ATTACKS",
    "FAMILIES",
    "METHODS",
    "PROTOCOLS",
    "REMOVERS",
    "SCANNERS",
    "Additive",
    "Attack",
    "Classifier",
    "Colour",
    "DistanceMatrix",
    "Filter",
    "Hardening",
    "HardeningProgress",
    "HardeningSettings",
    "Inversion",
    "InversionSettings",
    "LabelledImages",
    "Materials",
    "Measurement",
    "Normalization",
    "Outcome",
    "PGDSettings",
    "Pair",
    "Patch",
    "PervasiveSettings",
    "Protocol",
    "Removal",
    "Remover",
    "Speed",
    "Stage",
    "Threat",
    "TrainingSettings",
    "TriggerFamily",
    "Warp",
    "__version__",
    "accuracy",
    "attack_success",
    "choose_pairs",
    "compare",
    "fit",
    "harden",
    "improvement",
    "load_classifier",
    "measure",
    "model_card",
    "near_chance",
    "open_images",
    "plant",
    "poison",
    "remove",
    "robust_accuracy",
    "save_classifier",
    "scan",
    "write_card",
    "write_comparison",
    "write_report",
    "write_triggers",
]

_HOMES = {
    "attacks": ("ATTACKS", "Attack", "Materials", "Threat", "poison"),
    "classifier": ("Classifier", "Normalization"),
    "data": ("open_images",),
    "distance": ("Measurement", "measure"),
    "evaluate": ("PGDSettings", "accuracy", "attack_success", "near_chance", "robust_accuracy"),
    "frozen": ("Speed",),
    "hardening": ("Hardening", "HardeningProgress", "harden"),
    "images": ("LabelledImages",),
    "matrix": ("DistanceMatrix", "improvement"),
    "methods": ("METHODS", "HardeningSettings", "PervasiveSettings"),
    "models": ("load_classifier", "save_classifier"),
    "pairs": ("Inversion", "Outcome", "Pair", "choose_pairs"),
    "planting": ("plant",),
    "protocols": ("PROTOCOLS", "InversionSettings", "Protocol", "Stage"),
    "recipe": ("TrainingSettings",),
    "removal": ("REMOVERS", "Removal", "Remover", "remove"),
    "report": ("compare", "model_card", "write_card", "write_comparison", "write_report"),
    "results": ("write_triggers",),
    "scanning": ("SCANNERS", "scan"),
    "training": ("fit",),
    "triggers": ("FAMILIES", "Additive", "Colour", "Filter", "Patch", "TriggerFamily", "Warp"),
}
_HOME_OF = {name: f"orthogon.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = importlib.import_module("importlib.metadata").version("orthogon")
    elif name in _HOME_OF:
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
    else:
        raise AttributeError(f"module 'orthogon' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
