"""Hardening methods, each a few declared choices: which triggers, which pairs, in what order, and how the model trains.

Apart from the loop, so that the command line tells them without waiting for PyTorch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from orthogon.ranges import require

Method: TypeAlias = Literal[
    "moth",
    "moth-filter",
    "moth-colour",
    "moth-additive",
    "deck",
    "asymmetric",
    "universal",
    "pairwise",
    "nc",
    "adversarial",
    "universal-adversarial",
]
"""The names of the methods."""
Family: TypeAlias = Literal["patch", "filter", "colour", "warp", "additive", "pervasive"]
"""The names of the families of triggers."""


@dataclass(frozen=True)
class PervasiveSettings:
    """How pervasive triggers are made and measured (DECK); other families take none of it."""

    encoder: str = "embedded"
    """Its features are what a trigger changes: embedded (small, our own), torchvision:vgg19, torchvision:vgg16, or a
    .safetensors file of VGG convolutions."""
    encoder_layer: Literal["pool1", "pool2"] = "pool1"
    """Whose output the features are; pool2 is worse (DECK, Table X)."""
    encoder_scale: Literal["own", "caffe", "torch"] = "own"
    """Pixels that the encoder was trained on: its own where it is known; of another file you answer for it: caffe (blue first,
    0..255) or torch (torchvision's)."""
    encoder_resolution: int | None = None
    """Side in pixels to which images are resized before they are encoded; none: as they are."""
    decoder: str = "packaged"
    """Brings features back to pixels: packaged, a file or a run folder of `orthogon train-decoder`, or a folder of such folders,
    of which the one that fits is taken."""
    upsampling: Literal["random", "zero", "nearest", "swwae"] = "random"
    """Of the decoder; random draws are DECK's, the others its ablations."""
    statistics: Literal["own", "shared"] = "own"
    """What an image's mean and deviation become before it is encoded. own: its own, moved as much as every other's, so that a
    trigger that moves nothing changes nothing; shared: the same for all images (Eq. 1 as printed), a large change by itself."""
    regions: int = 4
    """z: regions along each side of the features, each with a convolution of its own."""
    kernel: int = 3
    """m: side of these convolutions, odd."""
    content_weight: float = 0.001
    """λ0 of Eq. 11, of the mean squared difference of features, for pixels of 0 to 255."""
    similarity_weight: float = 100.0
    """λ1, of 1 - SSIM."""
    smoothness_weight: float = 0.05
    """λ2, of the mean squared difference from a 3×3 mean, in grey levels."""
    statistics_weight: float = 1.0
    """Of the shift of mean and deviation in grey levels (Eq. 9); Eq. 11 has no factor there."""

    def __post_init__(self) -> None:
        if self.regions < 1 or self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"regions must be at least 1 and kernel odd, got regions={self.regions}, kernel={self.kernel}")
        require(self, not_negative=("content_weight", "similarity_weight", "smoothness_weight", "statistics_weight"))


