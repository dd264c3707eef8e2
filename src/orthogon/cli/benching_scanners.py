"""The work of `orthogon bench scanners`: every scanner on every model whose truth is known, each scan in a folder of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from orthogon import runs
from orthogon.bench.scanners import ScannerRecord, Truth, cell_of, facts_of, label_of, truth_of
from orthogon.classifier import Classifier, require_match
from orthogon.cli.bench import ScannerBench
from orthogon.cli.benching_cells import failure
from orthogon.cli.benching_poisoned import names_of, weights_of
from orthogon.cli.measuring import check_accuracy
from orthogon.cli.screen import Result, Screen
from orthogon.cli.subject import announce, generator, open_subject, pick_device
from orthogon.cli.words import ModelWords, default_folder
from orthogon.data.trojai import examples_beside
from orthogon.evaluate import Evaluation
from orthogon.images import LabelledImages
from orthogon.models import load_classifier
from orthogon.models.architectures import is_name
from orthogon.models.cards import card_beside
from orthogon.naming import named, settings_of
from orthogon.report.scanner_bench_page import FILE, scanner_bench_notes, scanner_bench_table, write_scanner_bench
from orthogon.runs import Run
from orthogon.scanning import Scanner, judged, looked
from orthogon.scanning.ensemble import MEMBERS, Ensemble

_CELL = "scan.json"


@dataclass(frozen=True, eq=False)
class _Subject:
    """A model whose truth is known, with images of its classes."""

    name: str
    path: Path
    classifier: Classifier
    """On the CPU."""
    images: LabelledImages
    truth: Truth
    arch: str | None
    """Of --arch, where the card names none."""

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Digests of what a scan depends on; the card, or --arch, says how the weights are read."""
        read = runs.settings_digest({"arch": self.arch, "normalization": repr(self.classifier.normalization)})
        return {"model": runs.digest(self.path), "read": read, "images": self.images.digest()}

    @property
    def facts(self) -> dict[str, Any]:
        """What the record says of it."""
        names = {
            role: None if (c := getattr(self.truth, role)) is None else self.images.classes[c] for role in ("target", "victim")
        }
        return {
            "model": self.name,
            "path": str(self.path),
            "inputs": self.inputs,
            "truth": facts_of(self.truth),
            "target": names["target"],
            "victim": names["victim"],
            "classes": len(self.images.classes),
            "data": self.images.source,
        }


def bench_scanners_and_write(words: ScannerBench, screen: Screen) -> Result:
    """Run every cell that is not finished yet; write scanner-bench.json, .md and .html, anew after each cell.

    Raises:
        OtherSettings: the folder holds another run.
        ValueError: no cell could be finished, or something is wrong with the words, a model or the data.
        OSError: the folder cannot be written.
    """
    scanners = _planned(words)
    screen.say("loading the models and the images")
    subjects = _opened(words)
    # Neither rows, models, images nor settings of scanners: others may join the same run, and each cell has its own.
    settings = {"grid": "scanners", "seed": words.seed, "force": words.force}
    folder = words.out or default_folder("bench", "scanners", settings)
    with Run.open(folder, "bench", settings, fresh=words.fresh) as run:
        announce(run, screen)
        work = _Work(words, run, screen, scanners, subjects)
        record = work.done()
        if words.calibrate:
            work.calibrate()
        return _result(run, record, {scanner.name for scanner in scanners}, {subject.name for subject in subjects})


def _planned(words: ScannerBench) -> list[Scanner]:
    """The scanners that are asked for, with their settings.

    Raises:
        ValueError: a scanner or a setting that there is not.
    """
    asked = tuple(MEMBERS) if words.rows is None else tuple(name.strip() for name in words.rows.split(","))
    if Ensemble.name in asked:
        raise ValueError(f"--rows {Ensemble.name}: it is made of the other rows, and needs no scans of its own: leave it out")
    for name in asked:
        named(MEMBERS, "scanner", name)  # told before whatever is wrong with its settings
    changes: dict[str, list[str]] = {}
    for word in words.changes:
        row, dot, change = word.partition(".")
        if not dot or row not in asked:
            raise ValueError(f"--set {word!r} is no ROW.NAME=VALUE of a row that is run ({', '.join(asked)})")
        changes.setdefault(row, []).append(change)
    return [named(MEMBERS, "scanner", name, changes.get(name, ())) for name in dict.fromkeys(asked)]


