"""The work of `orthogon bench`."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

from orthogon import report, runs
from orthogon.bench import GRIDS, Grid, Row, Subject, numbers_of
from orthogon.classifier import Classifier
from orthogon.cli.bench import HardeningBench
from orthogon.cli.harden import Harden
from orthogon.cli.hardening import harden_and_write, open_to_train_on
from orthogon.cli.screen import Result, Screen
from orthogon.cli.subject import announce, generator, model_digest, model_facts, open_words, pick_device, read_as
from orthogon.cli.words import NearChance, default_folder, stem_of, words_of
from orthogon.evaluate import PGDSettings, accuracy, parse_bound, robust_accuracy
from orthogon.images import LabelledImages
from orthogon.matrix import DistanceMatrix, improvement, plain
from orthogon.methods import HardeningSettings
from orthogon.models import load_classifier
from orthogon.runs import Run


def bench_and_write(words: HardeningBench, screen: Screen) -> Result:
    """Run every row of the grid on the model; write bench.json, bench.md, bench.html, anew after each row.

    Raises:
        NearChance: the clean accuracy is near chance, and no --force.
        OtherSettings: the folder holds another run.
        ValueError: no row could be finished, or something is wrong with the words, the model or the data.
        OSError: the folder cannot be written.
    """
    grid = GRIDS[words.grid]
    rows, subject, numbers = grid.chosen(words.rows), grid.subject(words.subject), numbers_of(words.settings, words.given)
    planned = {row.key: row.settings(numbers) for row in grid.rows if row.method}
    attack = None if words.pgd is None else PGDSettings(parse_bound(words.pgd))
    screen.say("loading the model and the images")
    classifier, test = _open(words)
    screen.say(f"test images: {test.source}")
    own = {name: getattr(words, name) for name in ("test_split", "test_data", "pgd", "held_out", "minutes", "min_accuracy")}
    own |= {name: getattr(words, name) for name in ("measure", "pairs", "samples", "seed")}
    # Neither the rows nor the subject: both may be others when the same run goes on.
    settings = {"grid": grid.name} | words_of(words.model, words.images) | own | {"numbers": _plain(numbers)}
    inputs = {"model": model_digest(words.model, classifier), "test": test.digest(), **read_as(classifier)}
    folder = words.out or default_folder(grid.name, stem_of(words.model.model), {**settings, "inputs": inputs})
    classifier.to(pick_device(words.device))
    with Run.open(folder, "bench", settings, inputs=inputs, fresh=words.fresh) as run:
        announce(run, screen)
        work = _Work(words, run, screen, grid, planned, classifier, test, attack, subject)
        return _result(run, work.done(rows), rows)


def _open(words: HardeningBench) -> tuple[Classifier, LabelledImages]:
    """The model, and the images that tell its accuracy."""
    classifier, learned = open_to_train_on(words.model, words.images, words.seed)
    asked = replace(words.images, data=words.test_data or words.images.data, split=words.test_split, subset=None)
    try:
        test = open_words(asked, words.seed, image_shape=classifier.image_shape, classes=classifier.classes)
    except ValueError as error:
        raise ValueError(f"test images: {error} (--test-split and --test-data say which they are)") from error
    apart = test.without(learned)
    if len(apart) == 0:
        raise ValueError(
            f"all {len(test):,} test images are among those that the methods train on or choose by: "
            "--split and --test-split, or --test-data, say which are which"
        )
    if shared := len(test) - len(apart):
        apart = replace(apart, source=f"{test.source} [without {shared:,} that the methods train on or choose by]")
    return classifier, apart


class _Work:
    """The rows of a table, each of which is done once."""

    def __init__(
        self,
        words: HardeningBench,
        run: Run,
        screen: Screen,
        grid: Grid,
        planned: dict[str, HardeningSettings],
        classifier: Classifier,
        test: LabelledImages,
        attack: PGDSettings | None,
        subject: Subject | None,
    ) -> None:
        self.words, self.run, self.screen, self.grid, self.planned = words, run, screen, grid, planned
        self.classifier, self.test, self.attack, self.subject = classifier, test, attack, subject

    def done(self, rows: tuple[Row, ...]) -> dict[str, Any]:
        """The record of the table, with all these rows run that can be; rows of earlier commands stay in it."""
        self.natural = self._accuracy("natural", self.classifier, model_digest(self.words.model, self.classifier))
        lines = self._earlier() | {row.key: self._line(row, "waiting") for row in rows}
        running = [row for row in rows if row.method]
        for count, row in enumerate(running, 1):
            self.screen.say(f"row {count} of {len(running)}: {row.label}")
            lines[row.key] = self._tried(row)
            self.run.event("row", row=row.key, status=lines[row.key]["status"])
            self._write(lines)
        return self._write(lines)

    def _tried(self, row: Row) -> dict[str, Any]:
        """A finished row, or a failed one with its reason."""
        try:
            return self._finished(row)
        except NearChance:
            raise  # it is the model, so no row can do better
        except (ValueError, RuntimeError, MemoryError) as error:  # RuntimeError is PyTorch's out of memory, too
            reason = str(error) or type(error).__name__
            self.screen.say(f"{row.label} failed: {reason}")
            return self._line(row, "failed", reason=reason)

    def _finished(self, row: Row) -> dict[str, Any]:
        folder = self.run.path(row.key)
        self._share_pictures(folder)
        harden_and_write(self._harden(row, folder), self.screen)
        record, file = runs.read_json(folder / "hardening.json"), folder / "model.safetensors"
        hardened = load_classifier(str(file)).to(pick_device(self.words.device))
        seen = self._accuracy(row.key, hardened, runs.digest(file))
        before, after = _matrix(folder / "before.json"), _matrix(folder / "after.json")
        return self._line(
            row,
            "finished",
            accuracy=seen["accuracy"],
            robust=seen["robust"],
            lost=self.natural["accuracy"] - seen["accuracy"],
            minutes=record["seconds"]["total"] / 60,
            distance=None if after is None else plain(after.mean()),
            increase=None if before is None or after is None else plain(improvement(before, after)),
            stopped=record["stopped"],
        )

    def _harden(self, row: Row, folder: Path) -> Harden:
        """The words of `orthogon harden` for a row."""
        assert row.method is not None
        words = self.words
        return Harden(
            row.method,
            words.model,
            words.images,
            held_out=words.held_out,
            minutes=words.minutes,
            min_accuracy=words.min_accuracy,
            measure=words.measure,
            distances=self.grid.distances,
            pairs=words.pairs,
            samples=words.samples,
            before=self._measured_before(),
            settings=self.planned[row.key],
            measured_by=words.settings.pervasive if self.grid.distances == "pervasive" else None,
            seed=words.seed,
            out=folder,
            device=words.device,
            force=words.force,
        )

    def _measured_before(self) -> Path | None:
        """The distances of the natural model, which the first row measures for all."""
        files = (self.run.path(row.key) / "before.json" for row in self.grid.rows)
        return next((file for file in files if file.exists()), None) if self.words.measure != "none" else None

    def _share_pictures(self, folder: Path) -> None:
        """Give a row's report the natural model's triggers, where another row has searched them."""
        measured, own = self._measured_before(), folder / "before.safetensors"
        if measured is None or measured.parent == folder or own.exists():
            return
        found = measured.with_name(own.name)
        if found.exists():
            runs.write_bytes(own, found.read_bytes())

    def _accuracy(self, name: str, classifier: Classifier, digest: str) -> dict[str, Any]:
        """Accuracy on the test images, and that under attack where it is asked for; kept in accuracy/NAME.json."""
        path = self.run.path(f"accuracy/{name}.json")
        if path.exists() and (kept := runs.read_json(path))["model"] == digest:
            return kept
        with self.screen.meter(f"test accuracy, {name}") as update:
            seen: dict[str, Any] = accuracy(classifier, self.test, on_progress=lambda done: update(done, "")).to_json()
        seen |= {"model": digest, "robust": None}
        if self.attack is not None:
            with self.screen.meter(f"test accuracy under attack, {name}") as update:
                chance = generator(self.words.seed)
                under = robust_accuracy(classifier, self.test, self.attack, chance, on_progress=lambda done: update(done, ""))
            seen["robust"] = under.accuracy
        runs.write_json(path, seen)
        return seen

    def _line(self, row: Row, status: str, **found: Any) -> dict[str, Any]:
        """A row of bench.json; what was not found is null."""
        status = status if row.method else "published only"
        empty = dict.fromkeys(("reason", "accuracy", "robust", "lost", "minutes", "distance", "increase", "stopped"))
        known = {"row": row.key, "label": row.label, "note": row.note, "method": row.method, "changes": dict(row.changes)}
        return {**known, "status": status, **empty, **found}

    def _earlier(self) -> dict[str, dict[str, Any]]:
        """Rows that former commands finished."""
        path = self.run.path("bench.json")
        lines = runs.read_json(path)["rows"] if path.exists() else []
        return {line["row"]: line for line in lines if line["status"] == "finished"}

    def _write(self, lines: dict[str, dict[str, Any]]) -> dict[str, Any]:
        words, subject = self.words, self.subject
        published = {} if subject is None else {key: row.to_json() for key, row in subject.published.items()}
        measured = self._measured_before()
        before = None if measured is None else _matrix(measured)
        ordered = [lines[row.key] for row in self.grid.rows if row.key in lines]
        record = {
            "grid": self.grid.name,
            "title": self.grid.title,
            "paper": self.grid.paper,
            "subject": None if subject is None else {"name": subject.key, "label": subject.label, "source": subject.source},
            "subjects": [known.key for known in self.grid.subjects],
            "unit": None if before is None else before.unit,
            "measured_by": None if before is None else before.facts.get("measured_by"),
            "natural": {
                "accuracy": self.natural["accuracy"],
                "robust": self.natural["robust"],
                "distance": None if before is None else plain(before.mean()),
                "published": published.get("natural"),
            },
            "rows": [{**line, "published": published.get(line["row"])} for line in ordered],
            "test": {"images": len(self.test), "data": self.test.source},
            "model": model_facts(words.model, self.classifier),
            "settings": self.run.settings,
            "hardening": {row: settings.told() for row, settings in self.planned.items() if row in lines},
            "versions": runs.versions(),
        }
        runs.write_json(self.run.path("bench.json"), record)
        report.write_bench(self.run.folder)
        return record


def _plain(numbers: dict[str, Any]) -> dict[str, Any]:
    """The user's numbers as settings.json holds them."""
    return {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value for name, value in numbers.items()
    }


def _matrix(path: Path) -> DistanceMatrix | None:
    return DistanceMatrix.from_json(runs.read_json(path)) if path.exists() else None


def _result(run: Run, record: dict[str, Any], asked: tuple[Row, ...]) -> Result:
    page = run.path("bench.html")
    lines = {line["row"]: line for line in record["rows"]}
    tried = [lines[row.key] for row in asked if row.method]
    if all(line["status"] == "failed" for line in tried):
        listed = "\n".join(f"  {line['label']}: {line['reason']}" for line in tried)
        raise ValueError(f"no row could be finished; {page} lists them:\n{listed}")
    run.event("finished")
    data = {**record, "run": str(run.folder), "report": str(page)}
    return Result(data, [report.bench_table(record), "\n".join([*report.bench_notes(record), f"report: {page}"])])
