"""The work of `orthogon scan`: one model here; several are handed to `scanning_fleet`."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from orthogon import runs
from orthogon.classifier import Classifier
from orthogon.cli.measuring import check_accuracy
from orthogon.cli.scan import BACKDOORED, FAILED, INCONCLUSIVE, Scan
from orthogon.cli.scanning_inputs import calibration_facts
from orthogon.cli.scanning_models import named_models
from orthogon.cli.screen import Result, Screen
from orthogon.cli.subject import announce, generator, model_digest, model_facts, open_subject, pick_device, read_as
from orthogon.cli.words import ModelWords, default_folder, stem_of, words_of
from orthogon.data.trojai import examples_beside
from orthogon.evaluate import attack_success, in_bytes
from orthogon.images import LabelledImages
from orthogon.machine import device_of
from orthogon.models import load_classifier
from orthogon.naming import in_words, named, settings_of
from orthogon.pairs import Outcome
from orthogon.report import write_report
from orthogon.report.scanned_sarif import sarif
from orthogon.report.scanned_words import verdict_table
from orthogon.runs import Run
from orthogon.scanning import SCANNERS, Scanner, Suspect, scan, shipped
from orthogon.scanning.evidence import stamp_of
from orthogon.triggers import FAMILIES

RECORD = "scan.json"
CHILD = (
    "import sys; from orthogon.fleet.guard import die_with_parent; die_with_parent(); "
    "from orthogon.cli import main; sys.exit(main(sys.argv[1:]))"
)
"""What a process of its own runs, with the words of a command."""
CODES = {"clean": 0, "backdoored": BACKDOORED, "inconclusive": INCONCLUSIVE}
_SHOWN = 3
"""Images that each trigger is shown on."""


def scan_all(words: Scan, screen: Screen) -> Result:
    """A verdict on the model, or a table of verdicts on all of them.

    Raises:
        NearChance: the clean accuracy of the only model is near chance, and no --force.
        OtherSettings: the folder holds another run.
        ValueError, OSError: no model, a number out of range, or whatever is wrong with the only model, the data or the folder.
    """
    named(SCANNERS, "scanner", words.scanner, words.settings)  # wrong settings are told before any work
    for name, value, least in (("draws", words.draws, 1), ("jobs", words.jobs, 1), ("retries", words.retries, 0)):
        if value is not None and value < least:
            raise ValueError(f"--{name} must be at least {least}, got {value}")
    if words.timeout is not None and not (words.timeout > 0 and math.isfinite(words.timeout)):
        raise ValueError(f"--timeout must be above 0 seconds, got {words.timeout}")
    asked = (*words.models, *words.more)
    found = named_models(asked)
    alone = found.alone and words.ray is None
    if alone and words.timeout is not None:
        _in_a_process(words, asked[0], screen)
    if told := found.told():
        screen.say(told)
    if not found.models:
        raise ValueError("name a model, or more, with --model F; `orthogon scan list` tells the scanners")
    if alone:
        result = scan_and_write(words, found.models[0], screen)
        return result if words.sarif else replace(result, data=result.data | {"not_scanned": list(found.passed)})
    from orthogon.cli.scanning_fleet import scan_fleet

    return scan_fleet(words, found, screen)


def _in_a_process(words: Scan, model: str, screen: Screen) -> NoReturn:
    """The same command without the time limit, in a process that can be ended: what hangs in a stranger's file hears nothing.

    Raises:
        SystemExit: with that command's exit code, or as a failure where the time is up.
    """
    said = [*words_of_one(words, model), *(["--out", str(words.out)] if words.out else [])]
    said += [word for word, given in (("--fresh", words.fresh), ("--sarif", words.sarif), ("--json", words.json)) if given]
    child = subprocess.Popen([sys.executable, "-P", "-c", CHILD, *said], stdin=subprocess.PIPE)
    try:
        code = child.wait(words.timeout)
    except subprocess.TimeoutExpired:
        screen.say(f"orthogon scan: {model}: not finished after {words.timeout:g} seconds")
        code = FAILED
    finally:
        child.kill()
        child.wait()
    raise SystemExit(code)


def words_of_one(words: Scan, model: str) -> list[str]:
    """The words of a command that scans one of the models alone, and bounds nothing."""
    images = words.images
    said = ["scan", "--model", model, "--scanner", words.scanner]
    said += ["--seed", str(words.seed), "--draws", str(words.draws), "--device", words.device]
    given = {"arch": words.arch, "normalization": words.normalization, "data": images.data or None, "split": images.split}
    given |= {"subset": images.subset, "image-size": images.image_size}
    said += [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
    said += [word for setting in words.settings for word in ("--set", setting)]
    return [*said, "--force"] if words.force else said


def listed() -> Result:
    """Every scanner with its source and its settings."""
    data: dict[str, Any] = {}
    told = []
    for name, kind in SCANNERS.items():
        scanner = kind()
        settings = settings_of(scanner)
        calibrated = shipped(name, settings) is not None
        facts = {"source": kind.source, "settings": settings, "needs_images": kind.needs_images, "calibrated": calibrated}
        data[name] = facts | {"rule": scanner.rule}
        about = (kind.__doc__ or "").split("\n", 1)[0]
        shown = ", ".join(f"{key}={value}" for key, value in settings.items()) or "none"
        probability = "calibrated" if calibrated else "not calibrated: no probability"
        told.append(f"{name}: {about}\n  {kind.source}\n  score: {scanner.rule}\n  {probability}\n  settings: {shown}\n")
    return Result(data, told)


def scan_and_write(words: Scan, name: str, screen: Screen) -> Result:
    """Scan one model and write scan.json, suspects.safetensors and report.html; a finished scan is read again.

    Raises:
        NearChance: the clean accuracy is near chance, and no --force.
        OtherSettings: the folder holds another run.
        ValueError, OSError: whatever else is wrong with the words, the model, the data or the folder.
    """
    scanner = named(SCANNERS, "scanner", words.scanner, words.settings)
    model = ModelWords(name, words.arch, words.normalization)
    screen.say("loading the model and the images" if words.images.data else "loading the model")
    classifier, images = _opened(words, model, scanner)
    settings = settings_to_keep(words, model, scanner)
    hashes = {"model": model_digest(model, classifier), "data": None if images is None else images.digest()}
    inputs = {**hashes, **read_as(classifier), "scanner": settings_of(scanner), "calibrations": calibration_facts(scanner)}
    folder = words.out or default_folder("scan", f"{words.scanner}-{short_name(name)}", {**settings, "inputs": inputs})
    classifier.to(pick_device(words.device))
    with Run.open(folder, "scan", settings, inputs=inputs, fresh=words.fresh) as run:
        announce(run, screen)
        if run.path(RECORD).exists():
            screen.say("this scan is finished already; --fresh scans anew")
        else:
            facts = {"model": model_facts(model, classifier), "hashes": hashes}
            _scanned(words, run, screen, scanner, classifier, images, facts)
        return _result(words, run)


def settings_to_keep(words: Scan, model: ModelWords, scanner: Scanner) -> dict[str, Any]:
    """All that the verdict on one model depends on."""
    own = {"scanner": scanner.name, "set": list(in_words(scanner)), "draws": words.draws, "seed": words.seed}
    return words_of(model, words.images) | own


def short_name(model: str) -> str:
    """A model's name in a few letters: of a model.pt in a folder of its own, the folder's."""
    stem = stem_of(model)
    return (Path(model).parent.name or stem) if stem == "model" else stem


def _opened(words: Scan, model: ModelWords, scanner: Scanner) -> tuple[Classifier, LabelledImages | None]:
    own = None if words.images.data else examples_beside(Path(model.model))
    if words.images.data or own is not None:
        return open_subject(model, replace(words.images, data=words.images.data or str(own)), words.seed)
    if scanner.needs_images:
        raise ValueError(f"the scanner {scanner.name} has to see clean images: give --data D")
    shape = words.images.shape()
    return load_classifier(model.model, arch=model.arch, normalization=model.normalization, image_shape=shape), None


def _scanned(
    words: Scan,
    run: Run,
    screen: Screen,
    scanner: Scanner,
    classifier: Classifier,
    images: LabelledImages | None,
    facts: dict[str, Any],
) -> None:
    """Scan, judge the triggers on all images, and write; scan.json last, since it says that all is done."""
    if images is not None:
        screen.say(f"images: {images.source}")
        clean = check_accuracy(run, classifier, images, words.seed, words.force, screen)
        facts |= {"accuracy": clean.accuracy, "accuracy_images": clean.total, "data": images.source}
    began = time.monotonic()
    with screen.meter(f"scanning with {scanner.name}") as update:
        verdict = scan(
            *(classifier, images, scanner, generator(words.seed)),
            draws=words.draws,
            on_progress=update,
            on_evidence=lambda evidence: run.event("draw", score=evidence.score if evidence.told else None),
        )
    record = verdict.to_json(classifier.classes)
    if images is not None:
        judge_suspects(record["pairs"], verdict.suspects, classifier, images)
        runs.write_tensors(run.path("suspects.safetensors"), pictures_of(verdict.suspects, images))
    record |= {"classes": list(classifier.classes), **facts, "versions": runs.versions()}
    runs.write_json(run.path(RECORD), record | {"seconds": round(time.monotonic() - began, 1)})


def judge_suspects(
    pairs: list[dict[str, Any]], suspects: tuple[Suspect, ...], classifier: Classifier, images: LabelledImages
) -> None:
    """How often each trigger works on all images, which are more than those that it was searched on; put into the pairs."""
    for told, suspect in zip(pairs, suspects, strict=True):
        found = suspect.inversion
        if found is None or suspect.family is None or not found.trigger or found.outcome is Outcome.NOT_FINITE:
            continue
        stamp = stamp_of(FAMILIES[suspect.family], found.trigger, device_of(classifier))
        seen = attack_success(classifier, images, stamp, suspect.pair.target, suspect.pair.victim)
        told["judged"] = {"success_rate": seen.success_rate, "images": seen.total, "interval_95": list(seen.success_interval)}


def pictures_of(suspects: tuple[Suspect, ...], images: LabelledImages) -> dict[str, Tensor]:
    """Of the i-th suspect with a trigger: "i.clean" and "i.stamped" (k, c, h, w) in uint8, and its tensors "i.trigger.NAME"."""
    tensors: dict[str, Tensor] = {}
    for i, suspect in enumerate(suspects):
        found, family = suspect.inversion, suspect.family
        if found is None or family is None or not found.trigger:
            continue
        fits = images.labels != suspect.pair.target if suspect.pair.victim is None else images.labels == suspect.pair.victim
        clean = images.pixels[_spread(fits.nonzero().flatten(), _SHOWN)]
        stamped = stamp_of(FAMILIES[family], found.trigger, torch.device("cpu"))(clean.float() / 255)
        tensors |= {f"{i}.clean": clean, f"{i}.stamped": in_bytes(stamped.nan_to_num())}
        tensors |= {f"{i}.trigger.{name}": value for name, value in found.trigger.items()}
    return tensors


def _spread(indices: Tensor, count: int) -> Tensor:
    """So many of them, from all over."""
    places = torch.linspace(0, len(indices) - 1, min(count, len(indices))).round().long()
    return indices[places]


def _result(words: Scan, run: Run) -> Result:
    record = runs.read_json(run.path(RECORD))
    page = write_report(run.folder)
    data = {key: value for key, value in record.items() if key != "draws"} | {"run": str(run.folder), "report": str(page)}
    code = CODES[record["verdict"]]
    if words.sarif:
        return Result(sarif([record]), code=code)
    return Result(data, [verdict_table(record), *record["reasons"], f"report: {page}"], code)