def _opened(words: ScannerBench) -> list[_Subject]:
    """The models that are named, in their order; images of --data that several take are read once, and pictures that lie beside a
    model are its own.

    Raises:
        ValueError, OSError: a model has no card, or does not fit the data, or two have one name; the message names it.
    """
    if not words.models:
        raise ValueError("--models names no model: give folders of the zoo, run folders, or checkpoints with a card")
    files = [weights_of(model) for model in words.models]
    kept: dict[Any, LabelledImages] = {}
    subjects = []
    for file, name in zip(files, names_of(files), strict=True):
        try:
            subjects.append(_subject(words, file, name, kept))
        except (ValueError, OSError) as error:
            raise ValueError(f"--models {file}: {error}") from error
    return subjects


def _subject(words: ScannerBench, file: Path, name: str, kept: dict[Any, LabelledImages]) -> _Subject:
    if not file.with_suffix(".json").is_file():
        raise ValueError("there is no card beside it, so that nobody knows whether it has a backdoor")
    card = card_beside(file)
    truth = truth_of(card.facts)
    arch = None if card.architecture is not None and is_name(card.architecture) else words.arch
    own = None if words.images.data else examples_beside(file)
    if not words.images.data and own is None:
        raise ValueError("there are no example pictures beside it (as TrojAI has them): give --data D")
    key = (card.classes, card.image_shape)
    if own is not None:
        classifier, images = open_subject(ModelWords(str(file), arch), replace(words.images, data=str(own)), words.seed)
    elif None not in key and key in kept:
        images = kept[key]
        classifier = load_classifier(str(file), arch=arch, image_shape=images.image_shape)
        require_match(classifier, images)
    else:
        classifier, images = open_subject(ModelWords(str(file), arch), words.images, words.seed)
        kept[key] = images
    for role, number in (("target", truth.target), ("victim", truth.victim)):
        if number is not None and not 0 <= number < len(images.classes):
            raise ValueError(f"the {role} {number} of its attack is not one of the {len(images.classes)} classes (0 and up)")
    return _Subject(name, file, classifier, images, truth, arch)


