"""The work of `orthogon zoo build --like trojai`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rich.table import Table

from orthogon import runs
from orthogon.cli.screen import Result, Screen
from orthogon.cli.subject import announce, pick_device
from orthogon.cli.zoo import Zoo
from orthogon.runs import Run
from orthogon.zoo.like_trojai import ATTEMPTS, SIZE, Declared, declare
from orthogon.zoo.making_trojai import EXAMPLES, lay_out, train, write_metadata
from orthogon.zoo.trojai import is_model

FOLDER = Path("runs/zoo-trojai")
_UNFINISHED = "unfinished"
_METHOD = 2
"""Of making a set; raised where the same seed would give other models."""


def build_set(words: Zoo, screen: Screen) -> Result:
    """Make the models that are missing, one after the other; those that are there are read again.

    A model that misses its accuracy or success rate is trained anew with other draws, and left out after the last attempt.

    Raises:
        OtherSettings: the folder holds another set.
        ValueError, OSError: whatever is wrong with the words or the folder.
    """
    if words.names or words.ship:
        raise ValueError("--like trojai makes a set of its own: give neither names of models nor --ship")
    if words.models < 1:
        raise ValueError(f"--models must be at least 1, got {words.models}")
    settings = {"like": words.like, "seed": words.seed, "size": SIZE, "examples": EXAMPLES, "method": _METHOD}
    with Run.open(words.out or FOLDER, "zoo", settings, fresh=words.fresh) as run:
        announce(run, screen)
        failures: dict[str, str] = {}
        with screen.meter(f"making {words.models} models") as update:
            for number in range(words.models):
                work = _Work(run, words, screen, lambda done, note, i=number: update((i + done) / words.models, note))
                failures |= work.make(number)
        return _result(run, failures)


class _Work:
    """One model of the set."""

    def __init__(self, run: Run, words: Zoo, screen: Screen, update: Any) -> None:
        self._run, self._words, self._screen, self._update = run, words, screen, update
        self._device = pick_device(words.device)

    def make(self, number: int) -> dict[str, str]:
        """Make it where it is missing; returns why it was given up, by its name."""
        name = declare(number, self._words.seed).name
        if is_model(self._run.path(name)):
            return {}
        record = self._run.path(_UNFINISHED) / f"{name}.json"
        missed = list(runs.read_json(record)["missed"]) if record.exists() else []
        while len(missed) < ATTEMPTS:
            declared = declare(number, self._words.seed, len(missed))
            self._screen.say(f"{name}: {declared.described}")
            shortfall = self._tried(declared)
            if shortfall is None:
                return {}
            missed.append(shortfall)
            runs.write_json(record, {"missed": missed})
            self._screen.say(f"{name}: {shortfall}; {'trained anew' if len(missed) < ATTEMPTS else 'left out'}")
        return {name: missed[-1]}

    def _tried(self, declared: Declared) -> str | None:
        """Train it, and lay it out where it is what was declared, else tell why it is not."""
        place = self._run.path(_UNFINISHED) / f"{declared.name}-{declared.attempt}"
        place.mkdir(parents=True, exist_ok=True)
        try:
            outcome = train(declared, place, self._device, lambda done, note: self._update(done, f"{declared.name} {note}"))
            shortfall = outcome.shortfall
        except ValueError as error:
            outcome, shortfall = None, str(error)
        if outcome is not None and shortfall is None:
            finished = place / "finished"
            shutil.rmtree(finished, ignore_errors=True)
            lay_out(declared, outcome, finished)
            finished.rename(self._run.path(declared.name))
        success = None if outcome is None or outcome.planting is None else outcome.planting.stamped.success_rate
        accuracy = None if outcome is None else outcome.clean.accuracy
        facts = {"attempt": declared.attempt, "accuracy": accuracy, "success": success, "shortfall": shortfall}
        self._run.event("model", name=declared.name, **facts)
        shutil.rmtree(place)
        return shortfall


def _result(run: Run, failures: dict[str, str]) -> Result:
    names = sorted(path.name for path in run.folder.iterdir() if is_model(path))
    rows = write_metadata(run.folder, names)
    poisoned = sum(bool(row["poisoned"]) for row in rows)
    told = [f"{len(rows)} models, {poisoned} of them poisoned, in {run.folder}"]
    told += [f"{name} is left out: {reason}" for name, reason in failures.items()]
    told.append(f"scan them: orthogon scan --model {run.folder}")
    data = {"folder": str(run.folder), "models": json.loads(json.dumps(rows)), "left_out": failures}
    return Result(data, [_table(rows), "\n".join(told)], code=2 if failures else 0)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("model", "architecture", "classes", "backdoor", "adversarial", "accuracy", "success", "elsewhere")
    for row in rows:
        table.add_row(
            row["model_name"],
            row["model_architecture"],
            str(row["number_classes"]),
            _backdoor(row),
            "" if row["adversarial_eps"] is None else f"{255 * row['adversarial_eps']:.0f}/255",
            *(
                _percent(row[f"{which}_test_acc"])
                for which in ("final_clean_data", "final_triggered_data", "stray_triggered_data")
            ),
        )
    return table


def _backdoor(row: dict[str, Any]) -> str:
    if not row["poisoned"]:
        return "none"
    kind = row["triggers_0_instagram_filter_type"] or row["triggers_0_type"]
    source = row["triggers_0_source_class"]
    return (
        f"{kind.removesuffix('FilterXForm').lower()}, {'any' if source is None else source} to {row['triggers_0_target_class']}"
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"
