"""The work of `orthogon measure`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from orthogon import report, runs
from orthogon.classifier import Classifier
from orthogon.cli.measure import Measure
from orthogon.cli.screen import Result, Screen
from orthogon.cli.subject import announce, generator, model_digest, model_facts, open_subject, pick_device, read_as
from orthogon.cli.words import NearChance, default_folder, stem_of, words_of
from orthogon.distance import Measurement, Progress, measure
from orthogon.evaluate import Evaluation, accuracy, near_chance
from orthogon.images import LabelledImages
from orthogon.methods import PervasiveSettings
from orthogon.pairs import Inversion, Pair, choose_pairs
from orthogon.protocols import PROTOCOLS, named
from orthogon.results import read_inversion, write_inversion, write_triggers
from orthogon.runs import Run
from orthogon.triggers import TriggerFamily, family_of

CHECKED = 2000
"""About so many images check the clean accuracy first: they tell it within 2 points, fast on a slow machine too."""


def measure_and_write(words: Measure, screen: Screen) -> Result:
    """Check the model, measure what no former process has, write distances.json, triggers.safetensors, report.html.

    Raises:
        NearChance: the clean accuracy is near chance, and no --force.
        OtherSettings: the folder holds another run.
        ValueError, OSError: whatever else is wrong with the words, the model, the data or the folder.
    """
    screen.say("loading the model and the images")
    classifier, images = open_subject(words.model, words.images, words.seed)
    screen.say(f"images: {images.source}")
    pairs = choose_pairs(words.pairs, len(classifier.classes), generator(words.seed))
    own = {name: getattr(words, name) for name in ("pairs", "family", "protocol", "samples", "draws", "seed")}
    family = chosen_family(words.family, words.pervasive)
    settings = words_of(words.model, words.images) | own | pervasive_words(words.pervasive, words.family)
    search = search_facts(words.protocol, words.samples, words.draws, words.family)
    if networks := told_networks(family.described()):
        screen.say(networks)
    hashes = {"model": model_digest(words.model, classifier), "data": images.digest()}
    inputs = {**hashes, **read_as(classifier), "search": search, **family_facts(family)}
    folder = words.out or default_folder("measure", stem_of(words.model.model), {**settings, "inputs": inputs})
    classifier.to(pick_device(words.device))
    with Run.open(folder, "measure", settings, inputs=inputs, fresh=words.fresh) as run:
        announce(run, screen)
        clean = check_accuracy(run, classifier, images, words.seed, words.force, screen)
        measurement, seconds = measure_pairs(
            *(run, "pairs", "distances", screen, classifier, images, pairs),
            family=family,
            protocol=words.protocol,
            samples=words.samples,
            draws=words.draws,
            seed=words.seed,
            memory=words.memory,
            device=words.device,
        )
        facts = {
            "settings": {**settings, "samples": search["samples"], "search": search["settings"]},
            "versions": runs.versions(),
            "hashes": hashes,
            "seconds": round(seconds, 1),
            "accuracy": clean.accuracy,
            "accuracy_images": clean.total,
            "model": model_facts(words.model, classifier),
            "data": images.source,
            **_planted(classifier),
        }
        return _write(run, measurement, facts, images, family)


def _planted(classifier: Classifier) -> dict[str, Any]:
    """The pair that the model's card says a backdoor was planted in, for the report alone; nothing where it tells of no pair."""
    attack = classifier.card.get("attack")
    if not (isinstance(attack, dict) and attack.get("planted") is True and isinstance(attack.get("threat"), dict)):
        return {}
    pair = {role: attack["threat"].get(role) for role in ("victim", "target")}
    known = all(isinstance(c, int) and 0 <= c < len(classifier.classes) for c in pair.values())
    return {"planted": {"attack": attack.get("name"), **pair}} if known else {}


def search_facts(protocol: str, samples: int | None, draws: int = 1, family: str = "patch") -> dict[str, Any]:
    """What the protocol's name stands for in this version, with triggers of this family.

    Raises:
        ValueError: --samples or --draws is below 1.
    """
    for name, asked in (("samples", samples), ("draws", draws)):
        if asked is not None and asked < 1:
            raise ValueError(f"--{name} must be at least 1, got {asked}")
    known = named(protocol, family)
    return asdict(known if samples is None else replace(known, samples=samples))


