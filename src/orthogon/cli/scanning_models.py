"""Which models the words of `orthogon scan` name, and what lies there besides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    models = dict.fromkeys(model for one in found for model in one.models)
    passed = dict.fromkeys(path for one in found for path in one.passed)
    return Named(tuple(models), tuple(path for path in passed if path not in models))


def _named(word: str) -> Named:
    """A model's own name; of a folder its model.*, or else its checkpoints and the model.* of its folders."""
    folder = Path(word)
    if not folder.is_dir():
        return Named((word,), alone=True)
    entries = sorted(folder.iterdir())
    files = [path for path in entries if _is_checkpoint(path)]
    if own := _models_among(files):
        return Named(_words(own), _words(path for path in files if path not in own), alone=len(own) == 1)
    below = [path for place in entries if place.is_dir() for path in _checkpoints_in(place)]
    models = [*files, *_models_among(below)]
    if not models:
        raise ValueError(f"{word} has no checkpoint ({', '.join(KINDS)}), nor a folder with one that is named model")
    return Named(_words(models), _words(path for path in below if path not in models))


def _among_many(word: str) -> Named:
    path = Path(word)
    try:
        if path.is_file() and not _is_checkpoint(path):
            return Named((), () if path.suffix == ".json" else (word,))  # a card, most likely
        return _named(word)
    except ValueError:
        return Named((), (word,))
    except OSError:
        return Named((word,))


def _checkpoints_in(folder: Path) -> list[Path]:
    """Of a folder that cannot be read, a model that cannot be read either, whose scan will say so."""
    try:
        return [path for path in sorted(folder.iterdir()) if _is_checkpoint(path)]
    except OSError:
        return [folder / f"model{KINDS[0]}"]


def _is_checkpoint(path: Path) -> bool:
    return path.suffix.lower() in KINDS and path.is_file()


def _models_among(files: Iterable[Path]) -> list[Path]:
    """Those that are named model, as a run's is, whose other files are none."""
    return [path for path in files if path.stem == "model"]


def _words(paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(map(str, paths))
