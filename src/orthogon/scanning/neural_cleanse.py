"""Neural Cleanse: a class that a suspiciously small universal patch leads to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from orthogon.anomaly import FLAGGED, anomaly_indices, flagged
from orthogon.classifier import Classifier
from orthogon.distance import measure
from orthogon.images import LabelledImages
from orthogon.matrix import plain
from orthogon.pairs import Inversion, Outcome, Pair
from orthogon.protocols import Protocol, named
from orthogon.scanning.evidence import Evidence, Suspect
from orthogon.scanning.scanner import OnProgress, Scanner, at_hand, drawn_seed, part_of
from orthogon.triggers import FAMILIES

_FEWEST = 4
"""Classes from which a median and a deviation of sizes say something of one of them."""
_BEYOND = 1e6
"""Stands for an infinite anomaly index."""
_SHOWN = 3
"""Suspects that are kept."""


@dataclass(frozen=True)
class NeuralCleanse(Scanner):
    """One universal patch per class; a class whose patch lies more than 2 deviations below the median is a backdoor's target.

    The deviation is 1.4826 times the median absolute deviation, and only small patches count. Departs from the original: the
    patches are found by orthogon's one loop (protocol `neural-cleanse`: the original's search, all classes in one batch) on 100
    images and not on all. A class for which no patch is found has no index. A backdoor for one victim class, or one that is no
    small patch, is not seen by this method.
    """

    protocol: str = "neural-cleanse"
    """How the patches are searched (see `orthogon measure`)."""
    samples: int | None = None
    """Images that the patch of a class is searched on, or all that there are, where these are fewer; None: the protocol's."""
    flagged_above: float = FLAGGED
    """Anomaly index above which a class is a target (section IV-B: 2)."""

    name: ClassVar[str] = "nc"
    source: ClassVar[str] = "Wang et al. 2019, Neural Cleanse, section IV-B"

    def __post_init__(self) -> None:
        named(self.protocol, "patch")
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples must be at least 1, or none for the protocol's own, got {self.samples}")
        if not self.flagged_above > 0:
            raise ValueError(f"flagged_above must be above 0, got {self.flagged_above}")

    @property
    def threshold(self) -> float:
        """The anomaly index of the paper."""
        return self.flagged_above

    @property
    def rule(self) -> str:
        """The paper's."""
        return f"the largest anomaly index of a class's universal patch, a backdoor above {self.flagged_above:g}"

    def scan(
        self, classifier: Classifier, images: LabelledImages | None, generator: torch.Generator, on_progress: OnProgress
    ) -> Evidence:
        """The anomaly index of every class's smallest universal patch."""
        assert images is not None  # the harness sees to it
        told = part_of(on_progress, 0.0, 1.0, f"universal patches of {len(classifier.classes)} classes")
        samples = at_hand(images, self.samples or named(self.protocol, "patch").samples)
        found = universal_triggers(
            *(classifier, images, "patch"), self.protocol, drawn_seed(generator), samples=samples, on_progress=told
        )
        return _evidence(found, classifier.classes, samples)


def universal_triggers(
    classifier: Classifier,
    images: LabelledImages,
    family: str,
    protocol: str | Protocol,
    seed: int,
    *,
    targets: Sequence[int] | None = None,
    samples: int | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> list[Inversion]:
    """The smallest universal trigger of every class, or of each of the targets: every other class is its victim."""
    chosen = range(len(classifier.classes)) if targets is None else targets
    return measure(
        *(classifier, images),
        pairs=[Pair(None, target) for target in chosen],
        family=FAMILIES[family],
        protocol=protocol,
        seed=seed,
        samples=samples,
        on_progress=None if on_progress is None else lambda progress: on_progress(progress.done),
    ).inversions


def indices_of(found: Sequence[Inversion]) -> list[float]:
    """The anomaly index of every patch; NaN of one that was not found, and of all where too few were for one to stand out.

    Where all but one have one size its index would be infinite: a number that no other index reaches stands for it.
    """
    if sum(inversion.outcome is Outcome.FOUND for inversion in found) < _FEWEST:
        return [math.nan] * len(found)
    indices = anomaly_indices([inversion.size for inversion in found])
    return [math.copysign(_BEYOND, index) if math.isinf(index) else index for index in indices]


def _evidence(found: Sequence[Inversion], classes: Sequence[str], samples: int) -> Evidence:
    indices = indices_of(found)
    known = flagged(indices, -math.inf)
    facts: dict[str, Any] = {
        "samples": samples,
        "sizes": [plain(inversion.size) for inversion in found],
        "indices": [plain(index) for index in indices],
    }
    if not known:
        count = sum(inversion.outcome is Outcome.FOUND for inversion in found)
        doubt = f"universal patches were found for {count} of {len(classes)} classes, and an outlier needs {_FEWEST}"
        return Evidence(math.nan, facts=facts, doubts=(doubt,))
    suspects = tuple(Suspect(found[i].pair, indices[i], "patch", found[i]) for i in known[:_SHOWN])
    score = indices[known[0]]
    return Evidence(score, suspects, {"score": score}, facts, _missing(found, classes))


def _missing(found: Sequence[Inversion], classes: Sequence[str]) -> tuple[str, ...]:
    """A class without an index may be the target: the search has failed, or there were too few images."""
    without = [classes[i.pair.target] for i in found if i.outcome in (Outcome.SAMPLES, Outcome.NOT_FINITE)]
    return (f"no universal patch could be searched for {', '.join(map(repr, without))}",) if without else ()
