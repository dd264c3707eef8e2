"""The work of `orthogon bench false-positives`: scan a set of models, harden those that are flagged, and scan these again."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from orthogon import runs
from orthogon.bench.false_positives import FLAGGED, PUBLISHED, TITLE, counts
from orthogon.classifier import Classifier
from orthogon.cli.bench import FalsePositiveBench
from orthogon.cli.benching_cells import failure
from orthogon.cli.screen import Result, Screen
from orthogon.cli.subject import announce, generator, open_subject, open_words, pick_device
from orthogon.cli.words import ImageWords, ModelWords, default_folder, words_of
from orthogon.data.trojai import CONFIG_FILE, examples_digest
from orthogon.evaluate import accuracy, attack_success, near_chance
from orthogon.hardening import harden
from orthogon.images import LabelledImages
from orthogon.machine import device_of
from orthogon.methods import METHODS, HardeningSettings
from orthogon.naming import named, settings_of
from orthogon.planting import TRIGGER_FILE, read_trigger
from orthogon.report.false_positives_page import false_positives_markdown, false_positives_notes, false_positives_table
from orthogon.runs import Run
from orthogon.scanning import SCANNERS, Scanner, judged, looked
from orthogon.zoo.making_trojai import known_pictures
from orthogon.zoo.trojai import TrojAIModel, read_set

FILE = "false-positives.json"
_PICTURES = ("data", "judged_on", "hardened_on")
"""What a model's record says of its pictures: those of the scans, those of accuracy and success rate, and the others."""
_BEFORE, _AFTER, _HARDENED, _RECORD = "before.json", "after.json", "hardened.safetensors", "hardening.json"
_HELD_OUT = "fraction:0.25"
"""Of images that come without a part to validate by."""
_JUDGING = "fraction:0.5"
"""Of the example pictures, where a model is hardened on the rest of them."""
_FEWEST = 4
"""Example pictures of a class, of which two are left to harden on and to validate by."""


@dataclass(frozen=True, eq=False)
class _Pictures:
    """What a model is hardened, judged and scanned by; nothing that it is hardened on is among the last two."""

    which: str
    """Where those to harden on come from: "--data", "known training pictures" or "example pictures"."""
    training: LabelledImages
    validation: LabelledImages
    judging: LabelledImages
    scanned: LabelledImages


