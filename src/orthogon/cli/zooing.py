"""The work of `orthogon zoo list`, `build` and `fetch`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from orthogon import runs
from orthogon.cli.poison import Poison
from orthogon.cli.poisoning import poison_and_write
from orthogon.cli.screen import Result, Screen
from orthogon.cli.train import Train
from orthogon.cli.training import train_and_write
from orthogon.cli.words import ImageWords
from orthogon.cli.zoo import Zoo
from orthogon.planting import in_words
from orthogon.report.planted import zoo_table
from orthogon.report.words import without_folders
from orthogon.zoo import ENTRIES, Entry, absence_of, chosen, default_shelf, fetch, ship, standing, with_needed
from orthogon.zoo.shelf import CARD_FILE, MODEL_FILE, SUMS_FILE, reason_to_keep_back

RUNS = Path("runs/zoo")
FETCHED = Path("models")


def listed(words: Zoo) -> Result:
    """What is in the zoo, and what of it is there.

    Raises:
        ValueError: a name that the zoo does not have, or a card that is not one.
    """
    table = _table(chosen(words.names), words, {})
    absence = absence_of(words.shelf or default_shelf())
    return table if absence is None else replace(table, shown=[*table.shown, absence])


def fetched(words: Zoo) -> Result:
    """Copies of shipped models.

    Raises:
        ValueError: no name, one that the zoo does not have, a model that is not shipped, or a file that is not what was shipped.
        OSError: a file cannot be read or written.
    """
    if not words.names:
        raise ValueError("name the models to fetch; `orthogon zoo list` lists them")
    shelf, to = words.shelf or default_shelf(), words.out or FETCHED
    copies = {entry.name: fetch(entry, shelf, to) for entry in chosen(words.names)}
    data = {name: [str(path) for path in paths] for name, paths in copies.items()}
    told = [f"{name}: {', '.join(path.name for path in paths)} in {paths[0].parent}" for name, paths in copies.items()]
    return Result(data, ["\n".join([*told, f"every file has the SHA-256 that {shelf / SUMS_FILE} says"])])


def build(words: Zoo, screen: Screen) -> Result:
    """Build models, those first that others are built from; what is finished is read again.

    A model that fails, and one whose backdoor did not take, makes the exit code that of wrong input, after the others.

    Raises:
        ValueError: a name that the zoo does not have, or no --data where it is needed.
    """
    if words.like is not None:
        from orthogon.cli.zooing_trojai import build_set

        return build_set(words, screen)
    entries = with_needed(chosen(words.names))
    for entry in entries:
        _data(entry, words)
    failures: dict[str, str] = {}
    short: list[str] = []
    for number, entry in enumerate(entries, 1):
        screen.say(f"{number} of {len(entries)}: {entry.name}")
        try:
            _build(entry, words, screen)
            if (reason := _shipped(entry, words)) is not None:
                short.append(entry.name)
                screen.say(f"{entry.name}: {reason}")
        except (ValueError, OSError) as error:
            failures[entry.name] = str(error)
            screen.say(f"{entry.name} failed: {error}")
    if missed := [*failures, *short]:
        screen.say(f"{len(missed)} of {len(entries)} models are not what the zoo declares: {', '.join(missed)}")
    return replace(_table(entries, words, failures), code=2 if missed else 0)


def _build(entry: Entry, words: Zoo, screen: Screen) -> None:
    folder = _runs(words) / entry.name
    images = ImageWords(_data(entry, words))
    if entry.attack is None:
        train = Train(images, entry.part.arch, entry.recipe, seed=entry.seed, out=folder, device=words.device, fresh=words.fresh)
        train_and_write(train, screen)
        return
    if entry.needs_pictures and words.pictures is None:
        raise ValueError(f"{entry.attack.name} learns the style of pictures: give --pictures D")
    aim = entry.aim
    assert aim is not None  # only a clean model has none
    poison = Poison(
        entry.attack.name,
        images,
        arch=entry.part.arch,
        model=_model(entry.start, words),
        target=aim.target,
        victim="any" if aim.victim is None else str(aim.victim),
        rate=aim.rate,
        cover=aim.cover,
        labels="clean" if aim.clean_label else "dirty",
        settings=in_words(entry.attack),
        surrogate=_model(entry.surrogate, words),
        pictures=words.pictures if entry.needs_pictures else None,
        detoxify=entry.detoxify,
        min_success=entry.least_success,
        recipe=entry.recipe,
        seed=entry.seed,
        out=folder,
        device=words.device,
        fresh=words.fresh,
    )
    poison_and_write(poison, screen)


def _shipped(entry: Entry, words: Zoo) -> str | None:
    """Why a built model is no poisoned one; None where it is what it should be, and on the shelf if that was asked for."""
    folder = _runs(words) / entry.name
    reason = reason_to_keep_back(folder)
    if reason is None and words.ship:
        card = without_folders(runs.read_json(folder / CARD_FILE))
        ship(entry, folder, words.shelf or default_shelf(), card)
    return reason


def _data(entry: Entry, words: Zoo) -> str:
    if entry.part.data is not None:
        return entry.part.data
    if words.data is None:
        raise ValueError(f"{entry.name} is built from {entry.part.wanted}: say where with --data D, or name other models")
    return words.data


def _model(name: str | None, words: Zoo) -> str | None:
    return None if name is None else str(_runs(words) / name / MODEL_FILE)


def _runs(words: Zoo) -> Path:
    return words.out or RUNS


def _table(entries: Iterable[Entry], words: Zoo, failures: dict[str, str]) -> Result:
    shelf = words.shelf or default_shelf()
    rows = [_row(entry, shelf, _runs(words), failures.get(entry.name)) for entry in entries]
    shipped, left = sum(row["state"] == "shipped" for row in rows), sum(row["accuracy"] is None for row in rows)
    told = f"{len(rows)} of the zoo's {len(ENTRIES)} models: {shipped} shipped in {shelf}, {left} not built"
    return Result({"models": rows, "shelf": str(shelf), "runs": str(_runs(words))}, [zoo_table(rows), told])


def _row(entry: Entry, shelf: Path, built: Path, failure: str | None) -> dict[str, Any]:
    aim = None if entry.aim is None else asdict(entry.aim)
    attack = None if entry.attack is None else entry.attack.name
    declared = {"name": entry.name, "part": entry.part.name, "attack": attack, "threat": aim, "seed": entry.seed}
    row = declared | asdict(standing(entry, shelf, built))
    return row if failure is None else row | {"state": f"failed: {failure}"}