@dataclass(frozen=True)
class HardeningSettings:
    """How a model is hardened. The first six fields make the method; the others are its numbers."""

    family: str = "patch"
    """Of the triggers: patch, filter (colour statistics), colour (a map of colours), warp (bent images),
    additive (a faint picture), or pervasive (changed features, decoded)."""
    arms: Literal["symmetric", "directed", "universal", "none"] = "symmetric"
    """What is hardened together: both directions of a pair (MOTH, section IV-B), one direction, every class to one target,
    or nothing."""
    schedule: Literal["k-arm", "round robin", "random", "once"] = "k-arm"
    """Which arms come next: the most promising (MOTH, section IV-C), all in turn, any, or always the smallest universal
    trigger of the warm-up (Neural Cleanse's unlearning)."""
    warm_up: Literal["universal", "pairs", "none"] = "universal"
    """What the first look at every pair is: a universal trigger per class (Eq. 3-4), a trigger per pair, or none."""
    reuse: bool = True
    """Start an inversion from the last trigger of its pair (MOTH, section IV-D) and from the weight that its size had then."""
    adversary: Literal["none", "pgd", "universal perturbation"] = "none"
    """What the clean images of a step go through first: nothing, PGD, or one perturbation for all images."""

    steps: int = 500
    """Updates of the weights in all, those of the warm-up included; the learning rate falls to zero at the last."""
    arms_per_pick: int = 8
    """Arms whose triggers are searched in one batch."""
    updates_per_pick: int = 3
    """Updates of the weights with the triggers of one pick (authors' release: 3)."""
    batch: int = 128
    """Clean images per update."""
    stamped: int = 128
    """Stamped images per update, beside the clean ones: as many of each direction, at least one; 0: none."""
    learning_rate: float = 0.004
    """The highest of the updates; SGD with Nesterov's momentum."""
    momentum: float = 0.9
    """Of Nesterov's SGD."""
    weight_decay: float = 5e-4
    """On weights; never on biases and normalisation layers."""
    distillation: float = 3.0
    """Weight of what the original model says of the clean images, beside their labels (Hinton et al. 2015): a model that has
    learned its training images by heart learns no more from their labels, and forgets what it knows beyond them; 0: labels
    alone."""
    temperature: float = 2.0
    """Both models' logits are divided by it before they are compared."""
    average: float = 0.99
    """Decay per update of the moving average of the weights, which is judged and kept; 0: the weights themselves."""
    batch_norm: Literal["update", "freeze"] = "update"
    """Whether BatchNorm keeps learning its statistics from the batches."""
    shift: float = 0.125
    """Longest random shift of a training image, as a share of its side."""
    flip: bool = False
    """Mirror half of the training images; right for objects (CIFAR-10), wrong for digits and signs."""

    first_inversion: int = 60
    """Gradient steps of an inversion that starts from nothing."""
    inversion: int = 8
    """Gradient steps of one that starts from the pair's last trigger."""
    shrink: float = 0.8
    """A reused trigger's size when its inversion starts, as a share of what it was: what the model has unlearned of it goes,
    and what still works grows back; without it triggers grow from pick to pick until they cover the image."""
    warm_up_inversion: int = 60
    """Gradient steps of a universal trigger in the warm-up."""
    trigger_samples: int = 16
    """Images of the victim class, drawn anew for every inversion, that a trigger is searched on."""
    prior_samples: int = 10
    """Images of each class whose change of loss ranks the pairs after the warm-up (Eq. 4: m)."""
    asr: float = 0.9
    """Share of the samples that a trigger has to turn."""
    train_in_warm_up: bool = True
    """Whether the warm-up's triggers are trained on too (authors' release) or only looked at."""
    epsilon: float = 0.3
    """Share of the arms that are chosen at random (Eq. 5)."""
    horizon: int = 40
    """Picks until the scheduler relies on what it saw alone (Eq. 7)."""

    max_accuracy_loss: float = 0.01
    """How much held-out accuracy may be lost, as a share: the kept model is never worse."""
    check_every: int = 30
    """Updates between two looks at the held-out accuracy, each of which may replace the kept model."""
    bound: float = 8 / 255
    """Of the adversary's perturbation (L-infinity, images in [0, 1]); the papers' bounds are in evaluate.PGD_BOUNDS."""
    adversary_steps: int = 7
    """Gradient steps of PGD per image."""
    pervasive: PervasiveSettings = field(default_factory=PervasiveSettings)
    """Of pervasive triggers; a method of another family takes none of it."""

    def told(self) -> dict[str, Any]:
        """Plain values, for results and to tell hardenings apart; those of pervasive triggers only where it has these."""
        told = asdict(self)
        if self.family != "pervasive":
            del told["pervasive"]
        return told

    def __post_init__(self) -> None:
        counted = ("steps", "arms_per_pick", "updates_per_pick", "batch", "first_inversion", "inversion", "warm_up_inversion")
        require(
            self,
            counts=(*counted, "trigger_samples", "prior_samples", "horizon", "check_every", "adversary_steps"),
            positive=("learning_rate", "temperature"),
            not_negative=("stamped", "weight_decay", "distillation"),
            shares=("asr", "epsilon", "bound", "max_accuracy_loss", "shrink"),
            below_one=("momentum", "average"),
        )
        if not 0 <= self.shift <= 0.5:
            raise ValueError(f"shift must be from 0 to 0.5, got {self.shift}")
        if self.arms == "none" and self.adversary == "none":
            raise ValueError('arms "none" and adversary "none" leave nothing to harden against; choose one of them')
        if self.schedule == "once" and not (self.arms == "universal" and self.warm_up == "universal"):
            raise ValueError('schedule "once" trains on a trigger of the warm-up: it needs arms and warm_up "universal"')
        if self.schedule == "k-arm" and (self.arms not in ("symmetric", "directed") or self.warm_up == "none"):
            raise ValueError(
                'schedule "k-arm" ranks pairs by what the warm-up saw: it needs arms "symmetric" or "directed", and a warm-up'
            )


MOTH = HardeningSettings()
"""Patch triggers, both directions together, the most promising pair next."""

DECK = replace(MOTH, family="pervasive", steps=1500, updates_per_pick=9)
"""MOTH's schedule with pervasive triggers (DECK). Their searches are dear, so each pick trains three times as much as MOTH's do;
measured on ten classes."""

_ADVERSARIAL = replace(MOTH, arms="none", schedule="round robin", warm_up="none", adversary="pgd", distillation=0.0)

METHODS: dict[str, HardeningSettings] = {
    "moth": MOTH,
    "moth-filter": replace(MOTH, family="filter"),
    "moth-colour": replace(MOTH, family="colour"),
    "moth-additive": replace(MOTH, family="additive"),
    "deck": DECK,
    "asymmetric": replace(MOTH, arms="directed"),
    "universal": replace(MOTH, arms="universal", schedule="round robin", warm_up="none"),
    "pairwise": replace(MOTH, schedule="round robin", warm_up="none"),
    "nc": replace(MOTH, arms="universal", schedule="once", train_in_warm_up=False),
    "adversarial": _ADVERSARIAL,
    "universal-adversarial": replace(_ADVERSARIAL, adversary="universal perturbation", bound=4 / 255),
}
"""Every method by the name that the command line gives it."""
