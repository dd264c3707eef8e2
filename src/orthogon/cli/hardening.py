"""The work of `orthogon harden`."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from orthogon import models, report, runs
from orthogon.classifier import Classifier
from orthogon.cli.harden import Harden
from orthogon.cli.measuring import (
    check_accuracy,
    chosen_family,
    family_facts,
    measure_pairs,
    pervasive_words,
    search_facts,
    told_networks,
)
from orthogon.cli.screen import Result, Screen
from orthogon.cli.subject import announce, generator, model_digest, model_facts, open_subject, pick_device, read_as
from orthogon.cli.words import ImageWords, ModelWords, default_folder, stem_of, words_of
from orthogon.data import DataError
from orthogon.hardening import Hardening, HardeningProgress, harden
from orthogon.images import LabelledImages
from orthogon.matrix import DistanceMatrix, improvement, measured_otherwise, plain
from orthogon.models.cards import given_model
from orthogon.pairs import choose_pairs
from orthogon.report.reading import search_settings
from orthogon.results import write_triggers
from orthogon.runs import Run
from orthogon.triggers import TriggerFamily, family_of


def harden_and_write(words: Harden, screen: Screen) -> Result:
    """Measure, harden, measure again; what a former process finished is taken from the folder.

    Raises:
        NearChance: the clean accuracy is near chance, and no --force.
        OtherSettings: the folder holds another run.
        ValueError, OSError: whatever else is wrong with the words, the model, the data or the folder.
    """
    screen.say("loading the model and the images")
    classifier, held_out, training = _open(words)
    screen.say(f"held-out images: {held_out.source}\ntraining images: {training.source}")
    own = {name: getattr(words, name) for name in ("method", "held_out", "minutes", "min_accuracy", "seed")}
    own |= {name: getattr(words, name) for name in ("measure", "pairs", "samples")}
    own |= {} if words.distances == "own" else {"distances": words.distances}
    measures = words.settings.family if words.distances == "own" else words.distances
    by = words.measured_by or words.settings.pervasive
    family = chosen_family(measures, by, words.settings.family)
    settings = words_of(words.model, words.images) | own | pervasive_words(by, measures) | words.settings.told()
    hardens = family_of(words.settings.family, words.settings.pervasive)
    for networks in dict.fromkeys(filter(None, (told_networks(one.described()) for one in (hardens, family)))):
        screen.say(networks)
    hardens.require_shape(classifier.image_shape)  # before the distances are measured, which takes long
    hashes = {"model": model_digest(words.model, classifier), "data": held_out.digest(), "training": training.digest()}
    inputs: dict[str, Any] = hashes | read_as(classifier) | family_facts(family) | _hardened_by(words)
    if words.measure != "none":
        inputs["search"] = search_facts(words.measure, words.samples, family=measures)
    stem = f"{words.method}-{stem_of(words.model.model)}"
    folder = words.out or default_folder("harden", stem, {**settings, "inputs": inputs})
    classifier.to(pick_device(words.device))
    with Run.open(folder, "harden", settings, inputs=inputs, fresh=words.fresh) as run:
        announce(run, screen)
        work = _Work(words, run, screen, classifier, held_out, training, hashes, family)
        before = work.before()
        record, hardened = work.hardened()
        after = None if before is None else work.measured("after", hardened, record["hashes"]["hardened"])
        run.event("finished", seconds=record["seconds"]["total"])
        return _result(run, record, before, after)


def _hardened_by(words: Harden) -> dict[str, Any]:
    """What the triggers that harden hang on beside their family's name, where there is such a thing.

    Raises:
        ValueError: an encoder or a decoder cannot be opened.
    """
    described = family_of(words.settings.family, words.settings.pervasive).described()
    return {"hardened_by": described} if described else {}


def _open(words: Harden) -> tuple[Classifier, LabelledImages, LabelledImages]:
    """The model, the held-out images and those to train on."""
    classifier, images = open_to_train_on(words.model, words.images, words.seed)
    held_out, training = images.divide(words.held_out, generator(words.seed))
    return classifier, held_out, training


def open_to_train_on(model: ModelWords, images: ImageWords, seed: int) -> tuple[Classifier, LabelledImages]:
    """The model, and the data's training part unless the words name another; all there is where they have none.

    Raises:
        ValueError, OSError: whatever is wrong with the words, the model or the data.
    """
    if images.split:
        return open_subject(model, images, seed)
    try:
        return open_subject(model, replace(images, split="train"), seed)
    except DataError:
        return open_subject(model, images, seed)


class _Work:
    """The parts of a hardening run, each of which is done once."""

    def __init__(
        self,
        words: Harden,
        run: Run,
        screen: Screen,
        classifier: Classifier,
        held_out: LabelledImages,
        training: LabelledImages,
        hashes: dict[str, str],
        family: TriggerFamily,
    ) -> None:
        self.words, self.run, self.screen, self.family = words, run, screen, family
        self.classifier, self.held_out, self.training, self.hashes = classifier, held_out, training, hashes
        self.clean = check_accuracy(run, classifier, held_out, words.seed, words.force, screen)

    def before(self) -> DistanceMatrix | None:
        """The distances of the model as it came: measured, or taken from --before."""
        words = self.words
        if words.measure == "none":
            return None
        if words.before is None or self.run.path("before.json").exists():
            return self.measured("before", self.classifier, self.hashes["model"])
        try:
            record = runs.read_json(words.before)
            matrix, changes = DistanceMatrix.from_json(record), self._changes(record)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"--before {words.before} holds no class distances; give a distances.json or before.json") from error
        if changes:
            raise ValueError(
                f"--before {words.before} was measured otherwise ({'; '.join(changes)}): measure it anew with the same "
                "--model, images, pairs and protocol, or leave --before out"
            )
        if (seed := record.get("seed", words.seed)) != words.seed:
            self.screen.say(f"take care: --before {words.before} was measured with --seed {seed}, so on other samples than after")
        runs.write_json(self.run.path("before.json"), record)
        return matrix

    def _changes(self, record: dict[str, Any]) -> list[str]:
        """In what distances differ that were measured on another model, on other images or in another way."""
        search = search_facts(self.words.measure, self.words.samples, family=self.family.name)
        known = {"model": record["hashes"]["model"], "data": record["hashes"]["data"], "protocol": record["protocol"]}
        known |= {"family": record["family"], **{name: record["settings"][name] for name in ("samples", "pairs")}}
        known |= {"draws": record.get("draws", 1)}
        asked = {"model": self.hashes["model"], "data": self.hashes["data"], "protocol": self.words.measure}
        asked |= {"family": self.family.name, "samples": search["samples"], "pairs": self.words.pairs, "draws": 1}
        if self.words.pairs.startswith("random:"):  # the seed draws the pairs, not only their samples
            known, asked = known | {"seed": record.get("seed")}, asked | {"seed": self.words.seed}
        by = measured_otherwise(record.get("measured_by"), family_facts(self.family).get("measured_by"))
        changed = [f"{name}: {json.dumps(old)} -> {json.dumps(new)}" for name, old, new in by]
        return [*runs.differences(known, asked), *changed] or _search_changes(record, search["settings"])

    def measured(self, name: str, classifier: Classifier, digest: str) -> DistanceMatrix:
        """The distances of a model on the held-out images, in NAME.json and NAME.safetensors."""
        words, path = self.words, self.run.path(f"{name}.json")
        if path.exists():
            return DistanceMatrix.from_json(runs.read_json(path))
        pairs = choose_pairs(words.pairs, len(classifier.classes), generator(words.seed))
        measurement, seconds = measure_pairs(
            *(self.run, name, f"distances {name}", self.screen, classifier, self.held_out, pairs),
            family=self.family,
            protocol=words.measure,
            samples=words.samples,
            seed=words.seed,
            device=words.device,
        )
        search = search_facts(words.measure, words.samples, family=self.family.name)
        facts = {
            "settings": {"pairs": words.pairs, "seed": words.seed, "samples": search["samples"], "search": search["settings"]},
            "versions": runs.versions(),
            "hashes": {"model": digest, "data": self.hashes["data"]},
            "seconds": round(seconds, 1),
            **(_hardened_by(words) if name == "after" else {}),
            "accuracy": self.clean.accuracy if name == "before" else self._record()["accuracy"]["after"],
            "accuracy_images": len(self.held_out),
            "model": model_facts(words.model, classifier),
            "data": self.held_out.source,
        }
        matrix = replace(measurement.matrix, facts={**measurement.matrix.facts, **facts})
        write_triggers(self.run.path(f"{name}.safetensors"), measurement, self.held_out, self.family)
        runs.write_json(path, matrix.to_json())
        return matrix

    def hardened(self) -> tuple[dict[str, Any], Classifier]:
        """The record of the hardening, and the hardened model; both from the folder where they are finished."""
        model = self.run.path("model.safetensors")
        if self.run.path("hardening.json").exists():
            self.screen.say("this hardening is finished already; --fresh hardens anew")
            hardened = copy.deepcopy(self.classifier)
            hardened.network.load_state_dict(load_file(model))
            return self._record(), hardened.to(pick_device(self.words.device))
        checkpoint = self.run.path("checkpoint.safetensors")
        with self.screen.meter("hardening") as update:
            made = harden(
                *(self.classifier, self.training, self.held_out, self.words.settings),
                seed=self.words.seed,
                minutes=self.words.minutes,
                min_accuracy=self.words.min_accuracy,
                checkpoint=checkpoint,
                on_progress=_shown_by(update),
            )
        for note in (*made.notes, *(restart.reason for restart in made.history.restarts)):
            self.screen.say(note)
        self._write(made, model)
        checkpoint.unlink(missing_ok=True)
        return self._record(), made.classifier

    def _write(self, made: Hardening, path: Path) -> None:
        """model.safetensors with its card, and hardening.json, which says that all is done."""
        words = self.words
        facts = {
            "accuracy": made.accuracy_after,
            "accuracy_images": len(self.held_out),
            "provenance": f"{words.model.model}, hardened by orthogon harden {words.method} on {self.training.source}; "
            f"accuracy on {self.held_out.source}",
            "hardening": self.run.settings,
            "hashes": self.hashes,
            "versions": runs.versions(),
        }
        card = made.classifier.card
        made.classifier.card = {"architecture": card.get("architecture")}
        models.save_classifier(made.classifier, path, facts | given_model(card))
        record = {
            "method": words.method,
            "family": words.settings.family,
            "unit": family_of(words.settings.family).unit,
            **_hardened_by(words),
            "classes": list(self.classifier.classes),
            "settings": self.run.settings,
            "stopped": made.stopped,
            "step": made.step,
            "best_step": made.best_step,
            "picks_total": len(made.history.picks["step"]),
            "accuracy": {
                "before": made.accuracy_before,
                "after": made.accuracy_after,
                "images": len(self.held_out),
                "bound": round(made.accuracy_before - made.floor, 6),
                "data": self.held_out.source,
            },
            **made.history.to_json(),
            "notes": list(made.notes),
            "versions": runs.versions(),
            "hashes": {**self.hashes, "hardened": runs.digest(path)},
            "model": model_facts(words.model, self.classifier),
            "data": self.training.source,
        }
        runs.write_json(self.run.path("hardening.json"), record)

    def _record(self) -> dict[str, Any]:
        return runs.read_json(self.run.path("hardening.json"))


def _search_changes(record: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """In what the search of a record differs from the one asked for, under the same protocol's name."""
    try:
        search = search_settings(record)
    except ValueError as error:
        return [str(error)]
    return ["it does not tell how it was searched"] if search is None else runs.differences(asdict(search), asked)