@dataclass(frozen=True, eq=False)
class _Subject:
    """A model of the set, opened only when its turn comes."""

    told: TrojAIModel
    words: FalsePositiveBench

    @cached_property
    def opened(self) -> tuple[Classifier, LabelledImages]:
        """The classifier, on the CPU, and its example pictures."""
        return open_subject(ModelWords(str(self.told.model)), ImageWords(str(self.told.folder)), self.words.seed)

    @cached_property
    def pictures(self) -> _Pictures:
        """Those of --data, else those that it was trained on, else its example pictures in three parts.

        Raises:
            ValueError: too few example pictures for that, or whatever is wrong with the words or the data.
        """
        classifier, examples = self.opened
        if self.words.images.data:
            images = open_words(
                self.words.images, self.words.seed, image_shape=classifier.image_shape, classes=classifier.classes
            )
            held_out, training = images.divide(_HELD_OUT, generator(self.words.seed))
            return _Pictures("--data", training, held_out, examples, examples)
        if (known := known_pictures(self.told.config)) is not None:
            return _Pictures("known training pictures", *known, examples)
        if (fewest := min(filter(None, examples.counts()))) < _FEWEST:
            raise ValueError(f"a class has {fewest} example pictures, {_FEWEST} are needed to harden on a part: give --data D")
        judging, rest = examples.divide(_JUDGING, generator(self.words.seed))
        held_out, training = rest.divide(_HELD_OUT, generator(self.words.seed))
        return _Pictures("example pictures", training, held_out, judging, judging)

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Digests of all that its verdicts depend on, beside the settings of the run.

        Raises:
            ValueError: whatever is wrong with --data.
        """
        folder, pictures = self.told.folder, self.pictures if self.words.images.data else None
        seen = {"model": runs.digest(self.told.model), "examples": examples_digest(folder)}
        seen |= {name: runs.digest(folder / name) for name in (CONFIG_FILE, TRIGGER_FILE) if (folder / name).is_file()}
        if pictures is not None:
            seen |= {"training": pictures.training.digest(), "validation": pictures.validation.digest()}
        return seen


def bench_false_positives_and_write(words: FalsePositiveBench, screen: Screen) -> Result:
    """Do what is not finished yet; write false-positives.json and .md, anew after each model.

    Raises:
        OtherSettings: the folder holds another run.
        ValueError: no model could be scanned, or something is wrong with the words, a file beside a model or the data.
        OSError: the folder cannot be written.
    """
    scanner = named(SCANNERS, "scanner", words.scanner, words.changes)
    hardening = METHODS[words.method]
    if words.steps is not None:
        hardening = replace(hardening, steps=words.steps)
    models = [model for folder in words.models for model in read_set(Path(folder))]
    if len({model.name for model in models}) < len(models):
        raise ValueError("--models names several models of one name: give one set per bench")
    if unknown := [model.name for model in models if model.poisoned is None]:
        raise ValueError(f"nobody tells whether {', '.join(unknown[:8])} have a backdoor (ground_truth.csv or config.json)")
    own = {name: getattr(words, name) for name in ("method", "minutes", "seed", "force")}
    settings = {"grid": words.grid, "scanner": scanner.name, "settings": settings_of(scanner), "hardening": hardening.told()}
    settings |= own | words_of(words.images)  # neither models nor images: the folder of each model is named after its inputs
    folder = words.out or default_folder("bench", words.grid, settings)
    with Run.open(folder, "bench", settings, fresh=words.fresh) as run:
        announce(run, screen)
        record = _Work(words, run, screen, scanner, hardening).done(models)
        return _result(run, record)


class _Work:
    """The stages of each model, each of which is finished once."""

    def __init__(
        self, words: FalsePositiveBench, run: Run, screen: Screen, scanner: Scanner, hardening: HardeningSettings
    ) -> None:
        self.words, self.run, self.screen, self.scanner, self.hardening = words, run, screen, scanner, hardening
        self.device = pick_device(words.device)

    def done(self, models: list[TrojAIModel]) -> dict[str, Any]:
        """The record with every model tried; clean models come first, since they are what the table is about."""
        rows: dict[str, dict[str, Any]] = {model.name: _row(model) for model in models}
        for count, model in enumerate(sorted(models, key=lambda m: (bool(m.poisoned), m.name)), 1):
            self.screen.say(f"{count} of {len(models)}: {model.name}, {'poisoned' if model.poisoned else 'clean'}")
            rows[model.name] |= self._tried(_Subject(model, self.words))
            self.run.event("model", name=model.name, before=rows[model.name]["before"], after=rows[model.name]["after"])
            self._write(rows)
        return self._write(rows)

    def _write(self, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
        published = PUBLISHED.get(self.words.method)
        record = {
            "title": TITLE,
            "scanner": {"name": self.scanner.name, "settings": settings_of(self.scanner), "rule": self.scanner.rule},
            "method": self.words.method,
            "minutes": self.words.minutes,
            "hardening": self.hardening.told(),
            "counts": counts(list(rows.values())),
            "published": None if published is None else asdict(published),
            "models": list(rows.values()),
            "settings": self.run.settings,
            "versions": runs.versions(),
        }
        runs.write_json(self.run.path(FILE), record)
        runs.write_text(self.run.path(FILE).with_suffix(".md"), false_positives_markdown(record))
        return record

    def _tried(self, subject: _Subject) -> dict[str, Any]:
        """What a model came to; a failure is an outcome with its reason, and keeps what was finished."""
        folders: list[Path] = []

        def stages() -> None:
            folders.append(self.run.path("models") / f"{subject.told.name}-{runs.settings_digest(subject.inputs)}")
            folders[0].mkdir(parents=True, exist_ok=True)
            self._stages(subject, folders[0])

        reason = failure(stages, f"{subject.told.name} failed", self.screen)
        if not folders:
            return {"reason": reason}
        place = str(folders[0].relative_to(self.run.folder))
        return _line(folders[0]) | {"reason": reason, "folder": place, "inputs": subject.inputs}

    def _stages(self, subject: _Subject, folder: Path) -> None:
        if not (folder / _BEFORE).exists():
            self._scan(subject, subject.opened[0], folder / _BEFORE, "as it came")
        if runs.read_json(folder / _BEFORE)["verdict"] != FLAGGED or (folder / _AFTER).exists():
            return
        hardened = self._hardened(subject, folder)
        self._scan(subject, hardened, folder / _AFTER, "hardened")

    def _scan(self, subject: _Subject, classifier: Classifier, path: Path, what: str) -> None:
        """Scan and keep the record; the scanner's own threshold judges, since a calibration may know these models."""
        classifier.to(self.device)
        pictures = subject.pictures
        if (reason := near_chance(accuracy(classifier, pictures.scanned))) is not None and not self.words.force:
            raise ValueError(reason)
        began = time.monotonic()
        with self.screen.meter(f"{self.scanner.name} on {subject.told.name}, {what}") as update:
            images = pictures.scanned if self.scanner.needs_images else None
            found = looked(classifier, images, self.scanner, generator(self.words.seed), on_progress=update)
        record = judged(self.scanner, found).to_json(pictures.scanned.classes)
        record |= {"accuracy": accuracy(classifier, pictures.judging).accuracy, "success": self._success(subject, classifier)}
        record |= {"data": pictures.scanned.source, "judged_on": pictures.judging.source, "hardened_on": pictures.which}
        runs.write_json(path, record | {"seconds": round(time.monotonic() - began, 1)})

    def _success(self, subject: _Subject, classifier: Classifier) -> float | None:
        """The attack success rate of the trigger that lies beside the model; None without one. No defence sees it."""
        path = subject.told.folder / TRIGGER_FILE
        if not path.is_file():
            return None
        trigger = read_trigger(path).to(device_of(classifier))
        seen = attack_success(classifier, subject.pictures.judging, trigger.stamp, trigger.threat.target, trigger.threat.victim)
        return seen.success_rate

    def _hardened(self, subject: _Subject, folder: Path) -> Classifier:
        hardened = copy.deepcopy(subject.opened[0])
        if (folder / _RECORD).exists():
            hardened.network.load_state_dict(load_file(folder / _HARDENED))
            return hardened.to(self.device)
        training, validation = subject.pictures.training, subject.pictures.validation
        checkpoint = folder / "checkpoint.safetensors"
        began = time.monotonic()
        with self.screen.meter(f"{self.words.method} on {subject.told.name}") as update:
            done = harden(
                *(hardened.to(self.device), training, validation, self.hardening),
                seed=self.words.seed,
                minutes=self.words.minutes,
                checkpoint=checkpoint,
                on_progress=lambda progress: update(progress.done, progress.phase),
            )
        runs.write_tensors(folder / _HARDENED, done.classifier.network.state_dict())
        facts = {"step": done.step, "best_step": done.best_step, "stopped": done.stopped, "notes": list(done.notes)}
        facts |= {"data": training.source, "images": len(training), "seconds": round(time.monotonic() - began, 1)}
        runs.write_json(folder / _RECORD, facts)
        checkpoint.unlink(missing_ok=True)
        return done.classifier


