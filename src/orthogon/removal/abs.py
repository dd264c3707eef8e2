"""ABS: stimulate neurons to see which classes one neuron alone can bring about, invert triggers for these, and unlearn them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from orthogon.classifier import Classifier
from orthogon.evaluate import Stamp
from orthogon.layers import last_map
from orthogon.protocols import named
from orthogon.removal.remover import Work
from orthogon.removal.unlearning import Unlearner
from orthogon.scanning.evidence import stamp_of
from orthogon.scanning.neural_cleanse import universal_triggers
from orthogon.scanning.scanner import at_hand, drawn_seed, part_of
from orthogon.scanning.stimulation import SEARCHED_FAMILIES, Candidate, Stimulating
from orthogon.triggers import FAMILIES

_STIMULATED, _SEARCHED = 0.1, 0.95
"""Shares of the work that are done when the neurons, and the triggers, are known."""


@dataclass(frozen=True)
class ABS(Stimulating, Unlearner):
    """Artificial brain stimulation, then one epoch with the triggers found and true labels, as Neural Cleanse unlearns.

    A neuron is a channel; stimulated, its whole feature map has one value while all others stay as an image made them. A
    candidate lifts the same class above all others on nearly every image. For each candidate's class, two universal triggers
    are searched: a patch and a colour filter. One that turns enough held-out images (its REASR) is unlearned.

    Departs from the original: the trigger is searched by orthogon's one loop, for the candidate's class and not for the
    candidate's activation, so that neurons only say which classes are worth a search; and each class is searched once,
    however many neurons point to it. The filter gives every image one mean and one deviation per channel, where the original
    has a linear layer on the pixels. The layer is one whose output everything passes, late in the network, where the original
    visits every layer. So classes with a natural trigger of that size are unlearned too, which does no harm here but is no
    verdict.
    """

    name: ClassVar[str] = "abs"
    takes_layers: ClassVar[bool] = True
    source: ClassVar[str] = "Liu et al. 2019, ABS: Scanning Neural Networks for Back-doors by Artificial Brain Stimulation"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_settings()

    def remove(self, work: Work) -> Classifier:
        """With the triggers of its candidates unlearned; as it was where none turns enough images.

        Raises:
            ValueError: a layer that is none, or whose output does not alone decide the logits.
        """
        candidates = self._candidates(work)
        targets = sorted({candidate.target for candidate in candidates})
        stamps: list[Stamp] = []
        told = [f"neuron {c.neuron} of {c.layer} → {work.classifier.classes[c.target]!r} ({c.lift:.2g})" for c in candidates[:8]]
        work.notes.append(f"neurons that alone lift one class, the strongest first: {', '.join(told) or 'none'}")
        for number, family in enumerate(SEARCHED_FAMILIES):
            stamps += self._convicted(work, family, targets, number)
        if not stamps:
            work.notes.append("no trigger turns enough held-out images: the model was left as it is, which is no proof of health")
            work.on_progress(1.0, "nothing to unlearn")
            return work.classifier
        return self.unlearn(work, stamps, _SEARCHED)

    def _candidates(self, work: Work) -> list[Candidate]:
        """The neurons with the largest lift, over all layers that are looked at."""
        layers = work.layers or (last_map(work.classifier),)
        told = part_of(work.on_progress, 0.0, _STIMULATED, "stimulating neurons")
        found = self.candidates(work.classifier, work.images, layers, work.generator, told)
        work.notes.append(f"layers whose neurons are stimulated: {', '.join(layers)}")
        work.look(work.classifier, "stimulation", len(found), candidates=[[c.layer, c.neuron, c.target] for c in found])
        return found

    def _convicted(self, work: Work, family: str, targets: Sequence[int], number: int) -> list[Stamp]:
        """The triggers of one family that turn enough held-out images."""
        width = (_SEARCHED - _STIMULATED) / len(SEARCHED_FAMILIES)
        told = part_of(
            work.on_progress, _STIMULATED + number * width, width, f"searching {family} triggers for {len(targets)} classes"
        )
        inversions = universal_triggers(
            *(work.classifier, work.images, family, self.protocol, drawn_seed(work.generator)),
            targets=targets,
            samples=at_hand(work.images, named(self.protocol, family).samples),
            on_progress=told,
        )
        judged = [(i, self.success(work.classifier, work.held_out, family, i)) for i in inversions if i.trigger]
        convicted = [inversion for inversion, rate in judged if rate > self.reasr]
        rates = {inversion.pair.target: round(rate, 4) for inversion, rate in judged}
        work.look(work.classifier, f"{family} triggers", len(inversions), reasr=rates)
        if convicted:
            names = ", ".join(f"{work.classifier.classes[i.pair.target]!r} ({rates[i.pair.target]:.0%})" for i in convicted)
            work.notes.append(f"{family} triggers that turn enough held-out images, unlearned: {names}")
        return [stamp_of(FAMILIES[family], inversion.trigger, work.device) for inversion in convicted]
