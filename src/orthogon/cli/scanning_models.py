"""Which models the words of `orthogon scan` name, and what lies there besides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orthogon.models.checkpoint import KINDS

_TOLD = 6
"""Of what is passed over, how many are named in a message."""


@dataclass(frozen=True)
class Named:
    """The models to scan."""

    models: tuple[str, ...]
    """As `load_classifier` takes them."""
    passed: tuple[str, ...] = ()
    """Files and folders that no model was seen in."""
    alone: bool = False
    """Whether one model was meant: it was named itself, or by a folder that is its own."""

    def told(self) -> str:
        """What was passed over, in a message; empty where nothing was."""
        if not self.passed:
            return ""
        more = f" and {len(self.passed) - _TOLD} more" if len(self.passed) > _TOLD else ""
        return f"not scanned: {', '.join(self.passed[:_TOLD])}{more}"


def named_models(words: Sequence[str]) -> Named:
    """The models of all words, each once.

    One word has to name a model, or a folder that has some. Of several, as a shell makes them of FOLDER/*, those without a model
    are passed over; what cannot be read stands for itself, and its scan will say so.

    Raises:
        ValueError, OSError: the only word is a folder without a model, or one that cannot be read.
    """
    if len(words) == 1:
        return _named(words[0])
    found = [_among_many(word) for word in words]
    models = {Path(model): model for one in found for model in one.models}
    passed = {Path(path): path for one in found for path in one.passed}
    return Named(tuple(models.values()), tuple(text for path, text in passed.items() if path not in models))


def _named(word: str) -> Named:
    """A model's own name; of a folder its model.*, or else its checkpoints and the model.* of its folders."""
    folder = Path(word)
    if not folder.is_dir():
        return Named((word,), alone=True)
    every = _checkpoints(folder)
    own = [path for path in every if path.parent == folder]
    runs = [path for path in own if _is_model(path)]
    models = runs or [*own, *(path for path in every if path.parent.parent == folder and _is_model(path))]
    if not models:
        raise ValueError(f"{word} has no checkpoint ({', '.join(KINDS)}), nor a folder with one that is named model")
    passed = tuple(str(path) for path in every if path not in models)
    return Named(tuple(map(str, models)), passed, alone=len(runs) == 1)


def _among_many(word: str) -> Named:
    path = Path(word)
    try:
        if path.is_file() and path.suffix.lower() not in KINDS:
            return Named((), () if path.suffix == ".json" else (word,))  # a card, most likely
        return _named(word)
    except ValueError:
        return Named((), (word,))
    except OSError:
        return Named((word,))


def _checkpoints(folder: Path) -> list[Path]:
    """All in a folder and those within it, in order; of one that cannot be read, a model that cannot be read either.

    Raises:
        OSError: the folder itself cannot be read.
    """
    found = [path for path in folder.iterdir() if path.suffix.lower() in KINDS and path.is_file()]
    unread: list[OSError] = []
    for place in (path for path in folder.iterdir() if path.is_dir()):
        inside = (Path(top, name) for top, _, names in os.walk(place, onerror=unread.append) for name in names)
        found += [path for path in inside if path.suffix.lower() in KINDS]
    found += [Path(str(error.filename)) / f"model{KINDS[0]}" for error in unread]
    return sorted(found)


def _is_model(path: Path) -> bool:
    """Whether a file is named model, as a run's is, whose other files are none."""
    return path.name.partition(".")[0] == "model"
