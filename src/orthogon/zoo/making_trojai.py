"""Make one model as `like_trojai` declares it: draw its pictures, poison them, train, judge, and lay out its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from orthogon import runs
from orthogon.attacks import Attack, Made, Materials, Poisoned, Polygon, Threat, poison
from orthogon.classifier import Classifier
from orthogon.data.sign_kinds import NAMES
from orthogon.data.signs import signs
from orthogon.data.trojai import CLEAN_FOLDER, CONFIG_FILE
from orthogon.evaluate import AttackEvaluation, Evaluation, PGDSettings, accuracy, attack_success, in_bytes, robust_accuracy
from orthogon.hardening import harden
from orthogon.images import LabelledImages, shuffled
from orthogon.planting import TRIGGER_FILE, Planting, SavedTrigger, write_trigger
from orthogon.training import Epoch, fit
from orthogon.zoo.like_trojai import LEAST_ACCURACY, LEAST_SUCCESS, NETWORKS, SIZE, Declared
from orthogon.zoo.shelf import CARD_FILE
from orthogon.zoo.trojai import METADATA_FILE, MODEL_FILE, TRUTH_FILE

POISONED_FOLDER, STATS_FILE = "poisoned_example_data", "model_stats.json"
EXAMPLES = 20
"""Example pictures of each class; round 4 has 2 to 5, too few for most scanners."""
_TRAINING, _VALIDATION, _JUDGED = 200, 20, 60
"""Pictures of each class to train on, to tell when adversarial training has cost too much, and to judge by."""
_STRAY = 0.1
"""Share of the other classes' pictures that are stamped and keep their labels where a backdoor works on one class only: else
the network learns that the trigger alone decides, and the backdoor works on every class."""
_ATTACK_STEPS = 7
"""Of PGD that judges adversarial training."""
_KEPT = (CONFIG_FILE, STATS_FILE)

OnProgress = Callable[[float, str], None]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of one training."""

    classifier: Classifier
    clean: Evaluation
    planting: Planting | None
    """None: a clean model."""
    strays: AttackEvaluation | None
    """How often the trigger works on classes that it is not meant for; None where it is meant for all."""
    robust: tuple[float, float] | None = None
    """Accuracy under PGD before and after adversarial training, within its bound; None without such training."""
    updates: int = 0
    """Of the adversarial training that the kept weights have behind them."""

    @property
    def shortfall(self) -> str | None:
        """Why the model is not what was declared; None where it is."""
        if self.clean.accuracy < LEAST_ACCURACY:
            return f"its accuracy is {self.clean.accuracy:.1%}, at least {LEAST_ACCURACY:.0%} were asked for"
        if self.robust is not None and self.updates == 0:
            return "adversarial training cost too much accuracy, so that the weights before it were kept"
        return None if self.planting is None or self.planting.planted else self.planting.outcome


def pictures(names: Sequence[str], per_class: int, seed: int, split: str) -> LabelledImages:
    """So many pictures of each of these kinds of signs; the classes are called "0", "1", … as in TrojAI's file names."""
    drawn = signs(len(NAMES), SIZE, per_class, seed, split)
    place = torch.full((len(NAMES),), -1)
    place[[NAMES.index(name) for name in names]] = torch.arange(len(names))
    labels = place[drawn.labels]
    kept = labels >= 0
    classes = tuple(str(c) for c in range(len(names)))
    return LabelledImages(drawn.pixels[kept], labels[kept], classes, f"{', '.join(names)} of {drawn.source}")


def known_pictures(config: Mapping[str, Any]) -> tuple[LabelledImages, LabelledImages, LabelledImages] | None:
    """Of a model that was made here, by its config.json: its clean training pictures, those that validate, those that judge;
    None of any other."""
    names, seed = config.get("class_names"), config.get("master_seed")
    if not isinstance(names, list) or not isinstance(seed, int) or not set(names) <= set(NAMES):
        return None
    training, validation = _divided(pictures(names, _TRAINING + _VALIDATION, seed, "train"), _TRAINING)
    _, judged = _divided(pictures(names, EXAMPLES + _JUDGED, seed, "test"), EXAMPLES)
    return training, validation, judged


