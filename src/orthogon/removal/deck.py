"""Hardening against pervasive triggers as removal (DECK): whatever changes whole images a little loses its way to the target."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from orthogon.classifier import Classifier
from orthogon.hardening import HardeningSettings
from orthogon.methods import PervasiveSettings
from orthogon.removal.moth import Moth
from orthogon.removal.remover import Work
from orthogon.triggers import TriggerFamily, family_of


@dataclass(frozen=True)
class Deck(Moth, PervasiveSettings):
    """MOTH's hardening with pervasive triggers instead of patches, on the few clean images (DECK, section V-C: 5 %).

    The bound on the accuracy and the original as teacher are `Moth`'s, and so is what it says of them. Encoder and decoder are
    opened before any work; what they are stands in the notes. A trigger's search costs several of a patch's, for each of its
    images goes through the encoder twice and through the decoder; so a pick has nine updates, as in `orthogon harden deck`, and
    the default's 240 are 27 picks.
    """

    name: ClassVar[str] = "deck"
    source: ClassVar[str] = "Tao et al. 2022, DECK: Model Hardening for Defending Pervasive Backdoors, section V-C"

    def __post_init__(self) -> None:
        PervasiveSettings.__post_init__(self)
        Moth.__post_init__(self)

    def settings(self, loss: float, shift: float, flip: bool) -> HardeningSettings:
        """As `Moth.settings`, with this removal's encoder, decoder and numbers of pervasive triggers."""
        return replace(super().settings(loss, shift, flip), pervasive=self._pervasive)

    def check(self, classifier: Classifier) -> None:
        """Open the networks, and see whether the images suit them.

        Raises:
            ValueError: an encoder or a decoder cannot be opened, images cannot be cut into the regions, or the steps end in the
                warm-up.
        """
        super().check(classifier)
        self._family.require_shape(classifier.image_shape)

    def described(self) -> dict[str, Any]:
        """Encoder, decoder and the numbers of the triggers, as `orthogon harden deck` tells them."""
        return {"hardened_by": self._family.described()}

    def remove(self, work: Work) -> Classifier:
        """As `Moth.remove`; errors, too."""
        told = self._family.described()
        encoder, decoder = told["encoder"], told["decoder"]
        work.notes.append(
            f"triggers by the encoder {encoder['name']} ({encoder['layer']}, pixels {encoder['scale']}, "
            f"{encoder['digest'][:12]}) and a decoder by {decoder['upsampling']} upsampling ({decoder['digest'][:12]})"
        )
        return super().remove(work)

    @property
    def _pervasive(self) -> PervasiveSettings:
        return PervasiveSettings(**{field.name: getattr(self, field.name) for field in fields(PervasiveSettings)})

    @property
    def _family(self) -> TriggerFamily:
        return family_of("pervasive", self._pervasive)
