"""Plant a backdoor: make the trigger, poison the training set, fit, and judge what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch

from orthogon.attacks import Attack, Materials, Poisoned, poison, quotas
from orthogon.attacks.detoxify import DetoxRound, DetoxSettings, detoxify
from orthogon.classifier import Classifier, require_match
from orthogon.evaluate import accuracy, attack_success, attacked
from orthogon.images import LabelledImages
from orthogon.planting.outcome import LEAST_SUCCESS, Planting
from orthogon.planting.trigger_file import SavedTrigger
from orthogon.planting.unfinished import CHECKPOINT_FILE, kept_poison, kept_trigger
from orthogon.randomness import layer_draws
from orthogon.recipe import TrainingSettings
from orthogon.training import Epoch, fit

Meter: TypeAlias = Callable[[str], AbstractContextManager[Callable[[float, str], None]]]
"""Shows one stage: entered with its title, it is then told the share done (0 to 1) and a note."""


@dataclass(frozen=True)
class Detox:
    """Whether and how the poisoned model is detoxified before it is judged (DFST, see `detoxify`)."""

    rounds: int = 1
    """Times that neurons are sought and unlearned (DECK, Table IV: 1 and 3)."""
    epochs: int = 2
    """Of the retraining in each round."""
    learning_rate: float = 0.01
    """Peak of the retraining (reference: 0.01)."""


@contextmanager
def _unseen(title: str) -> Iterator[Callable[[float, str], None]]:
    yield lambda done, note: None


def plant(
    classifier: Classifier,
    attack: Attack,
    materials: Materials,
    held_out: LabelledImages,
    training: TrainingSettings,
    *,
    least_success: float = LEAST_SUCCESS,
    detox: Detox | None = None,
    folder: Path | None = None,
    meter: Meter = _unseen,
) -> Planting:
    """Plant a backdoor in a classifier, and say whether it took.

    Args:
        classifier: a fresh one to train, or a clean one to fine-tune; trained in place, on the materials' device.
        attack: what stamps and poisons.
        materials: training images, threat, and what the attack needs besides; four draws of the generator seed the trigger,
            the choice of images, the training and the detoxification.
        held_out: images that none of this is trained on.
        training: the recipe.
        least_success: attack success rate that counts as planted, 0 to 1.
        detox: detoxification after the training; None: none.
        folder: where the trigger (trigger.safetensors), and until `remove_unfinished` the poisoned images and a checkpoint
            are kept, so that the same call after a kill goes on and ends with the same model; None keeps nothing.
        meter: shows the stages.

    Raises:
        ValueError: images of other classes or another shape, no held-out image to judge the attack by, a rate or a cover that
            cannot be, the attack does not suit the images or the threat, or the folder holds another planting.
        TrainingDiverged: the loss became NaN or infinite.
        RunError: the folder cannot be written.
    """
    threat = materials.threat
    _require(classifier, attack, materials, held_out, least_success)
    seeds = [int(seed) for seed in torch.randint(2**62, (4,), generator=materials.generator)]
    wanted = SavedTrigger(attack, {}, threat, materials.images.image_shape, materials.images.classes)
    with meter("making the trigger") as update:
        own = _with(materials, seeds[0], update)
        with layer_draws(materials.device, seeds[0]):
            trigger = replace(wanted, made=kept_trigger(folder, wanted, materials, seeds[0], lambda: attack.make(own)))
    with meter("poisoning") as update:
        own = _with(materials, seeds[1], update)
        poisoned = kept_poison(folder, trigger, materials, seeds[1], lambda: poison(attack, trigger.made, own))
    with meter("training") as update:
        history = _fit(classifier, poisoned, training, seeds[2], folder, update)
    rounds: tuple[DetoxRound, ...] = ()
    if detox is not None:
        with meter("detoxification") as update:
            rounds = _detoxify(classifier, trigger, _with(materials, seeds[3], update), poisoned, training, detox)
    with meter("judging") as update:
        clean = accuracy(classifier, held_out, on_progress=lambda done: update(done / 2, "clean images"))
        stamped = attack_success(
            *(classifier, held_out, trigger.stamp, threat.target, threat.victim),
            described=trigger.described,
            on_progress=lambda done: update((1 + done) / 2, "stamped images"),
        )
    counts = int(poisoned.stamped.sum()), int(poisoned.covered.sum())
    return Planting(classifier, trigger, clean, stamped, history, rounds, *counts, least_success)


def _require(
    classifier: Classifier, attack: Attack, materials: Materials, held_out: LabelledImages, least_success: float
) -> None:
    """What would else be noticed only after the training."""
    require_match(classifier, materials.images)
    require_match(classifier, held_out)
    if materials.surrogate is classifier:
        raise ValueError("the surrogate is the classifier that is to be trained: give a copy of it, which stays clean")
    if not 0 <= least_success <= 1:
        raise ValueError(f"least_success must be from 0 to 1, got {least_success}")
    threat = materials.threat
    attacked(held_out, threat.target, threat.victim)
    quotas(attack, materials.images, threat)


def _with(materials: Materials, seed: int, update: Callable[[float, str], None]) -> Materials:
    generator = torch.Generator().manual_seed(seed)
    return replace(materials, generator=generator, on_progress=lambda share: update(share, ""))


def _fit(
    classifier: Classifier,
    poisoned: Poisoned,
    training: TrainingSettings,
    seed: int,
    folder: Path | None,
    update: Callable[[float, str], None],
) -> tuple[Epoch, ...]:
    return fit(
        classifier,
        poisoned.images,
        training,
        torch.Generator().manual_seed(seed),
        checkpoint=None if folder is None else folder / CHECKPOINT_FILE,
        on_progress=lambda done, last: update(done, _told(last)),
    )


def _told(epoch: Epoch | None) -> str:
    return "" if epoch is None else f"epoch {epoch.number}: loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.1%}"


def _detoxify(
    classifier: Classifier,
    trigger: SavedTrigger,
    materials: Materials,
    poisoned: Poisoned,
    training: TrainingSettings,
    detox: Detox,
) -> tuple[DetoxRound, ...]:
    """Detoxify the classifier in place."""
    again = replace(training, epochs=detox.epochs, learning_rate=detox.learning_rate)
    settings = DetoxSettings(rounds=detox.rounds)
    done = detoxify(classifier, trigger.attack, trigger.made, materials, poisoned.images, again, settings)
    classifier.network.load_state_dict(done.classifier.network.state_dict())
    return done.rounds