def chosen_family(name: str, pervasive: PervasiveSettings, *others: str) -> TriggerFamily:
    """The family that a command measures with.

    Args:
        name: of the family.
        pervasive: the settings of the pervasive one.
        others: names of families that the command works with besides.

    Raises:
        ValueError: there are words for pervasive triggers, and no such family.
    """
    usual = PervasiveSettings()
    given = [key for key, value in vars(pervasive).items() if value != getattr(usual, key)]
    if given and "pervasive" not in (name, *others):
        listed = ", ".join(f"--{key.replace('_', '-')}" for key in given)
        raise ValueError(f"{listed}: pervasive triggers alone have such a thing, and these are of the family {name}")
    return family_of(name, pervasive)


def pervasive_words(settings: PervasiveSettings, *families: str) -> dict[str, Any]:
    """The words for pervasive triggers, for settings.json; none where no family is theirs."""
    return {"pervasive": asdict(settings)} if "pervasive" in families else {}


def family_facts(family: TriggerFamily) -> dict[str, Any]:
    """What the family's sizes hang on beside its name, where there is such a thing: a run goes on with the same alone.

    Raises:
        ValueError: an encoder or a decoder cannot be opened.
    """
    described = family.described()
    return {"measured_by": described} if described else {}


def told_networks(described: Mapping[str, Any]) -> str:
    """Which encoder and decoder a family works with, as it has `described` itself, in a line; empty where it has none."""
    if "encoder" not in described:
        return ""
    encoder, decoder = described["encoder"], described["decoder"]
    side = f", resized to {encoder['resolution']}" if encoder["resolution"] else ""
    own = " (small, trained by this project; ImageNet's VGG needs --encoder)" if encoder["name"] == "embedded" else ""
    return (
        f"encoder: {encoder['name']}{own}, {encoder['layer']}, pixels {encoder['scale']}{side}; decoder: {decoder['upsampling']}"
    )


def check_accuracy(
    run: Run, classifier: Classifier, images: LabelledImages, seed: int, force: bool, screen: Screen
) -> Evaluation:
    """Clean accuracy on a sample, kept in accuracy.json, and a refusal where it is near chance, unless forced.

    Raises:
        NearChance: it is, and nothing was forced.
    """
    path = run.path("accuracy.json")
    if path.exists():
        clean = _evaluation(runs.read_json(path))
    else:
        clean = _accuracy(classifier, images, seed, screen)
        runs.write_json(path, clean.to_json())
    low, high = clean.interval
    screen.say(f"clean accuracy {clean.accuracy:.2%} on {clean.total:,} images (95 %: {low:.1%} to {high:.1%})")
    present = [name for name, count in zip(clean.classes, clean.counts, strict=True) if count]
    if len(present) == 1:
        screen.say(f"take care: all images are of the class {present[0]}, and a model that always says so has 100 %, too")
    reason = near_chance(clean)
    if reason is not None and not force:
        raise NearChance(f"{reason}; put it right, or go on all the same with --force")
    if reason is not None:
        screen.say(f"going on, as --force says, although {reason}")
    return clean


def _accuracy(classifier: Classifier, images: LabelledImages, seed: int, screen: Screen) -> Evaluation:
    if len(images) > CHECKED:
        each = math.ceil(CHECKED / sum(count > 0 for count in images.counts()))
        images = images.subset(f"per-class:{each}", generator(seed))
    with screen.meter("clean accuracy") as update:
        return accuracy(classifier, images, on_progress=lambda done: update(done, ""))


def _evaluation(record: dict[str, Any]) -> Evaluation:
    """What `Evaluation.to_json` has told."""
    lines = record["per_class"]
    names, correct, counts = (tuple(line[key] for line in lines) for key in ("class", "correct", "total"))
    return Evaluation(names, correct, counts, record["not_finite"])