class _Work:
    """The cells of the bench, each of which is finished once."""

    def __init__(self, words: ScannerBench, run: Run, screen: Screen, scanners: list[Scanner], subjects: list[_Subject]) -> None:
        self.words, self.run, self.screen, self.scanners, self.subjects = words, run, screen, scanners, subjects
        facts = [subject.facts for subject in subjects]
        self.table = ScannerRecord(run.path(FILE), [_row(scanner) for scanner in scanners], facts)
        self.device = pick_device(words.device)
        self.clean: dict[str, Evaluation] = {}

    def done(self) -> dict[str, Any]:
        """The record with every cell tried."""
        cells = [(scanner, subject) for subject in self.subjects for scanner in self.scanners]
        self._write()
        for count, (scanner, subject) in enumerate(cells, 1):
            self.screen.say(f"cell {count} of {len(cells)}: {label_of(scanner.name)}, {subject.name}")
            line = self._tried(scanner, subject)
            self.table.put(scanner.name, subject.name, line)
            self.run.event("cell", row=scanner.name, model=subject.name, status=line["status"])
            self._write()
        return self._write()

    def calibrate(self) -> None:
        """Write each scanner's calibration, where there are models enough."""
        for row in self.table.rows:
            curve = self.table.calibration(row)
            if curve is None:
                self.screen.say(f"no calibration of {label_of(row)}: two clean and two backdoored models with a score are needed")
            else:
                runs.write_json(self.run.path(f"calibrations/{row}.json"), curve.to_json())

    def _write(self) -> dict[str, Any]:
        record = self.table.record(self.run.settings)
        runs.write_json(self.run.path(FILE), record)
        write_scanner_bench(self.run.folder)
        return record

    def _tried(self, scanner: Scanner, subject: _Subject) -> dict[str, Any]:
        """A finished cell, or a failed one with its reason."""
        line: dict[str, Any] = {}
        told = f"{label_of(scanner.name)} failed on {subject.name}"
        try:
            reason = failure(lambda: line.update(self._finished(scanner, subject)), told, self.screen)
        finally:
            subject.classifier.cpu()
        return line if reason is None else {"status": "failed", "reason": reason}

    def _finished(self, scanner: Scanner, subject: _Subject) -> dict[str, Any]:
        settings = {"scanner": scanner.name, "settings": settings_of(scanner), "seed": self.words.seed}
        key = runs.settings_digest({**settings, "inputs": subject.inputs})
        place = f"cells/{subject.name}/{scanner.name}-{key}"
        with Run.open(self.run.path(place), "scan", settings, inputs=subject.inputs) as cell:
            path = cell.path(_CELL)
            if not path.exists():
                self._scanned(scanner, subject, cell)
            return cell_of(runs.read_json(path), place)

    def _scanned(self, scanner: Scanner, subject: _Subject, cell: Run) -> None:
        """Scan and write all evidence; scan.json says that all is done.

        The scanner's own threshold judges: a calibration may have been fitted on these very models.
        """
        subject.classifier.to(self.device)
        clean = self._checked(subject, cell)
        began = time.monotonic()
        with self.screen.meter(f"{label_of(scanner.name)}, {subject.name}") as update:
            given = (subject.classifier, subject.images if scanner.needs_images else None)
            found = looked(*given, scanner, generator(self.words.seed), on_progress=update)
        seconds = round(time.monotonic() - began, 3)
        record = judged(scanner, found).to_json(subject.images.classes)
        record |= {"model": {"name": subject.name}, "classes": list(subject.images.classes), "data": subject.images.source}
        record |= {"accuracy": clean.accuracy, "accuracy_images": clean.total}
        record |= {"hashes": subject.inputs, "versions": runs.versions(), "seconds": seconds}
        runs.write_json(cell.path(_CELL), record)
        cell.event("finished")

    def _checked(self, subject: _Subject, cell: Run) -> Evaluation:
        """The clean accuracy, looked at once for all scanners of this command.

        Raises:
            NearChance: it is near chance, and nothing was forced.
        """
        if subject.name not in self.clean:
            known = (subject.classifier, subject.images, self.words.seed, self.words.force, self.screen)
            self.clean[subject.name] = check_accuracy(cell, *known)
        return self.clean[subject.name]


def _row(scanner: Scanner) -> dict[str, Any]:
    return {
        "row": scanner.name,
        "label": label_of(scanner.name),
        "settings": settings_of(scanner),
        "source": scanner.source,
        "threshold": scanner.threshold,
        "rule": scanner.rule,
    }


def _result(run: Run, record: dict[str, Any], rows: Iterable[str], models: Iterable[str]) -> Result:
    page = run.path(FILE).with_suffix(".html")
    tried = [cell for cell in record["cells"] if cell["row"] in rows and cell["model"] in models]
    if all(cell["status"] == "failed" for cell in tried):
        listed = "\n".join(f"  {label_of(cell['row'])}, {cell['model']}: {cell['reason']}" for cell in tried)
        raise ValueError(f"no cell could be finished; {page} lists them:\n{listed}")
    run.event("finished")
    data = {**record, "run": str(run.folder), "report": str(page)}
    return Result(data, [scanner_bench_table(record), "\n".join([*scanner_bench_notes(record), f"report: {page}"])])