def _row(model: TrojAIModel) -> dict[str, Any]:
    """A model that nothing is known of but its truth."""
    empty = ("before", "after", "score", "accuracy", "success")
    names = (*empty[:2], *(f"{name}_{when}" for name in empty[2:] for when in ("before", "after")))
    return {"model": model.name, "path": str(model.folder), "poisoned": model.poisoned} | dict.fromkeys(
        (*names, "reason", "folder", "inputs", *_PICTURES)
    )


def _line(folder: Path) -> dict[str, Any]:
    """What the finished stages of a model say."""
    line: dict[str, Any] = {}
    if (folder / _BEFORE).exists():
        record = runs.read_json(folder / _BEFORE)
        line = {name: record[name] for name in _PICTURES}
    for when, name in (("before", _BEFORE), ("after", _AFTER)):
        record = runs.read_json(folder / name) if (folder / name).exists() else {}
        line |= {when: record.get("verdict"), f"score_{when}": record.get("score")}
        line |= {f"{key}_{when}": record.get(key) for key in ("accuracy", "success")}
    if (folder / _RECORD).exists():
        line["hardening"] = runs.read_json(folder / _RECORD)
    return line


def _result(run: Run, record: dict[str, Any]) -> Result:
    if all(row["before"] is None for row in record["models"]):
        listed = "\n".join(f"  {row['model']}: {row['reason']}" for row in record["models"])
        raise ValueError(f"no model could be scanned:\n{listed}")
    run.event("finished")
    page = run.path(FILE).with_suffix(".md")
    data = {**record, "run": str(run.folder), "table": str(page)}
    return Result(data, [false_positives_table(record), *false_positives_notes(record), f"table: {page}"])