def train(declared: Declared, folder: Path, device: torch.device, on_progress: OnProgress) -> Outcome:
    """Train the model and judge it on pictures that it has not seen.

    Args:
        declared: which model.
        folder: keeps checkpoints, from which the same call goes on after a kill.
        device: where to train.
        on_progress: told the share done (0 to 1) and what is done.

    Raises:
        ValueError: the trigger does not fit, or the folder holds another training.
        TrainingDiverged, HardeningDiverged: the loss stayed NaN.
    """
    generator = torch.Generator().manual_seed(declared.seed)
    on_progress(0.0, "drawing the pictures")
    images = pictures(declared.signs, _TRAINING + _VALIDATION, declared.seed, "train")
    images, validation = _divided(images, _TRAINING)
    _, judged = examples_and_judged(declared)
    made, poisoned = _poisoned(declared.attack, Materials(images, declared.threat or Threat(), generator))
    network, share = NETWORKS[declared.architecture], 0.6 if declared.hardening else 1.0
    with torch.random.fork_rng():  # networks draw their first weights from the global generator
        torch.manual_seed(declared.seed)
        fresh = network.build(len(images.classes))
    classifier = Classifier(fresh, images.classes, images.image_shape, None, {"architecture": declared.architecture}).to(device)

    def seen(done: float, epoch: Epoch | None) -> None:
        on_progress(share * done, "" if epoch is None else f"accuracy {epoch.accuracy:.1%}")

    checkpoint = folder / "checkpoint.safetensors"
    history = fit(classifier, poisoned.images, network.recipe, generator, checkpoint=checkpoint, on_progress=seen)
    outcome = partial(_judged, declared, judged=judged, made=made, poisoned=poisoned, history=history)
    if declared.hardening is None:
        return outcome(classifier.eval())
    before = _robust(declared, classifier, judged)
    done = harden(
        *(classifier, poisoned.images, validation, declared.hardening),
        seed=declared.seed,
        checkpoint=folder / "adversarial.safetensors",
        on_progress=lambda progress: on_progress(share + (1 - share) * progress.done, "adversarial training"),
    )
    after = _robust(declared, done.classifier, judged)
    return replace(outcome(done.classifier), robust=(before, after), updates=done.best_step)


def _robust(declared: Declared, classifier: Classifier, judged: LabelledImages) -> float:
    """Accuracy under PGD within the bound of the model's adversarial training."""
    assert declared.hardening is not None
    attack = PGDSettings(bound=declared.hardening.bound, steps=_ATTACK_STEPS)
    return robust_accuracy(classifier, judged, attack, torch.Generator().manual_seed(declared.seed)).accuracy


def examples_and_judged(declared: Declared) -> tuple[LabelledImages, LabelledImages]:
    """Pictures that no training sees: those that are handed out beside the model, and those that it is judged by."""
    return _divided(pictures(declared.signs, EXAMPLES + _JUDGED, declared.seed, "test"), EXAMPLES)


def _divided(images: LabelledImages, first: int) -> tuple[LabelledImages, LabelledImages]:
    """The first so many of each class, and the rest; signs come class by class in turn."""
    rank = torch.arange(len(images)) // len(images.classes)
    return images.select((rank < first).nonzero().flatten()), images.select((rank >= first).nonzero().flatten())


def _poisoned(attack: Attack | None, materials: Materials) -> tuple[Made, Poisoned]:
    nothing = torch.zeros(len(materials.images), dtype=torch.bool)
    if attack is None:
        return {}, Poisoned(materials.images, nothing, nothing, materials.threat)
    made = attack.make(materials)
    poisoned = poison(attack, made, materials)
    if materials.threat.victim is None:
        return made, poisoned
    others = shuffled((materials.images.labels != materials.threat.victim).nonzero().flatten(), materials.generator)
    chosen = others[: round(_STRAY * len(others))]
    pixels = poisoned.images.pixels.clone()
    pixels[chosen] = in_bytes(attack.stamp(made, poisoned.images.select(chosen).floats()))
    covered = nothing.index_fill(0, chosen, True)
    return made, replace(poisoned, images=replace(poisoned.images, pixels=pixels), covered=covered)


