"""The work of `orthogon bench` with grids of removers: every method on every poisoned model, each cell in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from orthogon import models, runs
from orthogon.bench import REMOVAL_GRIDS, RemovalGrid
from orthogon.bench.removal import AS_IT_CAME, label_of
from orthogon.bench.removal_record import RemovalRecord
from orthogon.classifier import Classifier
from orthogon.cli.bench import RemovalBench
from orthogon.cli.benching_cells import failure
from orthogon.cli.benching_poisoned import Poisoned, open_poisoned
from orthogon.cli.screen import Result, Screen
from orthogon.cli.subject import announce, generator, pick_device
from orthogon.cli.words import default_folder, stem_of, words_of
from orthogon.evaluate import accuracy, attack_success
from orthogon.layers import require_layers
from orthogon.machine import device_of
from orthogon.naming import named, settings_of
from orthogon.recipe import TrainingSettings
from orthogon.removal import REMOVERS, Removal, Remover, remove
from orthogon.report.removal_bench_page import FILE, removal_bench_notes, removal_bench_table, write_removal_bench
from orthogon.runs import Run

_CELL = "cell.json"
_LAYER = "layer="
"""Begins the word that names a layer; no method has a setting of that name."""
_NOT_HERE = "published figures alone: it has no implementation here yet"


@dataclass(frozen=True)
class _Row:
    """A row of the table; one without a remover is the models as they came, or published only."""

    key: str
    remover: Remover | None
    runs: bool
    layers: tuple[str, ...] = ()
    """Those that the user names for a method that works on some; none: the method chooses."""

    @property
    def settings(self) -> dict[str, Any] | None:
        """Of the method, with the layers that are named."""
        if self.remover is None:
            return None
        return settings_of(self.remover) | ({"layer": list(self.layers)} if self.layers else {})

    @property
    def facts(self) -> dict[str, Any]:
        """What the record says of it."""
        return {
            "row": self.key,
            "label": label_of(self.key),
            "runs": self.runs,
            "settings": self.settings,
            "source": None if self.remover is None else self.remover.source,
        }


def bench_removal_and_write(words: RemovalBench, screen: Screen) -> Result:
    """Run every cell that is not finished yet; write removal-bench.json, .md and .html, anew after each cell.

    Raises:
        OtherSettings: the folder holds another run.
        ValueError: no cell could be finished, or something is wrong with the words, a model or the data.
        OSError: the folder cannot be written.
    """
    grid = REMOVAL_GRIDS[words.grid]
    rows = _planned(grid, words)
    screen.say("loading the models and the images")
    poisoned = open_poisoned(words)
    _require_layers(rows, poisoned)
    beside = _beside(grid, words.beside, [model.name for model in poisoned])
    for model in poisoned:
        screen.say(f"{model.name}: {_told(model)}")
    own = {name: getattr(words, name) for name in ("clean", "flip", "shift", "test_split", "test_data", "held_out")}
    # Neither rows, models nor settings of methods: they may be others when the same run goes on, and each cell has its own.
    settings = {"grid": grid.name} | words_of(words.images) | own | {"arch": words.arch, "seed": words.seed, "force": words.force}
    folder = words.out or default_folder(grid.name, stem_of(words.images.data), settings)
    with Run.open(folder, "bench", settings, fresh=words.fresh) as run:
        announce(run, screen)
        record = _Work(words, run, screen, grid, rows, poisoned, beside).done()
        return _result(run, record)


def rows_told(grid: RemovalGrid) -> dict[str, str]:
    """The rows of a grid with what they are, for `orthogon bench list`."""
    told = {}
    for name in grid.rows or REMOVERS:
        told[name] = f"{label_of(name)} ({REMOVERS[name].source})" if name in REMOVERS else f"{label_of(name)} ({_NOT_HERE})"
    return told


def _planned(grid: RemovalGrid, words: RemovalBench) -> list[_Row]:
    """The model as it came, then the rows that are asked for.

    Raises:
        ValueError: a row or a setting that there is not, or a layer for a method that takes none.
    """
    keys = grid.chosen(words.rows, REMOVERS)
    changes: dict[str, list[str]] = {}
    for word in words.changes:
        row, dot, change = word.partition(".")
        if not dot or row not in keys:
            listed = ", ".join(key for key in keys if key in REMOVERS)
            raise ValueError(
                f"--set {word!r} is no ROW.NAME=VALUE of a row that is run ({listed}), such as fine-tuning.epochs=10"
            )
        changes.setdefault(row, []).append(change)
    return [_Row(AS_IT_CAME, None, True), *(_row(key, changes.get(key, ())) for key in keys)]


def _row(key: str, changes: Iterable[str]) -> _Row:
    if key not in REMOVERS:
        return _Row(key, None, False)
    changes = list(changes)
    layers = tuple(change.removeprefix(_LAYER) for change in changes if change.startswith(_LAYER))
    remover = named(REMOVERS, "remover", key, [change for change in changes if not change.startswith(_LAYER)])
    if layers and not remover.takes_layers:
        takers = ", ".join(name for name, kind in REMOVERS.items() if kind.takes_layers)
        raise ValueError(
            f"--set {key}.{_LAYER}{layers[0]}: {key} works on the whole network; those that take layers are {takers}"
        )
    return _Row(key, remover, True, layers)


def _require_layers(rows: Iterable[_Row], poisoned: list[Poisoned]) -> None:
    """Raise ValueError for a layer that no model has; where only some lack it, their cells say so."""
    there = {name for model in poisoned for name, _ in model.classifier.network.named_modules() if name}
    for row in rows:
        require_layers(poisoned[0].classifier, [layer for layer in row.layers if layer not in there])


def _beside(grid: RemovalGrid, words: Iterable[str], names: list[str]) -> dict[str, str]:
    """Which subject's figures stand beside which model's; that of the mean under "mean".

    Raises:
        ValueError: no such subject, a word of another form, or a model that is called as the table's last column.
    """
    if "mean" in names:
        raise ValueError("the folder of a model cannot be called mean, which is the table's last column: rename it")
    beside = {"mean": grid.mean}
    for word in words:
        name, _, subject = word.rpartition("=")
        if name not in ("mean", *names):
            raise ValueError(f"--beside {word!r} is no MODEL=SUBJECT: the models are {', '.join(names)}, and mean")
        beside[name] = grid.subject(subject).key
    return beside


def _told(model: Poisoned) -> str:
    left = f" ({model.left_out} that are test images, too, left out)" if model.left_out else ""
    return f"{model.known.described}; {len(model.clean):,} clean images{left}, {len(model.test):,} to judge by"


class _Work:
    """The cells of a table, each of which is finished once."""

    def __init__(
        self,
        words: RemovalBench,
        run: Run,
        screen: Screen,
        grid: RemovalGrid,
        rows: list[_Row],
        poisoned: list[Poisoned],
        beside: dict[str, str],
    ) -> None:
        self.words, self.run, self.screen, self.grid = words, run, screen, grid
        self.rows, self.poisoned = rows, poisoned
        self.table = RemovalRecord(
            run.path(FILE), grid, REMOVERS, [row.facts for row in rows], [model.facts for model in poisoned], beside
        )
        self.device = pick_device(words.device)

    def done(self) -> dict[str, Any]:
        """The record of the table with every cell tried."""
        cells = [(row, model) for row in self.rows if row.runs for model in self.poisoned]
        self._write()
        for count, (row, model) in enumerate(cells, 1):
            self.screen.say(f"cell {count} of {len(cells)}: {label_of(row.key)}, {model.name}")
            line = self._tried(row, model)
            self.table.put(row.key, model.name, line)
            self.run.event("cell", row=row.key, model=model.name, status=line["status"])
            self._write()
        return self._write()

    def _write(self) -> dict[str, Any]:
        record = self.table.record(self.run.settings)
        runs.write_json(self.run.path(FILE), record)
        write_removal_bench(self.run.folder)
        return record

    def _tried(self, row: _Row, model: Poisoned) -> dict[str, Any]:
        """A finished cell, or a failed one with its reason."""
        line: dict[str, Any] = {}
        told = f"{label_of(row.key)} failed on {model.name}"
        try:
            reason = failure(lambda: line.update(self._finished(row, model)), told, self.screen)
        finally:
            model.classifier.cpu()
        return line if reason is None else {"status": "failed", "reason": reason}

    def _finished(self, row: _Row, model: Poisoned) -> dict[str, Any]:
        words = self.words
        own = {name: getattr(words, name) for name in ("clean", "flip", "shift", "seed", "force")}
        settings = {"method": row.key, "settings": row.settings} | (own if row.remover else {})
        judged = {name: model.inputs[name] for name in ("model", "read", "stamp", "test")}
        inputs = {**model.inputs, **row.remover.described()} if row.remover else judged
        place = f"cells/{model.name}/{row.key}-{runs.settings_digest({**settings, 'inputs': inputs})}"
        with Run.open(self.run.path(place), "remove" if row.remover else "evaluate", settings, inputs=inputs) as cell:
            path = cell.path(_CELL)
            if not path.exists():
                self._work(row, model, cell)
            return _line(runs.read_json(path), place)

    def _work(self, row: _Row, model: Poisoned, cell: Run) -> None:
        """Repair the model and judge it; cell.json comes last and says that all is done."""
        model.classifier.to(self.device)
        removal = None if row.remover is None else self._removed(row.remover, row.layers, model)
        judged = self._judged(model.classifier if removal is None else removal.classifier, model)
        notes = [] if removal is None else list(removal.notes)
        if removal is not None:
            notes += self._saved(row, removal, model, cell, judged)
        record = {
            "model": model.name,
            "method": row.key,
            **judged,
            "removal": None if removal is None else removal.to_json(),
            "notes": notes,
            "hashes": model.inputs,
            "versions": runs.versions(),
        }
        runs.write_json(cell.path(_CELL), record)
        cell.event("finished")

    def _removed(self, remover: Remover, layers: tuple[str, ...], model: Poisoned) -> Removal:
        words = self.words
        with self.screen.meter(f"{remover.name}, {model.name}") as update:
            return remove(
                *(model.classifier, model.clean, remover, generator(words.seed)),
                augmentation=TrainingSettings(shift=words.shift, flip=words.flip),
                layers=layers,
                force=words.force,
                on_progress=update,
            )

    def _judged(self, classifier: Classifier, model: Poisoned) -> dict[str, Any]:
        """Accuracy, and what the trigger still does, on the test images."""
        known, device = model.known, device_of(classifier)
        clean = accuracy(classifier, model.test)
        stamped = attack_success(
            *(classifier, model.test, known.on(device), model.target, known.victim), described=known.described
        )
        return {"clean": clean.to_json(), "stamped": stamped.to_json()}

    def _saved(self, row: _Row, removal: Removal, model: Poisoned, cell: Run, judged: dict[str, Any]) -> list[str]:
        """Write the repaired model with its card; where no card can name its architecture, a note says so."""
        clean, stamped = judged["clean"], judged["stamped"]
        facts = {
            "accuracy": clean["accuracy"],
            "accuracy_interval_95": clean["interval_95"],
            "accuracy_images": clean["total"],
            "provenance": f"{model.name}, repaired by {removal.remover.name} with {model.clean.source}; "
            f"judged on {model.test.source}",
            "removal": {
                "method": removal.remover.name,
                "source": removal.remover.source,
                "settings": row.settings,
                "clean_images": len(model.clean),
                "seed": self.words.seed,
                "model": {name: model.facts[name] for name in ("model", "stamp", "target", "victim")},
                "attack_success_rate": stamped["attack_success_rate"],
                "robust_accuracy": stamped["robust_accuracy"],
            },
        }
        repaired = removal.classifier.cpu()
        # What the poisoned model's card tells of its attack, accuracy and training is no longer true of this one.
        repaired.card = {key: value for key, value in repaired.card.items() if key in ("architecture", "licence")}
        try:
            models.save_classifier(repaired, cell.path("model.safetensors"), facts)
        except ValueError as error:
            return [f"the repaired weights were not kept: {error}"]
        return []


def _line(cell: dict[str, Any], place: str) -> dict[str, Any]:
    """A finished cell as the table holds it."""
    removal = cell["removal"]
    return {
        "status": "finished",
        "accuracy": cell["clean"]["accuracy"],
        "success": cell["stamped"]["attack_success_rate"],
        "robust": cell["stamped"]["robust_accuracy"],
        "minutes": None if removal is None else removal["seconds"] / 60,
        "notes": cell["notes"],
        "folder": place,
    }


def _result(run: Run, record: dict[str, Any]) -> Result:
    page = run.path(FILE).with_suffix(".html")
    tried = [cell for cell in record["cells"] if cell["status"] != "waiting"]
    if all(cell["status"] == "failed" for cell in tried):
        listed = "\n".join(f"  {label_of(cell['row'])}, {cell['model']}: {cell['reason']}" for cell in tried)
        raise ValueError(f"no cell could be finished; {page} lists them:\n{listed}")
    run.event("finished")
    data = {**record, "run": str(run.folder), "report": str(page)}
    return Result(data, [removal_bench_table(record), "\n".join([*removal_bench_notes(record), f"report: {page}"])])
