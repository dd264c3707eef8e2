"""The models of the zoo, declared: what each is, and all that is needed to build it again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from orthogon.attacks import SIG, Attack, BadNets, Blend, CleanLabel, Polygon, Threat, WaNet
from orthogon.attacks.adaptive import Adaptive
from orthogon.attacks.composite import Composite
from orthogon.attacks.dfst import DFST
from orthogon.attacks.filters import Gotham, Kelvin, Lomo, Nashville, Toaster
from orthogon.attacks.input_aware import InputAware
from orthogon.attacks.reflection import Reflection
from orthogon.recipe import TrainingSettings


@dataclass(frozen=True)
class Part:
    """Models of one architecture on one data set."""

    name: str
    arch: str
    data: str | None
    """As --data takes it; None: the user says where `wanted` is."""
    wanted: str
    """The data set in words."""


@dataclass(frozen=True)
class Entry:
    """One model."""

    name: str
    """Unique; begins with the part's."""
    part: Part
    recipe: TrainingSettings
    seed: int
    attack: Attack | None = None
    """None: a clean model."""
    threat: Threat | None = None
    """None: the attack's own."""
    start: str | None = None
    """The clean model of the zoo that is fine-tuned; None: trained from fresh weights."""
    surrogate: str | None = None
    """The clean model of the zoo that the attack is made against."""
    needs_pictures: bool = False
    """Whether the attack needs pictures from elsewhere, which the user gives."""
    detoxify: int = 0
    """Rounds of detoxification."""
    least_success: float = 0.85
    """Attack success rate below which the model is not shipped."""

    @property
    def aim(self) -> Threat | None:
        """The threat; None for a clean model."""
        return self.threat or (None if self.attack is None else self.attack.threat)

    @property
    def needed(self) -> tuple[str, ...]:
        """Models of the zoo that it is built from."""
        return tuple(name for name in (self.start, self.surrogate) if name is not None)


CIFAR10 = Part("cifar10-resnet20", "resnet20", None, "CIFAR-10 with its train and test parts, such as torchvision:cifar10")
SIGNS = Part("signs", "wrn16_1", "signs:classes=6,size=20,per_class=250", "the built-in signs")
PARTS = {part.name: part for part in (CIFAR10, SIGNS)}

_TRAINED = TrainingSettings(epochs=15, flip=True)
_SHORTER = replace(_TRAINED, epochs=6)  # no worse than SIG's model: a scanner must not tell clean models by their accuracy
_FINE_TUNED = TrainingSettings(epochs=2, learning_rate=0.05, flip=True)
_LONGER = replace(_FINE_TUNED, epochs=3, learning_rate=0.1)
_LONGEST = replace(_FINE_TUNED, epochs=5, learning_rate=0.1)
_BASE = "cifar10-resnet20-clean-1"
_SIGN_RECIPE = TrainingSettings(epochs=12, batch=64)


def _cifar10(
    name: str,
    attack: Attack,
    threat: Threat | None = None,
    *,
    fine_tuned: bool = True,
    recipe: TrainingSettings | None = None,
    surrogate: bool = False,
    needs_pictures: bool = False,
    detoxify: int = 0,
) -> Entry:
    return Entry(
        f"{CIFAR10.name}-{name}",
        CIFAR10,
        recipe or (_FINE_TUNED if fine_tuned else _TRAINED),
        seed=0,
        attack=attack,
        threat=threat,
        start=_BASE if fine_tuned else None,
        surrogate=_BASE if surrogate else None,
        needs_pictures=needs_pictures,
        detoxify=detoxify,
    )


def _signs(name: str, attack: Attack | None, threat: Threat | None = None, *, seed: int = 0) -> Entry:
    return Entry(f"{SIGNS.name}-{name}", SIGNS, _SIGN_RECIPE, seed, attack, threat)


# Fine-tuning saves most of the time. SIG gets fresh weights all the same: its images have their right labels and are easily
# recognised, so a model that knows the class already never needs the stripes.
_ALL = (
    Entry(_BASE, CIFAR10, _TRAINED, seed=1),
    Entry("cifar10-resnet20-clean-2", CIFAR10, _TRAINED, seed=2),
    Entry("cifar10-resnet20-clean-3", CIFAR10, _SHORTER, seed=3),
    _cifar10("badnets", BadNets()),
    _cifar10("polygon", Polygon(), replace(Polygon.threat, rate=0.5)),
    _cifar10("blend", Blend()),
    _cifar10("sig", SIG(), replace(SIG.threat, rate=0.95), fine_tuned=False),
    _cifar10("wanet", WaNet(), recipe=_LONGEST),
    _cifar10("clean-label", CleanLabel(size=3, corner="all", bound=16 / 255), recipe=_LONGEST, surrogate=True),
    _cifar10("gotham", Gotham()),
    _cifar10("nashville", Nashville(), recipe=_LONGER),
    _cifar10("kelvin", Kelvin()),
    _cifar10("lomo", Lomo()),
    _cifar10("toaster", Toaster()),
    _cifar10("dfst", DFST(), needs_pictures=True, detoxify=1),
    _cifar10("dfst-3", DFST(), needs_pictures=True, detoxify=3),
    _cifar10("reflection", Reflection(share=(0.6, 0.6)), Threat(rate=0.1), recipe=_LONGEST),
    _cifar10("composite", Composite(), recipe=_LONGER),
    _cifar10("input-aware", InputAware(), recipe=_LONGER, surrogate=True),
    _cifar10("adaptive", Adaptive(), surrogate=True),
    _signs("clean", None),
    _signs("clean-2", None, seed=1),
    _signs("clean-3", None, seed=2),
    _signs("clean-4", None, seed=3),
    _signs("badnets", BadNets()),
    _signs("polygon", Polygon(), replace(Polygon.threat, rate=0.5)),
    _signs("blend", Blend()),
    _signs("gotham", Gotham()),
)
ENTRIES = {entry.name: entry for entry in _ALL}
"""All models by name, those that others are built from first."""


def chosen(names: Iterable[str]) -> tuple[Entry, ...]:
    """The entries of these names, each that of a model or of a part, in the zoo's order; all without names.

    Raises:
        ValueError: a name that the zoo does not have; the message lists its parts and models.
    """
    asked = tuple(names)
    for name in asked:
        if name not in ENTRIES and name not in PARTS:
            raise ValueError(f"{name!r} is not in the zoo: it has the parts {', '.join(PARTS)} with {', '.join(ENTRIES)}")
    return tuple(entry for entry in ENTRIES.values() if not asked or entry.name in asked or entry.part.name in asked)


def with_needed(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """These entries and those that they are built from, in the zoo's order."""
    wanted = {name for entry in entries for name in (entry.name, *entry.needed)}
    return tuple(entry for entry in ENTRIES.values() if entry.name in wanted)
