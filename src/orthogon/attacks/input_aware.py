"""Input-aware dynamic backdoor: every image has a trigger of its own, and no trigger works on another image."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from orthogon.attacks.attack import Attack, Made, Materials, Threat
from orthogon.attacks.draws import some, victims
from orthogon.attacks.networks import UNet, draw, keep, take
from orthogon.classifier import Classifier
from orthogon.randomness import layer_draws
from orthogon.ranges import require

_CHUNK = 256
"""Images that go through the generators at once."""
_DEVIATION = 0.25
"""Unit in which the release measures the distance of two images when it compares masks: it normalises CIFAR-10's images by their
channels' deviations (0.247, 0.243, 0.261) but keeps masks from 0 to 1. Patterns it normalises too, so there the unit cancels."""


@dataclass(frozen=True)
class InputAware(Attack):
    """x + m(x) · (p(x) - x): two generators give each image its mask, of one channel, and its pattern.

    First the mask's generator alone is trained, with λ_norm · mean(relu(m - density)) + λ_div · diversity(m), the images being
    measured in deviations as in the release. Then the pattern's, with the cross entropy of a classifier that is trained along
    (stamped images to the target; clean ones, and those with another's trigger, to their true class) + λ_div · diversity(p).

    The paper trains generator and victim model together, for 600 epochs. Here a copy of the surrogate takes the victim's place
    for some hundred steps, starting from its clean weights; the generators are then fixed, and the victim learns them from a
    poisoned training set as it learns any other attack. That keeps the threat honest (nobody but the trainer sees the victim)
    and lets one trigger be planted into many models, but the pattern is fitted to the surrogate, not to the victim. The
    generators are smaller than the release's, and are the same for all image sizes.
    """

    diversity: float = 1.0
    """λ_div, weight of the diversity loss."""
    norm: float = 100.0
    """λ_norm, weight of the mask's size."""
    density: float = 0.032
    """Value of a mask's pixel, 0 to 1, that costs nothing."""
    mask_steps: int = 400
    """Updates of the mask's generator (release: 25 epochs)."""
    steps: int = 300
    """Updates of the pattern's generator and the surrogate (release: 600 epochs)."""
    batch: int = 128
    """Images per update; masks are compared with those of the image before in the batch (release: of a second batch)."""
    learning_rate: float = 0.01
    """Of both generators (Adam with β 0.5 and 0.9) and of the surrogate (SGD, momentum 0.9, weight decay 5e-4)."""
    width: int = 16
    """Channels of the generators' first level, a multiple of 8."""

    name: ClassVar[str] = "input-aware"
    source: ClassVar[str] = "Nguyen and Tran 2020 (NeurIPS), section 3, and the authors' release"
    threat: ClassVar[Threat] = Threat(rate=0.1, cover=0.1)

    def __post_init__(self) -> None:
        require(
            self,
            counts=("mask_steps", "steps"),
            positive=("learning_rate",),
            not_negative=("diversity", "norm"),
            shares=("density",),
        )
        if self.batch < 2:
            raise ValueError(f"batch must be at least 2, since triggers are compared, got {self.batch}")
        if self.width < 8 or self.width % 8:
            raise ValueError(f"width must be a multiple of 8, got {self.width}")

    def make(self, materials: Materials) -> Made:
        """Both generators' weights.

        Raises:
            ValueError: no surrogate, or no image of a victim.
        """
        surrogate = copy.deepcopy(materials.required_surrogate(self.name)).to(materials.device)
        channels = materials.images.image_shape[0]
        mask, pattern = (
            draw(lambda outputs=outputs: UNet(channels, outputs, self.width), materials.generator, materials.device)
            for outputs in (1, channels)
        )
        self._train_mask(mask, materials)
        with layer_draws(materials.device, materials.generator.initial_seed()):  # the surrogate is in training mode
            self._train_pattern(pattern, mask, surrogate, materials)
        return keep(mask, "mask") | keep(pattern, "pattern")

    def stamp(self, made: Made, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images, each with its own trigger."""
        return self._blended(made, images, images)

    def cover(
        self, made: Made, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], materials: Materials
    ) -> Float[Tensor, "n c h w"]:
        """Cross triggers: each image with the trigger of a training image drawn for it."""
        others = some(materials.images.pixels, len(images), materials.generator, images.device)
        return self._blended(made, images, others)

    def masks(self, made: Made, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
        """How much of each pixel the images' triggers replace, 0 to 1."""
        network = take(lambda: UNet(images.shape[1], 1, self.width), made, "mask", images.device)
        return torch.cat([mask_of(network, part) for part in images.split(_CHUNK)])

    def patterns(self, made: Made, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """What the images' triggers put there, 0 to 1."""
        channels = images.shape[1]
        network = take(lambda: UNet(channels, channels, self.width), made, "pattern", images.device)
        return torch.cat([pattern_of(network, part) for part in images.split(_CHUNK)])

    def mask_loss(self, images: Float[Tensor, "n c h w"], masks: Float[Tensor, "n 1 h w"]) -> Float[Tensor, ""]:
        """λ_norm · mean(relu(m - density)) + λ_div · diversity, each image compared with the one before it in the batch."""
        alike = diversity_loss(images / _DEVIATION, images.roll(1, 0) / _DEVIATION, masks, masks.roll(1, 0))
        return self.norm * torch.relu(masks - self.density).mean() + self.diversity * alike

    def _blended(self, made: Made, images: Tensor, lenders: Tensor) -> Tensor:
        return blend(images, self.masks(made, lenders), self.patterns(made, lenders)).clamp(0, 1)

    def _train_mask(self, mask: UNet, materials: Materials) -> None:
        optimizer = torch.optim.Adam(mask.parameters(), lr=self.learning_rate, betas=(0.5, 0.9))
        schedule = _falling(optimizer, self.mask_steps)
        pixels, generator, device = materials.images.pixels, materials.generator, materials.device
        for step in range(self.mask_steps):
            images = some(pixels, self.batch, generator, device)
            _update(self.mask_loss(images, mask_of(mask, images)), [optimizer], [schedule])
            materials.on_progress((step + 1) / (self.mask_steps + self.steps))
        mask.requires_grad_(False)

    def _train_pattern(self, pattern: UNet, mask: UNet, surrogate: Classifier, materials: Materials) -> None:
        """The pattern's generator and the surrogate, on batches poisoned as the threat says."""
        threat, images, generator, device = materials.threat, materials.images, materials.generator, materials.device
        attacked = images.pixels[victims(materials)]
        stamped, crossed = max(1, round(threat.rate * self.batch)), round(threat.cover * self.batch)
        others = max(self.batch - stamped, crossed)
        weights = surrogate.train().requires_grad_(True).parameters()
        optimizers = (
            torch.optim.Adam(pattern.parameters(), lr=self.learning_rate, betas=(0.5, 0.9)),
            torch.optim.SGD(weights, lr=self.learning_rate, momentum=0.9, weight_decay=5e-4),
        )
        schedules = [_falling(optimizer, self.steps) for optimizer in optimizers]
        for step in range(self.steps):
            victim = some(attacked, stamped, generator, device)
            lender = some(images.pixels, max(stamped, crossed), generator, device)
            rows = torch.randint(len(images), (others,), generator=generator)
            rest = images.select(rows.to(images.pixels.device))
            clean, truth = rest.floats(device), rest.labels.to(device)
            own, lent = pattern_of(pattern, victim), pattern_of(pattern, lender)
            cross = blend(clean[:crossed], mask_of(mask, lender[:crossed]), lent[:crossed])
            shown = torch.cat([blend(victim, mask_of(mask, victim), own), cross, clean[crossed:]])
            labels = torch.cat([truth.new_full((stamped,), threat.target), truth])
            loss = F.cross_entropy(surrogate(shown), labels)
            loss = loss + self.diversity * diversity_loss(victim, lender[:stamped], own, lent[:stamped])
            _update(loss, optimizers, schedules)
            materials.on_progress((self.mask_steps + step + 1) / (self.mask_steps + self.steps))


def mask_of(network: UNet, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """The generator's masks, driven towards 0 and 1: (tanh(20 s - 10) + 1) / 2 of the squashed output s."""
    return (torch.tanh(20 * _squashed(network(images)) - 10) + 1) / 2


def pattern_of(network: UNet, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """The generator's patterns, in [0, 1]."""
    return _squashed(network(images))


def blend(
    images: Float[Tensor, "n c h w"], masks: Float[Tensor, "n 1 h w"], patterns: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n c h w"]:
    """The patterns where the masks are 1, the images where they are 0."""
    return images + (patterns - images) * masks


def diversity_loss(
    images: Float[Tensor, "n c h w"],
    others: Float[Tensor, "n c h w"],
    made: Float[Tensor, "n k h w"],
    made_of_others: Float[Tensor, "n k h w"],
) -> Float[Tensor, ""]:
    """Mean of ‖x - x'‖ / ‖g(x) - g(x')‖, with root mean squares as norms: large where unlike images get like triggers."""
    return (_distances(images, others) / (_distances(made, made_of_others) + 1e-7)).mean()


def _distances(one: Float[Tensor, "n k h w"], other: Float[Tensor, "n k h w"]) -> Float[Tensor, " n"]:
    return ((one - other).square().mean((1, 2, 3)) + 1e-12).sqrt()  # a root of 0 has no gradient


def _squashed(values: Tensor) -> Tensor:
    return (torch.tanh(values) + 1) / 2


def _falling(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.MultiStepLR:
    """A tenth of the learning rate after 40 %, and again after 80 % of the steps (release, for the mask)."""
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(0.4 * steps), round(0.8 * steps)])


def _update(
    loss: Tensor,
    optimizers: Iterable[torch.optim.Optimizer],
    schedules: Iterable[torch.optim.lr_scheduler.LRScheduler],
) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for stepper in (*optimizers, *schedules):
        stepper.step()
