"""The work of `orthogon trojai`."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from orthogon import runs
from orthogon.cli.scan import Scan
from orthogon.cli.scanning import scan_and_write, settings_to_keep
from orthogon.cli.screen import Result, Screen
from orthogon.cli.trojai import TrojAI
from orthogon.cli.words import ImageWords, ModelWords
from orthogon.data.trojai import examples_digest
from orthogon.naming import named, settings_of
from orthogon.scanning import SCANNERS

_UNSURE = 0.5
_SURE = 0.99
"""The highest number, its complement the lowest: TrojAI's cross entropy punishes a wrong 1 without end."""
_WITHIN = f"kept within {1 - _SURE:.2f} and {_SURE}"
_STEEPNESS = 4.0


def scan_and_tell(words: TrojAI, screen: Screen) -> Result:
    """Scan, and write one number into the result file.

    Raises:
        ValueError, OSError: whatever is wrong with the words, the model, the images or the folders; nothing is written then.
    """
    scan = Scan(
        ImageWords(str(words.examples_dirpath)),
        scanner=cast(Any, words.scanner),  # a name that there is not is told with those that there are
        settings=words.settings,
        seed=words.seed,
        device=words.device,
        force=True,  # an answer is asked for, whatever the accuracy
    )
    scanned = scan_and_write(replace(scan, out=_folder(words, scan)), str(words.model_filepath), screen)
    number, meaning = answer(scanned.data)
    screen.say(meaning)
    words.result_filepath.parent.mkdir(parents=True, exist_ok=True)
    runs.write_text(words.result_filepath, f"{number:.6f}\n")
    data = {**scanned.data, "number": number, "meaning": meaning, "result": str(words.result_filepath)}
    return Result(data, [*scanned.shown, f"{number:.6f} in {words.result_filepath}"])


def _folder(words: TrojAI, scan: Scan) -> Path:
    """In the scratch folder, a folder for this scan alone: another model, setting, seed or picture has another one."""
    model, scanner = ModelWords(str(words.model_filepath)), named(SCANNERS, "scanner", words.scanner, words.settings)
    files = {"model": runs.digest(words.model_filepath), "examples": examples_digest(words.examples_dirpath)}
    key = runs.settings_digest({**settings_to_keep(scan, model, scanner), **settings_of(scanner), "files": files})
    return words.scratch_dirpath / f"{words.scanner}-{key}"


def answer(record: dict[str, Any]) -> tuple[float, str]:
    """The number for a verdict, 0 to 1, and what it means."""
    if record["probability"] is not None:
        return _bounded(float(record["probability"])), f"the number is the calibrated probability, {_WITHIN}"
    if record["score"] is None:
        return _UNSURE, f"the number is {_UNSURE}, since the scan gave no score: {'; '.join(record['reasons'])}"
    score, threshold = float(record["score"]), float(record["threshold"])
    return monotone(score, threshold), (
        "take care: the number is no probability, since nothing calibrates this scanner; it grows with the score, "
        f"1 / (1 + exp(-{_STEEPNESS:g}·(score - {threshold:g})/{abs(threshold) or 1:g})), {_WITHIN}"
    )


def monotone(score: float, threshold: float) -> float:
    """From a score to a number that never falls as the score grows, 0.5 at the threshold, from 0.01 to 0.99."""
    distance = (score - threshold) / (abs(threshold) or 1.0)
    exponent = max(-50.0, min(50.0, _STEEPNESS * distance))
    return _bounded(1 / (1 + math.exp(-exponent)))


def _bounded(number: float) -> float:
    return max(1 - _SURE, min(_SURE, number))