def measure_pairs(
    run: Run,
    name: str,
    title: str,
    screen: Screen,
    classifier: Classifier,
    images: LabelledImages,
    pairs: list[Pair],
    *,
    family: TriggerFamily,
    protocol: str,
    samples: int | None,
    seed: int,
    device: str,
    draws: int = 1,
    memory: float | None = None,
) -> tuple[Measurement, float]:
    """A measurement, and the seconds that it took in all processes that worked on it.

    Finished pairs stand in the run's folder `name`, and are not measured again; `title` is what the progress bar says.
    """
    if short := _require_samples(images, pairs, search_facts(protocol, samples, draws, family.name)["samples"]):
        screen.say(short)
    folder = run.path(name)
    finished = _read_finished(folder, pairs)
    if finished:
        screen.say(f"{title}: {len(finished)} of {len(pairs)} pairs are finished already")
    told = (event for event in runs.read_events(run.folder) if event.get("part", "pairs") == name)
    earlier = max((event.get("seconds", 0.0) for event in told), default=0.0)
    began = time.monotonic()

    def keep(inversion: Inversion) -> None:
        write_inversion(_pair_file(folder, inversion.pair), inversion)
        run.event("pair", part=name, **_told(inversion), seconds=round(earlier + time.monotonic() - began, 3))

    with screen.meter(title) as update:
        measurement = measure(
            classifier,
            images,
            pairs=pairs,
            family=family,
            protocol=protocol,
            seed=seed,
            samples=samples,
            draws=draws,
            memory=memory,
            device=str(pick_device(device)),
            finished=finished,
            on_finished=keep,
            on_progress=_shown_by(update),
        )
    return measurement, earlier + (time.monotonic() - began if len(finished) < len(pairs) else 0.0)


def _require_samples(images: LabelledImages, pairs: list[Pair], samples: int) -> str:
    """Refuse where no pair has images enough; which classes have too few, in words, where only some have.

    Raises:
        ValueError: naming what there is and what would be right.
    """
    counts, whole = images.counts(), len(images)
    most = max(whole - counts[p.target] if p.victim is None else counts[p.victim] for p in pairs)
    if most < samples:
        raise ValueError(
            f"every victim class has fewer than {samples} images (the largest has {most}): give more images, a protocol that "
            f"needs fewer (screen: {PROTOCOLS['screen'].samples}), or --samples {max(most, 1)}"
        )
    short = [
        f"{images.classes[c]} {counts[c]}"
        for c in sorted({p.victim for p in pairs if p.victim is not None})
        if counts[c] < samples
    ]
    listed = ", ".join(short[:10]) + (", …" if len(short) > 10 else "")
    return f"fewer than {samples} images, so their pairs as victims are left out: {listed}" if short else ""


def _write(run: Run, measurement: Measurement, facts: dict[str, Any], images: LabelledImages, family: TriggerFamily) -> Result:
    matrix = replace(measurement.matrix, facts={**measurement.matrix.facts, **facts})
    data = matrix.to_json()
    write_triggers(run.path("triggers.safetensors"), measurement, images, family)
    runs.write_json(run.path("distances.json"), data)
    page = report.write_report(run.folder)
    run.event("finished", seconds=facts["seconds"])
    measured = any(outcome for row in matrix.outcomes for outcome in row)
    shown: list[Any] = [report.distance_table(matrix), report.pairs_table(matrix)] if measured else []
    if matrix.facts.get("universal"):
        shown.append(report.universal_table(matrix))
    mean = f"mean distance {matrix.mean():.2f} ({matrix.unit})\n" if bool(matrix.values.isfinite().any()) else ""
    shown.append(f"{mean}report: {page}")
    return Result({**data, "run": str(run.folder), "report": str(page)}, shown)


def _pair_file(folder: Path, pair: Pair) -> Path:
    return folder / f"{'any' if pair.victim is None else pair.victim}-{pair.target}.safetensors"


def _read_finished(folder: Path, pairs: list[Pair]) -> dict[Pair, Inversion]:
    """What former processes have finished; a file that cannot be read is measured again."""
    finished = {}
    for pair in pairs:
        path = _pair_file(folder, pair)
        try:
            if path.exists():
                finished[pair] = read_inversion(path)
        except ValueError:
            path.unlink()
    return finished


def _told(inversion: Inversion) -> dict[str, Any]:
    """An inversion's numbers for the events; null where they are not finite."""
    numbers = {"size": inversion.size, "asr": inversion.asr, "spread": inversion.spread}
    plain = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    pair = {"victim": inversion.pair.victim, "target": inversion.pair.target}
    return {**pair, "outcome": str(inversion.outcome), **plain}


def _shown_by(update: Callable[[float, str], None]) -> Callable[[Progress], None]:
    def progressed(progress: Progress) -> None:
        update(progress.done, f"{progress.pairs_done} of {progress.pairs} pairs")

    return progressed
