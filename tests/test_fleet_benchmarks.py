"""What the benchmarks of fleets and of a scan's cost are made of."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from orthogon import load_classifier
from orthogon.bench.scanners import ScannerRecord, Truth, cell_of, facts_of
from orthogon.memory import out_of_memory
from orthogon.naming import settings_of
from orthogon.scanning import SCANNERS, Calibration, fit, shipped

MODEL = Path(__file__).parents[1] / "zoo/signs-clean/model.safetensors"
ENDLESS = {"nested-without-end.pt", "pipe-that-never-ends.pt"}
SLOW = {"unpacks-large.pt"}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Import one of the scripts, which are no package."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return import_module


def test_hostile_files_are_refused_and_run_nothing(load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that hang, or take long to write, are for the benchmark, whose processes have a time limit."""
    hostile = load("hostile_models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hostile, "WRITERS", {n: w for n, w in hostile.WRITERS.items() if n not in ENDLESS | SLOW})
    paths = hostile.write_all(tmp_path, MODEL)
    assert len(paths) == 17
    for path in paths:
        with pytest.raises((ValueError, OSError, RuntimeError, MemoryError)) as raised:
            load_classifier(str(path))
        assert isinstance(raised.value, ValueError | OSError) or out_of_memory(raised.value), path
        assert not (tmp_path / hostile.MARK).exists(), path


def test_the_payload_would_run_where_nobody_takes_care(load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the benchmark would show nothing."""
    import pickle

    hostile = load("hostile_models")
    monkeypatch.chdir(tmp_path)
    for name in ("runs-system.pt", "runs-eval.pt"):
        hostile.WRITERS[name](tmp_path / name, {})
        pickle.loads((tmp_path / name).read_bytes())
        assert (tmp_path / hostile.MARK).exists(), name
        (tmp_path / hostile.MARK).unlink()


def test_the_hook_would_run_where_nobody_takes_care(load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = load("hostile_models")
    monkeypatch.chdir(tmp_path)
    hostile.WRITERS["runs-hook.pt"](tmp_path / "runs-hook.pt", {})
    network = torch.load(tmp_path / "runs-hook.pt", weights_only=False)
    assert not (tmp_path / hostile.MARK).exists()
    with pytest.raises(TypeError):  # after it has done its work
        network(torch.zeros(1, 3, 20, 20))
    assert (tmp_path / hostile.MARK).exists()


def test_the_shadow_would_be_imported_where_nobody_takes_care(load, tmp_path: Path) -> None:
    hostile = load("hostile_models")
    hostile.write_shadow(tmp_path)
    for safe in ([], ["-P"]):
        (tmp_path / hostile.MARK).unlink(missing_ok=True)
        subprocess.run([sys.executable, *safe, "-c", "import random"], cwd=tmp_path, check=True)
        assert (tmp_path / hostile.MARK).exists() == (not safe)


def test_the_noise_is_the_same_each_time(load, tmp_path: Path) -> None:
    write = load("hostile_models").WRITERS["noise.pth"]
    for name in ("a", "b"):
        write(tmp_path / name, {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_there_are_twenty_bad_files(load) -> None:
    assert len(load("hostile_models").WRITERS) == 20


def test_the_exponent_is_that_of_a_power(load) -> None:
    exponent = load("scan_cost").exponent
    assert exponent([10, 43, 200], [3 * n**1.3 for n in (10, 43, 200)]) == pytest.approx(1.3)
    assert exponent([10, 100], [5.0, 500.0]) == pytest.approx(2)


def test_drawn_classes_can_be_told_apart(load, generator: torch.Generator) -> None:
    cost = load("scan_cost")
    images = cost.task(7, 5, 12, generator)
    assert images.pixels.shape == (35, 3, 12, 12)
    assert images.counts() == [5] * 7
    means = torch.stack([images.pixels[images.labels == c].float().mean(0) for c in range(7)])
    nearest = (images.pixels[:, None].float() - means).flatten(2).norm(dim=2).argmin(1)
    assert nearest.equal(images.labels)
    assert cost.network(7)(torch.rand(2, 3, 16, 16)).shape == (2, 7)


def test_a_bound_on_what_is_missed_is_that_of_clopper_and_pearson(load) -> None:
    bound = load("screening").upper_bound
    assert bound(0, 20) == pytest.approx(1 - 0.05 ** (1 / 20))
    assert bound(20, 20) == 1.0
    assert 0.05 < bound(1, 40) < bound(2, 40) < 1


def test_what_fewer_pairs_miss(load) -> None:
    every = {(0, 1): 4.0, (1, 0): 2.0, (2, 1): 1.0}
    told = load("screening").missed({(0, 1): 3.0, (1, 0): 2.0}, every, planted=(0, 1))
    assert told == {"screened": 2, "planted_missed": False, "nearest_missed": True}
    assert load("screening").missed({(2, 1): 1.0}, every, planted=(0, 1))["planted_missed"]


def test_the_square_turns_its_victim_and_all_pairs_are_screened_where_they_are_asked_for(load) -> None:
    screening = load("screening")
    classifier, (victim, target), judged = screening.poisoned_network(0, classes=4, per_class=40, size=16, square=3)
    assert victim != target
    assert judged["accuracy"] > 0.6
    assert judged["success"] > 0.6
    images = screening.signs(4, 16, 5, 1, "test")
    sizes, seconds = screening.scanned(classifier, images, 3, seed=0)
    assert sizes.keys() == {(a, b) for a in range(4) for b in range(4) if a != b}
    assert seconds > 0


def test_halves_share_no_model_and_have_both_kinds(load) -> None:
    models = [(f"m{i}", i % 3 > 0, float(i)) for i in range(11)]
    fitted, others = load("calibrate").halves(models)
    assert sorted([*fitted, *others]) == sorted(models)
    for half in (fitted, others):
        assert {bad for _, bad, _ in half} == {True, False}


def test_probabilities_are_judged_by_hand(load) -> None:
    curve = Calibration("nc", {}, 0.0, {"score": 1.0}, {"score": 0.0}, {"score": 1.0}, low=0.5, high=0.7)
    models = [("a", True, 2.0), ("b", True, 0.5), ("c", False, 0.5), ("d", False, -2.0)]
    told = load("calibrate").judged(curve, models)
    p = [1 / (1 + math.exp(-score)) for _, _, score in models]
    errors = [((1 - p[0]) ** 2 + (1 - p[1]) ** 2) / 2, (p[2] ** 2 + p[3] ** 2) / 2]
    assert told["brier"] == pytest.approx(sum(errors) / 2)
    assert told["auc"] == (2 + 1 + 0.5) / 4
    assert told["called"] == {"backdoored": [1, 1, 0], "clean": [0, 1, 1]}


def test_the_measured_models_are_of_both_kinds_and_strangers_are_left_out(load) -> None:
    models = load("calibrate").models_of("distance")
    names = [name for name, _, _ in models]
    assert names == sorted(set(names))
    assert {bad for _, bad, _ in models} == {True, False}
    assert not any(name.startswith("planted_") for name in names)


def test_scores_by_other_settings_are_refused(load, tmp_path: Path) -> None:
    stored = {**settings_of(SCANNERS["distance"]()), "samples": 7}
    told = {"distance": {"models": [], "settings": stored}, "nc": {"models": []}}
    (tmp_path / "scanners.json").write_text(json.dumps({"scanners": told}))
    with pytest.raises(SystemExit, match=r"by other settings \(samples: 7 -> 50\): scan the models again"):
        load("calibrate").models_of("distance", tmp_path / "scanners.json")
    with pytest.raises(SystemExit, match=r"scores of nc .* \(protocol: null -> "):
        load("calibrate").models_of("nc", tmp_path / "scanners.json")
    assert load("calibrate").models_of("mm-bd", tmp_path / "scanners.json") == []


def bench_run(folder: Path, scores: dict[str, float], samples: int = 50) -> Path:
    """A run folder of `orthogon bench scanners`, whose models named poisoned-… have a badnets attack on class 1."""
    row = {"row": "distance", "label": "", "source": "", "rule": "", "threshold": 2.5, "settings": {"samples": samples}}
    models = []
    for name in scores:
        truth = Truth("badnets", "patch", True, 1) if "poisoned" in name else Truth()
        models.append({"model": name, "path": name, "inputs": {"model": name}, "truth": facts_of(truth)})
    bench = ScannerRecord(folder / "scanner-bench.json", [row], models)
    for name, score in scores.items():
        (folder / name).mkdir(parents=True)
        quick = [[None, 0, 30.0], [None, 1, 4.0], [1, 0, 20.0], [2, 0, 40.0], [0, 1, 3.0]]
        facts = {"samples": samples, "patch": {"quick": quick}}
        first = {"victim": None, "target": 1, "family": "patch"}
        draw = {"features": {"patch.target": score}, "suspects": [first], "doubts": [], "facts": facts}
        scan = {"verdict": "clean", "score": score, "seconds": 90.0, "draws": [draw]}
        (folder / name / "scan.json").write_text(json.dumps(scan))
        bench.put("distance", name, cell_of(scan, name))
    (folder / "scanner-bench.json").write_text(json.dumps(bench.record({})))
    return folder


def test_runs_of_the_scanner_bench_are_put_together(load, tmp_path: Path) -> None:
    scanners = load("scanners")
    first = scanners.joined({}, scanners.scans_of(bench_run(tmp_path / "a", {"signs-1": 1.0, "signs-poisoned": 0.5})), "models")
    both = scanners.joined(first, scanners.scans_of(bench_run(tmp_path / "b", {"signs-poisoned": 3.0, "toys-2": 0.1})), "models")
    models = {scan["model"]: scan for scan in both["distance"]["models"]}
    assert list(models) == ["signs-1", "signs-poisoned", "toys-2"]
    told = models["signs-poisoned"]
    assert (told["truth"], told["target"], told["score"], told["minutes"]) == ("backdoored", 1, 3.0, 1.5)
    assert told["first"] == [None, 1, "patch"]
    assert told["sizes"] == {"patch": {"universal": [30.0, 4.0], "median_of_pairs": [30.0, 3.0]}}
    areas = scanners.areas(models.values())
    assert areas["all, all"]["auc"] == 1.0
    assert areas["signs, patch"]["clean"] == 1
    assert "toys, all" not in areas, "toys have no poisoned model"


def test_scans_by_other_settings_than_a_run_go(load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scanners = load("scanners")
    known = scanners.joined({}, scanners.scans_of(bench_run(tmp_path / "a", {"signs-1": 1.0})), "strangers")
    known = scanners.joined(known, scanners.scans_of(bench_run(tmp_path / "b", {"signs-2": 1.0}, samples=7)), "models")
    assert "earlier scans are by other settings and go (samples: 50 -> 7)" in capsys.readouterr().err
    assert "strangers" not in known["distance"]
    assert [scan["model"] for scan in known["distance"]["models"]] == ["signs-2"]


def test_only_what_all_scanners_have_scanned_is_compared(load) -> None:
    scanners = load("scanners")
    scans = [
        {"model": f"signs-{i}", "truth": "backdoored" if i % 2 else "clean", "attack": None, "score": float(i)} for i in range(6)
    ]
    told = {"a": {"models": scans, "auc": scanners.areas(scans)}, "b": {"models": scans[:3], "auc": scanners.areas(scans[:3])}}
    most, every = scanners.on_the_same({**told, "c": {"models": scans[:1], "auc": {}}})
    assert (len(most["models"]), list(most["auc"])) == (6, ["a"])
    assert every["models"] == ["signs-0", "signs-1", "signs-2"]
    assert {name: area["auc"] for name, area in every["auc"].items()} == {"a": 0.5, "b": 0.5}
    assert len(scanners.on_the_same({"a": told["a"], "d": told["a"]})) == 1


def test_what_ships_is_what_the_measured_models_come_to(load) -> None:
    calibrate = load("calibrate")
    fitted, _ = calibrate.halves(calibrate.models_of("distance"))
    settings = settings_of(SCANNERS["distance"]())
    again = fit("distance", settings, [{"score": s} for _, _, s in fitted], [bad for _, bad, _ in fitted], low=calibrate.LOW)
    curve = shipped("distance", settings)
    assert curve is not None
    assert curve.facts["fitted_on"] == [name for name, _, _ in fitted]
    assert (curve.low, curve.high) == (again.low, again.high)
    assert curve.bias == pytest.approx(again.bias)
    assert curve.weights == pytest.approx(again.weights)
