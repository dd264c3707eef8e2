"""Detoxification (DFST): a poisoned model unlearns the few features that would give its backdoor away."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from orthogon.attacks.attack import Attack, Made, Materials
from orthogon.attacks.draws import victims
from orthogon.attacks.networks import Painter, draw
from orthogon.attacks.neurons import Neurons, carried, compromised
from orthogon.classifier import Classifier, require_match
from orthogon.evaluate import evaluating, in_bytes
from orthogon.images import LabelledImages, shuffled
from orthogon.layers import convolutions, outputs
from orthogon.ranges import require
from orthogon.recipe import TrainingSettings
from orthogon.training import fit
from orthogon.triggers.ssim import similarities


@dataclass(frozen=True)
class DetoxSettings:
    """How a poisoned model is detoxified. The weights are the reference's for its 1,000 images of 32×32, over 10⁵."""

    rounds: int = 1
    """Times that neurons are sought, injected and unlearned (DECK, Table IV: 1 and 3)."""
    samples: int = 1000
    """Training images on which neurons are sought and the injector learns (reference: 1,000)."""
    ratio: float = 20.0
    """A neuron is compromised where its summed output rises by more than this × the largest of its layer (reference: 20)."""
    steps: int = 300
    """Updates of the injector (reference: 300, each on all samples)."""
    batch: int = 100
    """Images per update of the injector."""
    learning_rate: float = 1e-3
    """Of the injector (Adam)."""
    excite: float = 1e-4
    """Weight of the compromised neurons' output: summed over the map, mean over images and neurons; the more the better."""
    spare: float = 1e-8
    """Weight of the change of the same layers' other neurons: absolute, summed, mean over images."""
    likeness: float = 1.0
    """Weight of the structural similarity to the clean images."""
    turn: float = 0.01
    """Weight of the cross entropy to the target."""
    least_success: float = 0.7
    """Share of victims that the injector has to turn to the target; with less there is nothing to unlearn (reference: 0.7)."""
    share: float = 0.1
    """Share of the training images that are added injected, under their true labels (first release: 2 % for each neuron)."""
    width: int = 16
    """Channels of the injector's first level, a multiple of 8."""

    def __post_init__(self) -> None:
        require(
            self,
            counts=("rounds", "samples", "steps", "batch"),
            positive=("ratio", "learning_rate"),
            shares=("least_success", "share"),
        )
        if self.width < 8 or self.width % 8:
            raise ValueError(f"width must be a multiple of 8, got {self.width}")


@dataclass(frozen=True)
class Harm:
    """What compromised neurons do by themselves."""

    carried: float
    """Share of clean victims that are taken for the target where these neurons alone answer as for stamped ones, 0 to 1."""
    injected: float
    """Share of the injector's images of victims that are taken for the target, 0 to 1."""


@dataclass(frozen=True)
class DetoxRound:
    """What one round found and did."""

    neurons: Neurons
    """The compromised ones, by the name of their convolution."""
    before: Harm
    after: Harm
    """The same neurons and the same injector, after the retraining; as before where there was none."""


@dataclass(frozen=True, eq=False)
class Detoxified:
    """What came of a detoxification."""

    classifier: Classifier
    """A copy, in evaluation mode."""
    rounds: tuple[DetoxRound, ...]
    """Those that found compromised neurons; fewer than asked for where none were left or they no longer did harm."""


