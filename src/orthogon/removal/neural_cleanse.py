"""Neural Cleanse: find the class that a suspiciously small trigger leads to, and unlearn that trigger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from orthogon.anomaly import FLAGGED, flagged
from orthogon.classifier import Classifier
from orthogon.pairs import Inversion, Outcome
from orthogon.protocols import named
from orthogon.ranges import require
from orthogon.removal.remover import Work
from orthogon.removal.unlearning import Unlearner
from orthogon.scanning.evidence import stamp_of
from orthogon.scanning.neural_cleanse import indices_of, universal_triggers
from orthogon.scanning.scanner import at_hand, drawn_seed, part_of
from orthogon.triggers import FAMILIES

_SEARCH = 0.95
"""Share of the work that the search takes."""
_TOLD = 8
"""Classes whose anomaly index is told, the largest first."""


@dataclass(frozen=True)
class NeuralCleanse(Unlearner):
    """One universal patch per class, the anomaly index of its size, and one epoch with the flagged patches and true labels.

    Departs from the original: the triggers are found by orthogon's one loop (protocol `neural-cleanse`: the original's
    search, all classes in one batch) on 100 images and not on all; every flagged trigger is unlearned in the same epoch; and
    5 % of the training images are there where the original has 10 %. A model in which no trigger is small stays as it is: a
    backdoor for one victim class, or one that is no small patch, is not seen by this method.
    """

    protocol: str = "neural-cleanse"
    """How the triggers are searched (see `orthogon measure`); "fast" and "screen" are quicker and tell less exactly."""
    samples: int | None = None
    """Images that the trigger of a class is searched on; None: as many as the protocol says."""
    flagged_above: float = FLAGGED
    """Anomaly index from which a trigger is unlearned (section IV-B: 2)."""

    name: ClassVar[str] = "nc"
    source: ClassVar[str] = "Wang et al. 2019, Neural Cleanse, sections IV-B and VI-C"

    def __post_init__(self) -> None:
        super().__post_init__()
        named(self.protocol, "patch")
        require(self, positive=("flagged_above",))
        if self.samples is not None:
            require(self, counts=("samples",))

    def remove(self, work: Work) -> Classifier:
        """With its suspiciously small triggers unlearned; as it was where there is none."""
        family = FAMILIES["patch"]
        found = self._searched(work)
        indices = indices_of(found)
        suspects = flagged(indices, self.flagged_above)
        work.look(
            *(work.classifier, "search", len(found)),
            sizes=[round(i.size, 2) if i.outcome is Outcome.FOUND else None for i in found],
            indices=[round(index, 3) if math.isfinite(index) else None for index in indices],
            flagged=suspects,
        )
        work.notes += _notes(work.classifier.classes, found, indices, suspects, self.flagged_above)
        if not suspects:
            work.on_progress(1.0, "nothing to unlearn")
            return work.classifier
        stamps = [stamp_of(family, found[c].trigger, work.device) for c in suspects]
        return self.unlearn(work, stamps, _SEARCH)

    def _searched(self, work: Work) -> list[Inversion]:
        """The smallest universal patch of every class."""
        told = part_of(work.on_progress, 0.0, _SEARCH, f"searching the triggers of {len(work.classifier.classes)} classes")
        return universal_triggers(
            *(work.classifier, work.images, "patch"),
            *(self.protocol, drawn_seed(work.generator)),
            samples=at_hand(work.images, self.samples or named(self.protocol, "patch").samples),
            on_progress=told,
        )


def _notes(
    classes: Sequence[str], found: Sequence[Inversion], indices: Sequence[float], suspects: Sequence[int], bound: float
) -> list[str]:
    """What was flagged, the largest indices, and which classes have none."""
    known = sorted((c for c, index in enumerate(indices) if not math.isnan(index)), key=lambda c: -indices[c])
    told = ", ".join(f"{classes[c]!r} {indices[c]:.1f} ({found[c].size:.0f})" for c in known[:_TOLD])
    notes = [f"anomaly index of the smallest universal patch (its mask's L1 over channels): {told or 'none'}"]
    sizes = sum(inversion.outcome is Outcome.FOUND for inversion in found)
    if sizes and all(map(math.isnan, indices)):
        notes.append(f"patches were found for {sizes} classes, too few for one of them to stand out")
    if missing := [repr(classes[i.pair.target]) for i in found if i.outcome is not Outcome.FOUND]:
        some = ", ".join(missing[:_TOLD]) + (", …" if len(missing) > _TOLD else "")
        notes.append(f"no universal patch was found for {some}: these have no index")
    if suspects:
        return [*notes, f"flagged above {bound:g} and unlearned: {', '.join(repr(classes[c]) for c in suspects)}"]
    return [
        *notes,
        f"no class is flagged above {bound:g}: the model was left as it is, which does not say that it has no backdoor",
    ]
