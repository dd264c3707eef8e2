"""The adaptive attack of DECK, section V-E: a pervasive pattern that is optimised while the model is being hardened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from orthogon.attacks.attack import Attack, Made, Materials, Threat, fitted
from orthogon.attacks.draws import some, victims
from orthogon.classifier import Classifier
from orthogon.evaluate import evaluating
from orthogon.ranges import require


@dataclass(frozen=True)
class Adaptive(Attack):
    """clamp(x + δ, 0, 1) with one δ for all images, found by cross entropy to the target + weight · ‖δ‖₂.

    `make` finds δ against the surrogate. The paper optimises it "while applying DECK": whoever stages that hardens the model
    for some updates, lets `refresh` follow with δ, and so on, and poisons with the δ that came of it, at 20 % and 50 %.
    The paper names the two terms alone; the weight, the steps and the optimiser (Adam) are ours.
    """

    weight: float = 0.1
    """Of ‖δ‖₂, the root of the sum of squares over an image in [0, 1]."""
    steps: int = 300
    """Updates of δ in `make`."""
    refresh_steps: int = 30
    """Updates of δ in `refresh`."""
    batch: int = 128
    """Images of victims per update."""
    learning_rate: float = 0.01
    """Of Adam; about the change of a pixel per update."""
    start: float = 0.01
    """δ starts as even noise up to this, either way: at 0 its norm has no gradient."""

    name: ClassVar[str] = "adaptive"
    source: ClassVar[str] = "Tao et al. 2022 (DECK), section V-E"
    threat: ClassVar[Threat] = Threat(rate=0.2)

    def __post_init__(self) -> None:
        require(
            self,
            counts=("steps", "refresh_steps", "batch"),
            positive=("learning_rate", "start"),
            not_negative=("weight",),
            shares=("start",),
        )

    def make(self, materials: Materials) -> Made:
        """The pattern against the surrogate, (c, h, w) in [-1, 1].

        Raises:
            ValueError: no surrogate, or no image of a victim.
        """
        surrogate = materials.required_surrogate(self.name)
        noise = torch.rand(materials.images.image_shape, generator=materials.generator) * 2 - 1
        started = {"pattern": (self.start * noise).to(materials.device)}
        return self._followed(started, surrogate, materials, self.steps, materials.on_progress)

    def refresh(self, made: Made, classifier: Classifier, materials: Materials) -> Made:
        """The pattern after some more updates, against a model that has changed since; the model stays as it is.

        Args:
            made: what `make` or `refresh` gave.
            classifier: the model that is being hardened, on the materials' device.
            materials: images, threat and generator.

        Raises:
            ValueError: no image of a victim.
        """
        return self._followed(made, classifier, materials, self.refresh_steps, lambda share: None)

    def stamp(self, made: Made, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images with the pattern added."""
        return (images + fitted(made["pattern"], images)).clamp(0, 1)

    def _followed(
        self, made: Made, classifier: Classifier, materials: Materials, steps: int, on_progress: Callable[[float], None]
    ) -> Made:
        attacked = materials.images.pixels[victims(materials)]
        pattern = made["pattern"].detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([pattern], lr=self.learning_rate)
        with evaluating(classifier):
            for step in range(steps):
                images = some(attacked, self.batch, materials.generator, pattern.device)
                loss = self.loss(classifier, pattern, images, materials.threat.target)
                (pattern.grad,) = torch.autograd.grad(loss, pattern)
                optimizer.step()
                with torch.no_grad():
                    pattern.clamp_(-1, 1)
                on_progress((step + 1) / steps)
        return {"pattern": pattern.detach()}

    def loss(
        self, classifier: Classifier, pattern: Float[Tensor, "c h w"], images: Float[Tensor, "n c h w"], target: int
    ) -> Float[Tensor, ""]:
        """Mean cross entropy of the stamped images to the target, and the weighted norm of the pattern."""
        logits = classifier(self.stamp({"pattern": pattern}, images))
        truth = torch.full((len(images),), target, device=logits.device)
        return F.cross_entropy(logits, truth) + self.weight * pattern.norm()