def detoxify(
    classifier: Classifier,
    attack: Attack,
    made: Made,
    materials: Materials,
    poisoned: LabelledImages,
    training: TrainingSettings,
    settings: DetoxSettings = DetoxSettings(),
) -> Detoxified:
    """Retrain a poisoned model so that no small group of neurons explains the backdoor.

    In each round the compromised neurons are found; a painter, the feature injector, learns to change images slightly so
    that these rise, no others do, and the model sees the target; and the model is trained on its poisoned training set
    together with injected images under their true labels. What is left is the backdoor that needs the trigger itself.

    The reference trains an injector of twelve-pixel convolutions for each neuron; here one, smaller, raises all neurons of a
    round together, which is as many times faster and may miss neurons that work only alone. Where the reference's
    rule finds no neuron in a model, as it can on small maps, that is the result: nothing is unlearned.

    Args:
        classifier: poisoned with the attack; stays as it is.
        attack: whose stamp the neurons answer to.
        made: what the attack's `make` gave.
        materials: the clean training set, the threat and a generator, on the classifier's device.
        poisoned: the training set as the model was trained on it.
        training: of the retraining in each round (reference: a learning rate of 0.01).
        settings: numbers.

    Raises:
        ValueError: the model takes other images or has no convolution to look at, or there is no victim.
    """
    require_match(classifier, materials.images)
    model = copy.deepcopy(classifier).eval()
    if not convolutions(model):
        raise ValueError("detoxification looks at the outputs of convolutions (torch.nn.Conv2d), and this model has none")
    chosen = shuffled(victims(materials), materials.generator)[: settings.samples]
    clean = materials.images.select(chosen).floats(materials.device)
    with torch.no_grad():
        stamped = torch.cat([attack.stamp(made, part) for part in clean.split(settings.batch)])
    target, rounds = materials.threat.target, list[DetoxRound]()
    while len(rounds) < settings.rounds and (neurons := compromised(model, clean, stamped, settings.ratio)):
        injector = learn_injector(model, neurons, clean, materials, settings)
        injected = paint(injector, clean)
        before = Harm(carried(model, neurons, clean, stamped, target), _taken_for(model, injected, target))
        if before.injected < settings.least_success:
            rounds.append(DetoxRound(neurons, before, before))
            break
        fit(model, _joined(poisoned, _injected(injector, materials, settings)), training, materials.generator)
        after = Harm(carried(model, neurons, clean, stamped, target), _taken_for(model, injected, target))
        rounds.append(DetoxRound(neurons, before, after))
        materials.on_progress(len(rounds) / settings.rounds)
    return Detoxified(model, tuple(rounds))


def learn_injector(
    classifier: Classifier, neurons: Neurons, clean: Float[Tensor, "n c h w"], materials: Materials, settings: DetoxSettings
) -> Painter:
    """A painter whose images excite these neurons; the classifier stays as it is."""
    channels = clean.shape[1]
    injector = draw(lambda: Painter(channels, settings.width), materials.generator, materials.device).start_as_identity()
    optimizer = torch.optim.Adam(injector.parameters(), lr=settings.learning_rate)
    weights = list(injector.parameters())
    for _ in range(settings.steps):
        rows = torch.randint(len(clean), (min(settings.batch, len(clean)),), generator=materials.generator)
        loss = injector_loss(classifier, injector, neurons, clean[rows.to(clean.device)], materials.threat.target, settings)
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        optimizer.step()
    return injector.requires_grad_(False).eval()


def injector_loss(
    classifier: Classifier,
    injector: Painter,
    neurons: Neurons,
    clean: Float[Tensor, "n c h w"],
    target: int,
    settings: DetoxSettings,
) -> Float[Tensor, ""]:
    """- excite · (output of the neurons) + spare · (change of the others) - likeness · SSIM + turn · (cross entropy)."""
    count = sum(map(len, neurons.values()))
    with evaluating(classifier), outputs(classifier, neurons) as seen:
        with torch.no_grad():
            classifier(clean)
        before = dict(seen)
        injected = injector(clean)
        logits = classifier(injected)
    excited, changed = logits.new_zeros(()), logits.new_zeros(())
    for name, channels in neurons.items():
        excited = excited + seen[name][:, channels].sum() / (len(clean) * count)
        others = [c for c in range(seen[name].shape[1]) if c not in channels]
        changed = changed + (seen[name] - before[name])[:, others].abs().sum() / len(clean)
    turned = F.cross_entropy(logits, torch.full((len(clean),), target, device=logits.device))
    loss = settings.spare * changed - settings.excite * excited + settings.turn * turned
    return loss - settings.likeness * similarities(clean, injected).mean()


def paint(painter: Painter, images: Float[Tensor, "n c h w"], batch: int = 256) -> Float[Tensor, "n c h w"]:
    """The images as painted, without gradients."""
    with torch.no_grad():
        return torch.cat([painter(part) for part in images.split(batch)])


def _injected(injector: Painter, materials: Materials, settings: DetoxSettings) -> LabelledImages:
    """A share of the training images, injected, with their true labels."""
    rows = torch.arange(len(materials.images))
    part = materials.images.select(shuffled(rows, materials.generator)[: max(1, round(settings.share * len(rows)))])
    return replace(part, pixels=in_bytes(paint(injector, part.floats(materials.device))).to(part.pixels.device))


def _joined(one: LabelledImages, other: LabelledImages) -> LabelledImages:
    pixels, labels = torch.cat([one.pixels, other.pixels]), torch.cat([one.labels, other.labels])
    return replace(one, pixels=pixels, labels=labels, source=f"{one.source} [and {len(other)} injected]")


def _taken_for(classifier: Classifier, images: Float[Tensor, "n c h w"], target: int, batch: int = 256) -> float:
    with evaluating(classifier), torch.no_grad():
        return float(torch.cat([classifier(part).argmax(1) == target for part in images.split(batch)]).float().mean())
