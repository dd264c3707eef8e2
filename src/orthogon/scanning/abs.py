"""ABS: neurons that alone bring about a class say which classes to search triggers for; one that works on other images tells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.layers import last_map
from orthogon.machine import device_of
from orthogon.matrix import plain
from orthogon.pairs import Inversion, Outcome
from orthogon.protocols import named
from orthogon.scanning.evidence import Evidence, Suspect, stamp_of
from orthogon.scanning.neural_cleanse import universal_triggers
from orthogon.scanning.scanner import OnProgress, Scanner, at_hand, drawn_seed, part_of
from orthogon.scanning.sizes import largest_size
from orthogon.scanning.stimulation import SEARCHED_FAMILIES, Candidate, Stimulating
from orthogon.triggers import FAMILIES

_STIMULATED = 0.1
"""Share of the work that is done when the neurons are known."""
_SHOWN = 4
"""Suspects that are kept, of all families."""
_LOOKED_AT = 64
"""Images on which a filter's contrast is measured."""
_SMALLEST = 1e-3
"""Of the largest size: smaller triggers count as this in a feature."""


@dataclass(frozen=True)
class ABS(Stimulating, Scanner):
    """Artificial brain stimulation: the best success rate, on images of their own, of triggers for the classes of candidates.

    For each candidate's class, two universal triggers are searched on one half of the images: a patch and a colour filter. Their
    REASR is what they do to images of the other half; a patch that covers too much, or a filter that wipes out, has none.

    Departs from the original as the remover does: the trigger is searched by orthogon's one loop, for the candidate's class and
    not for the candidate's activation; each class is searched once, however many neurons point to it; the filter gives every
    image one mean and one deviation per channel; the layer is the network's last feature map. So neurons only say which classes
    are worth a search, and a class with a natural trigger of that size is flagged like a planted one.
    """

    judged_images: int = 1000
    """Images of the other half that the triggers are judged on, at the most."""
    least_contrast: float = 0.25
    """Of the images' deviation, how much a filter must leave to have a REASR, 0 to 1: every model has some class for a picture
    that is wiped out. The bound is ours."""

    name: ClassVar[str] = "abs"
    source: ClassVar[str] = "Liu et al. 2019, ABS: Scanning Neural Networks for Back-doors by Artificial Brain Stimulation"

    def __post_init__(self) -> None:
        self.require_settings()
        if self.judged_images < 1:
            raise ValueError(f"judged_images must be at least 1, got {self.judged_images}")
        if not 0 <= self.least_contrast <= 1:
            raise ValueError(f"least_contrast must be from 0 to 1, got {self.least_contrast}")

    @property
    def threshold(self) -> float:
        """The release's bound on the REASR."""
        return self.reasr

    @property
    def rule(self) -> str:
        """The release's."""
        return (
            "the largest success rate on held-out images of a trigger for a class that one neuron alone can bring about (patches "
            f"up to {self.largest_patch:.1%} of the image), a backdoor above {self.reasr:g}"
        )

    def scan(
        self, classifier: Classifier, images: LabelledImages | None, generator: torch.Generator, on_progress: OnProgress
    ) -> Evidence:
        """The REASR of the best trigger for a candidate's class."""
        assert images is not None  # the harness sees to it
        held_out, searched = images.split(0.5, generator)
        if len(held_out) > self.judged_images:
            held_out = held_out.subset(f"fraction:{self.judged_images / len(held_out):.6f}", generator)
        told = part_of(on_progress, 0.0, _STIMULATED, "stimulating neurons")
        try:
            found = self.candidates(classifier, searched, (last_map(classifier),), generator, told)
        except ValueError as error:  # the network has no layer that this method can work on
            return Evidence(math.nan, doubts=(f"no neurons can be stimulated: {error}",))
        targets = sorted({candidate.target for candidate in found})
        tried = list[_Tried]()
        for number, family in enumerate(SEARCHED_FAMILIES if targets else ()):
            width = (1 - _STIMULATED) / len(SEARCHED_FAMILIES)
            told = part_of(on_progress, _STIMULATED + number * width, width, f"{family} triggers for {len(targets)} classes")
            inversions = universal_triggers(
                *(classifier, searched, family, self.protocol, drawn_seed(generator)),
                targets=targets,
                samples=at_hand(searched, named(self.protocol, family).samples),
                on_progress=told,
            )
            tried += [self._tried(classifier, held_out, family, inversion) for inversion in inversions]
        return _evidence(found, tried)

    def _tried(self, classifier: Classifier, held_out: LabelledImages, family: str, inversion: Inversion) -> _Tried:
        largest = largest_size(FAMILIES[family], classifier.image_shape)
        share = min(1.0, inversion.size / largest) if inversion.outcome is Outcome.FOUND else 1.0
        broken = inversion.outcome in (Outcome.NOT_FINITE, Outcome.SAMPLES) or not inversion.trigger
        if broken:
            return _Tried(family, inversion, math.nan, share)
        wipes = family == "filter" and self._contrast(classifier, held_out, family, inversion) < self.least_contrast
        return _Tried(family, inversion, 0.0 if wipes else self.success(classifier, held_out, family, inversion), share)

    def _contrast(self, classifier: Classifier, images: LabelledImages, family: str, inversion: Inversion) -> float:
        """What a trigger leaves of the deviation of images' channels, as they are after clamping: 1 for all of it."""
        seen = images.select(torch.arange(min(len(images), _LOOKED_AT))).floats(device_of(classifier))
        stamped = stamp_of(FAMILIES[family], inversion.trigger, seen.device)(seen)
        before, left = (float(pictures.std((2, 3), correction=0).mean()) for pictures in (seen, stamped))
        return left / before if before > 0 else 1.0


@dataclass(frozen=True, eq=False)
class _Tried:
    """A trigger for a candidate's class."""

    family: str
    inversion: Inversion
    reasr: float
    """NaN where the search has failed."""
    share: float
    """Its size, as a share of the largest that there is; 1 where it was not found."""


def _evidence(candidates: Sequence[Candidate], tried: Sequence[_Tried]) -> Evidence:
    """The score is 0 where no neuron brings about a class, or no trigger turns an image."""
    known = sorted((one for one in tried if math.isfinite(one.reasr)), key=lambda one: (-one.reasr, one.share))
    features = {}
    for family in SEARCHED_FAMILIES:
        reasr, share = next(((one.reasr, one.share) for one in known if one.family == family and one.reasr > 0), (0.0, 1.0))
        features |= {f"{family}.reasr": reasr, f"{family}.share": math.log(max(_SMALLEST, share))}
    facts: dict[str, Any] = {
        "candidates": [[c.layer, c.neuron, c.target, plain(c.lift)] for c in candidates],
        "triggers": [[one.family, one.inversion.pair.target, plain(one.inversion.size), plain(one.reasr)] for one in tried],
    }
    suspects = tuple(Suspect(one.inversion.pair, one.reasr, one.family, one.inversion) for one in known[:_SHOWN])
    doubts = (f"{len(tried) - len(known)} of {len(tried)} searches have failed",) if len(known) < len(tried) else ()
    score = math.nan if tried and not known else max((one.reasr for one in known), default=0.0)
    return Evidence(score, suspects, features, facts, doubts)
