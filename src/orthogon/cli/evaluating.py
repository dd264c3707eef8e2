"""The work of `orthogon evaluate`."""

from __future__ import annotations

from orthogon import report, runs
from orthogon.classifier import Classifier
from orthogon.cli.evaluate import Evaluate
from orthogon.cli.known_stamps import KnownStamp, aim_of, require_aim
from orthogon.cli.screen import Result, Screen
from orthogon.cli.subject import generator, model_digest, model_facts, open_subject, pick_device, read_as
from orthogon.cli.words import default_folder, stem_of, words_of
from orthogon.evaluate import (
    AttackEvaluation,
    Evaluation,
    PGDSettings,
    accuracy,
    attack_success,
    near_chance,
    parse_bound,
    robust_accuracy,
)
from orthogon.images import LabelledImages
from orthogon.machine import device_of


def evaluate_and_write(words: Evaluate, screen: Screen) -> Result:
    """Evaluate and write evaluation.json.

    Raises:
        OtherSettings: the folder holds another run.
        ValueError, OSError: whatever is wrong with the words, the model, the stamp, the data or the folder.
    """
    bound = None if words.pgd is None else parse_bound(words.pgd)
    pgd = None if bound is None else PGDSettings(bound, words.pgd_steps, restarts=words.pgd_restarts)
    stamp = require_aim(words.stamp, words.target, words.victim)
    classifier, images = open_subject(words.model, words.images, words.seed)
    screen.say(f"images: {images.source}")
    own = {name: getattr(words, name) for name in ("pgd", "pgd_steps", "pgd_restarts", "seed")}
    own |= {} if stamp is None else {name: getattr(words, name) for name in ("stamp", "target", "victim")}
    settings = words_of(words.model, words.images) | own
    hashes = {"model": model_digest(words.model, classifier), "data": images.digest()}
    hashes |= {} if stamp is None else {"stamp": stamp.digest(classifier.image_shape)}
    inputs = {**hashes, **read_as(classifier)}
    folder = words.out or default_folder("evaluate", stem_of(words.model.model), {**settings, "inputs": inputs})
    classifier.to(pick_device(words.device))
    with runs.Run.open(folder, "evaluate", settings, inputs=inputs, fresh=words.fresh) as run:
        with screen.meter("accuracy") as update:
            clean = accuracy(classifier, images, on_progress=lambda done: update(done, ""))
        if reason := near_chance(clean):
            screen.say(f"take care: {reason}")
        robust = None if pgd is None else _under_attack(classifier, images, pgd, words.seed, screen)
        attacked = None if stamp is None else _stamped(words, classifier, images, stamp, screen)
        data = clean.to_json() | {"robust": None if robust is None else robust.to_json()}
        data |= {} if attacked is None else {"stamped": attacked.to_json()}
        data |= {"model": model_facts(words.model, classifier), "hashes": hashes}
        runs.write_json(run.path("evaluation.json"), data)
    under_attack = None if robust is None else robust.accuracy
    table = report.evaluation_table(clean.classes, clean.per_class, clean.counts, clean.accuracy, under_attack)
    told = [f"accuracy {_share(clean.accuracy, clean.interval)}", *_attack_words(attacked), f"results: {folder}"]
    return Result({**data, "run": str(folder)}, [table, "\n".join(told)])


def _under_attack(classifier: Classifier, images: LabelledImages, settings: PGDSettings, seed: int, screen: Screen) -> Evaluation:
    with screen.meter("accuracy under attack") as update:
        return robust_accuracy(classifier, images, settings, generator(seed), on_progress=lambda done: update(done, ""))


def _stamped(
    words: Evaluate, classifier: Classifier, images: LabelledImages, stamp: KnownStamp, screen: Screen
) -> AttackEvaluation:
    aim = aim_of(stamp, words.target, words.victim, classifier.classes)
    with screen.meter("stamped images") as update:
        return attack_success(
            *(classifier, images, stamp.on(device_of(classifier)), *aim),
            described=stamp.described,
            on_progress=lambda done: update(done, ""),
        )


def _attack_words(seen: AttackEvaluation | None) -> list[str]:
    if seen is None:
        return []
    of = "any class but the target" if seen.victim is None else repr(seen.classes[seen.victim])
    return [
        f"attack success rate {_share(seen.success_rate, seen.success_interval)}: "
        f"{sum(seen.hits):,} of {seen.total:,} stamped images of {of} are taken for {seen.classes[seen.target]!r}",
        f"robust accuracy {_share(seen.robust_accuracy, seen.robust_interval)}: "
        f"{sum(seen.correct):,} of them are still taken for what they are",
    ]


def _share(share: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{share:.2%} (95 % confidence: {low:.2%} to {high:.2%})"
