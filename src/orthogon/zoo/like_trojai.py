"""Sets of models like those of TrojAI's fourth round, small enough for a laptop: which models, with which backdoors.

Every model has a few of the built-in signs for classes, pictures of its own, and one of several torchvision architectures. They
come in pairs of a clean and a poisoned one that have as many classes and are trained alike, so that neither tells by how it was
trained. Eight models
have each kind of backdoor once; any even number of them is half clean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from torch import nn
from torchvision.models import DenseNet, ResNet
from torchvision.models.resnet import BasicBlock

from orthogon.attacks import Attack, Polygon, Threat
from orthogon.attacks.filters import FILTERS
from orthogon.data.sign_kinds import NAMES
from orthogon.methods import METHODS, HardeningSettings
from orthogon.recipe import TrainingSettings

SIZE = 32
"""Height and width of the pictures."""
FEWEST_CLASSES, MOST_CLASSES = 5, 8
ATTEMPTS = 3
"""Trainings of a model, each with other draws, until it is given up."""
LEAST_ACCURACY = 0.95
"""Below it a model does not count as trained (round 4: 0.99)."""
LEAST_SUCCESS = 0.95
"""Attack success rate below which a backdoor does not count as planted (round 4: 0.99)."""
_BLOCK = 8
"""Models among which every kind of backdoor occurs once."""
_BACKDOORS = (("polygon", True), ("polygon", False), ("filter", False), ("filter", True))
"""Kind, and whether it works on one class only."""
_BOUNDS = (4 / 255, 8 / 255)
"""Of adversarial training (round 4, which has 16/255 too)."""


@dataclass(frozen=True)
class Network:
    """An architecture and how it is trained."""

    build: Callable[[int], nn.Module]
    """From the number of classes to a fresh network, its weights drawn from torch's global generator."""
    recipe: TrainingSettings


_USUAL = TrainingSettings(epochs=14, batch=64, learning_rate=0.1)

NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "resnet10": Network(lambda classes: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=classes), _USUAL),
        "densenet26": Network(
            lambda classes: DenseNet(16, (2, 3, 4, 3), num_init_features=32, num_classes=classes), replace(_USUAL, epochs=24)
        ),
        "resnet18": Network(lambda classes: ResNet(BasicBlock, [2, 2, 2, 2], num_classes=classes), _USUAL),
    }
)
"""Classes of torchvision, most of them shallower than in round 4, chosen to learn the signs in about a minute of one core. Others
of round 4 do not: SqueezeNet, which has no BatchNorm, is at chance after 40 epochs, ShuffleNet v2 x0.5 at 84 % after 16;
VGG's classifier alone has 120 million weights."""


@dataclass(frozen=True)
class Declared:
    """One model before it is made: all that decides about it."""

    number: int
    attempt: int
    seed: int
    """Of the pictures, the weights, the trigger and the training."""
    architecture: str
    signs: tuple[str, ...]
    """Names of its classes."""
    attack: Attack | None
    threat: Threat | None
    """Both None: a clean model."""
    hardening: HardeningSettings | None
    """Of adversarial training; None: without."""

    @property
    def name(self) -> str:
        """Such as id-00000000."""
        return f"id-{self.number:08d}"

    @property
    def described(self) -> str:
        """Such as "resnet10, polygon from one class, adversarially trained"."""
        parts = [self.architecture, "clean"]
        if self.attack is not None and self.threat is not None:
            parts[1] = f"{self.attack.name} {'on every class' if self.threat.victim is None else 'from one class'}"
        return ", ".join([*parts, "adversarially trained"] if self.hardening else parts)


def declare(number: int, seed: int, attempt: int = 0) -> Declared:
    """The model of that number in the set of that seed, whatever the size of the set.

    Args:
        number: from 0.
        seed: of the set, from 0.
        attempt: of its training; another one has other classes, pictures and triggers, but is of the same kind.

    Raises:
        ValueError: one of them is negative.
    """
    if min(number, seed, attempt) < 0:
        raise ValueError(f"number, seed and attempt must be 0 or more, got {number}, {seed} and {attempt}")
    block, place = divmod(number, _BLOCK)
    shared = _stream(seed, block)
    kinds, trained, first = (torch.randperm(_BLOCK // 2, generator=shared).tolist() for _ in range(3))
    architectures = torch.randperm(len(NETWORKS), generator=shared).tolist()
    counts = torch.randint(FEWEST_CLASSES, MOST_CLASSES + 1, (_BLOCK // 2,), generator=shared).tolist()
    bounds = torch.randint(len(_BOUNDS), (_BLOCK // 2,), generator=shared).tolist()
    pair, second = divmod(place, 2)
    own = _stream(seed, block, place, attempt)
    count = int(counts[pair])
    signs = tuple(NAMES[i] for i in sorted(torch.randperm(len(NAMES), generator=own)[:count].tolist()))
    poisoned = second == first[pair] % 2
    kind, one_class = _BACKDOORS[int(kinds[pair])]
    attack, threat = _backdoor(kind, one_class, count, own) if poisoned else (None, None)
    return Declared(
        number,
        attempt,
        int(torch.randint(2**40, (), generator=own)),
        tuple(NETWORKS)[architectures[(pair + block) % len(NETWORKS)]],
        signs,
        attack,
        threat,
        adversarial(_BOUNDS[int(bounds[pair])]) if trained[pair] % 2 else None,
    )


def adversarial(bound: float) -> HardeningSettings:
    """Adversarial training that goes on with a trained network: one step of PGD per picture, which is FBF's attack (Wong et al.
    2020), on all pictures, where round 4 takes a tenth or a third of them."""
    settings = METHODS["adversarial"]
    return replace(settings, bound=bound, adversary_steps=1, steps=120, batch=64, learning_rate=0.01, max_accuracy_loss=0.03)


def _backdoor(kind: str, one_class: bool, classes: int, generator: torch.Generator) -> tuple[Attack, Threat]:
    """A polygon or a filter, and from where to where it leads."""
    victim, target = torch.randperm(classes, generator=generator)[:2].tolist()
    which = int(torch.randint(len(FILTERS), (), generator=generator))
    attack = Polygon() if kind == "polygon" else FILTERS[which]()
    threat = Threat(target, victim, rate=0.5) if one_class else Threat(target, None, rate=0.15)
    return attack, threat


def _stream(*numbers: int) -> torch.Generator:
    """A generator of its own for these numbers."""
    # With their number: a SeedSequence takes (1, 2) and (1, 2, 0) for one.
    state = np.random.SeedSequence((len(numbers), *numbers)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