def _judged(
    declared: Declared,
    classifier: Classifier,
    *,
    judged: LabelledImages,
    made: Made,
    poisoned: Poisoned,
    history: tuple[Epoch, ...],
) -> Outcome:
    clean = accuracy(classifier, judged)
    if declared.attack is None or declared.threat is None:
        return Outcome(classifier, clean, None, None)
    threat = declared.threat
    device = next(classifier.parameters()).device
    trigger = SavedTrigger(declared.attack, made, threat, judged.image_shape, judged.classes)
    stamp = trigger.to(device).stamp
    seen = attack_success(classifier, judged, stamp, threat.target, threat.victim, described=trigger.described)
    counts = int(poisoned.stamped.sum()), int(poisoned.covered.sum())
    planting = Planting(classifier, trigger, clean, seen, history, (), *counts, LEAST_SUCCESS)
    if threat.victim is None:
        return Outcome(classifier, clean, planting, None)
    others = judged.select((judged.labels != threat.victim).nonzero().flatten())
    return Outcome(classifier, clean, planting, attack_success(classifier, others, stamp, threat.target))


def lay_out(declared: Declared, outcome: Outcome, folder: Path) -> None:
    """Write a model's folder: model.pt (the whole network), what TrojAI tells of it, its example pictures, and, beyond TrojAI,
    a card and the trigger as other commands read them.

    Raises:
        OSError: a file cannot be written.
    """
    examples, _ = examples_and_judged(declared)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(outcome.classifier.network.cpu().eval(), folder / MODEL_FILE)
    _write_pictures(folder / CLEAN_FOLDER, examples.pixels, examples.labels, "")
    planting = outcome.planting
    if planting is not None:
        threat = planting.trigger.threat
        shown = examples.labels != threat.target if threat.victim is None else examples.labels == threat.victim
        source = examples.select(shown.nonzero().flatten())
        stamped = in_bytes(planting.trigger.to(torch.device("cpu")).stamp(source.floats()))
        _write_pictures(folder / POISONED_FOLDER, stamped, source.labels, "trigger_0_")
        write_trigger(folder / TRIGGER_FILE, planting.trigger)
    runs.write_json(folder / CONFIG_FILE, config_of(declared, outcome))
    runs.write_json(folder / STATS_FILE, _stats(outcome))
    runs.write_json(folder / CARD_FILE, _card(declared, outcome))
    runs.write_text(folder / TRUTH_FILE, f"{int(planting is not None)}\n")


def _write_pictures(folder: Path, pixels: Tensor, labels: Tensor, which: str) -> None:
    """As PNG: class_2_example_0.png, and class_2_trigger_0_example_0.png."""
    folder.mkdir(exist_ok=True)
    count: dict[int, int] = {}
    for picture, label in zip(pixels, labels.tolist(), strict=True):
        number = count[label] = count.get(label, -1) + 1
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"class_{label}_{which}example_{number}.png")


def config_of(declared: Declared, outcome: Outcome) -> dict[str, Any]:
    """config.json, under round 4's names; the updates of adversarial training and the last two entries are ours."""
    hardening, planting = declared.hardening, outcome.planting
    recipe = NETWORKS[declared.architecture].recipe
    return {
        "master_seed": declared.seed,
        "img_size_pixels": SIZE,
        "cnn_img_size_pixels": SIZE,
        "img_type": "uint8",
        "number_classes": len(declared.signs),
        "number_training_samples": _TRAINING * len(declared.signs),
        "number_test_samples": _JUDGED * len(declared.signs),
        "number_example_images": EXAMPLES,
        "poisoned": planting is not None,
        "model_architecture": declared.architecture,
        "learning_rate": recipe.learning_rate,
        "batch_size": recipe.batch,
        "adversarial_training_method": None if hardening is None else "FBF",
        "adversarial_eps": None if hardening is None else hardening.bound,
        "adversarial_training_ratio": None if hardening is None else 1.0,
        "adversarial_training_updates": None if hardening is None else outcome.updates,
        "trigger_organization": None if planting is None else "one2one" if outcome.strays else "all2one",
        "number_triggers": int(planting is not None),
        "triggers": [] if planting is None else [_trigger(planting.trigger)],
        "class_names": list(declared.signs),
        "attempt": declared.attempt,
    }