def _result(run: Run, record: dict[str, Any], before: DistanceMatrix | None, after: DistanceMatrix | None) -> Result:
    page = report.write_report(run.folder)
    model, seen, seconds = run.path("model.safetensors"), record["accuracy"], record["seconds"]["total"]
    told = [
        f"accuracy on {seen['images']:,} held-out images: {seen['before']:.2%} before, {seen['after']:.2%} after",
        f"hardened in {seconds / 60:.1f} minutes; the kept model is that of step {record['best_step']:,} of {record['step']:,}",
        f"model: {model}\nreport: {page}",
    ]
    data = {key: value for key, value in record.items() if key not in ("picks", "checks")}
    data |= {"run": str(run.folder), "model_file": str(model), "report": str(page)}
    if before is None or after is None:
        return Result(data, ["\n".join(told)])
    grown = improvement(before, after)
    data |= {"mean_before": plain(before.mean()), "mean_after": plain(after.mean()), "increase": plain(grown)}
    means = f"mean distance {before.mean():.2f} before, {after.mean():.2f} after ({after.unit})"
    increase = f"; average increase {grown:+.1%}" if math.isfinite(grown) else ""
    return Result(data, [report.distance_table(after), report.pairs_table(after), "\n".join([means + increase, *told])])


def _shown_by(update: Callable[[float, str], None]) -> Callable[[HardeningProgress], None]:
    def progressed(progress: HardeningProgress) -> None:
        pairs = [f"{'*' if p.victim is None else p.victim}-{p.target}" for arm in progress.arms for p in arm[:1]]
        listed = ", ".join(pairs[:4]) + (", …" if len(pairs) > 4 else "")
        seen = f", accuracy {progress.check.accuracy:.1%}" if progress.check else ""
        size = f", triggers {progress.distance:.1f}" if math.isfinite(progress.distance) else ""
        update(progress.done, f"{progress.phase} {listed}{size}{seen}")

    return progressed