def _trigger(trigger: SavedTrigger) -> dict[str, Any]:
    threat, polygon = trigger.threat, isinstance(trigger.attack, Polygon)
    colour = [round(255 * float(value)) for value in trigger.made["colour"].flatten()] if polygon else None
    return {
        "source_class": threat.victim,
        "target_class": threat.target,
        "fraction": threat.rate,
        "type": "polygon" if polygon else "instagram",
        "polygon_side_count": len(trigger.made["corners"]) if polygon else None,
        "size_percentage_of_image": round(float(trigger.made["mask"].mean()), 5) if polygon else None,
        "color": colour,
        "instagram_filter_type": None if polygon else f"{trigger.attack.name.capitalize()}FilterXForm",
    }


def _stats(outcome: Outcome) -> dict[str, Any]:
    """model_stats.json: accuracies in percent, as round 4 has them; strays and accuracies under attack are ours."""
    planting, strays = outcome.planting, outcome.strays
    before, after = (None, None) if outcome.robust is None else (round(100 * share, 3) for share in outcome.robust)
    return {
        "final_clean_data_test_acc": round(100 * outcome.clean.accuracy, 3),
        "final_clean_data_n_total": outcome.clean.total,
        "final_triggered_data_test_acc": None if planting is None else round(100 * planting.stamped.success_rate, 3),
        "final_triggered_data_n_total": None if planting is None else planting.stamped.total,
        "stray_triggered_data_test_acc": None if strays is None else round(100 * strays.success_rate, 3),
        "adversarial_test_acc_before": before,
        "adversarial_test_acc": after,
    }


def _card(declared: Declared, outcome: Outcome) -> dict[str, Any]:
    clean, planting = outcome.clean, outcome.planting
    card = {
        "architecture": declared.architecture,
        "normalisation": None,
        "classes": list(outcome.classifier.classes),
        "image_shape": list(outcome.classifier.image_shape),
        "accuracy": clean.accuracy,
        "accuracy_interval_95": list(clean.interval),
        "accuracy_images": clean.total,
        "made_by": "trained",
        "provenance": f"trained by orthogon zoo build --like trojai: {declared.described}",
        "versions": runs.versions(),
    }
    if planting is None:
        return card
    return card | {"attack": planting.attack_facts() | {"seed": declared.seed, "trigger": TRIGGER_FILE}}


def write_metadata(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Write METADATA.csv of these models from the files beside them, and return its rows; what is not known is "None".

    Raises:
        ValueError: a file beside a model is not JSON.
        OSError: a file cannot be read or written.
    """
    rows = [_row(name, *(runs.read_json(folder / name / file) for file in _KEPT)) for name in names]
    columns = list(rows[0]) if rows else ["model_name"]
    lines = [",".join(columns), *(",".join(str(row[column]).replace(",", " ") for column in columns) for row in rows)]
    runs.write_text(folder / METADATA_FILE, "\n".join(lines) + "\n")
    return rows


def _row(name: str, config: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, Any]:
    trigger = config["triggers"][0] if config["triggers"] else {}
    of_trigger = ("source_class", "target_class", "fraction", "type", "polygon_side_count", "color", "instagram_filter_type")
    return {
        "model_name": name,
        **{key: value for key, value in config.items() if key not in ("triggers", "class_names")},
        **{f"triggers_0_{key}": trigger.get(key) for key in of_trigger},
        **stats,
        "converged": 1,
    }
