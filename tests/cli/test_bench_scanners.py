from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from orthogon.cli import benching_scanners
from orthogon.data import open_images
from orthogon.report.scanner_bench_page import write_scanner_bench

Command = Callable[..., tuple[int, str, str]]
Json = Callable[..., dict[str, Any]]
ZOO = Path(__file__).parents[2] / "zoo"
BADNETS, CLEAN = ZOO / "signs-badnets", ZOO / "signs-clean"
SIGNS = "signs:classes=6,size=20,per_class=16"
QUICK = ["--rows", "mm-bd", "--set", "mm-bd.starts=1", "--set", "mm-bd.steps=2"]


def bench(out: Path, models: list[Path], *more: str) -> list[str]:
    return ["bench", "scanners", "--models", *map(str, models), "--data", SIGNS, "--out", str(out), *QUICK, *more]


def test_each_model_is_scanned_once_and_others_join(tmp_path: Path, result: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    data = result(*bench(out, [BADNETS]))
    assert [(cell["model"], cell["status"]) for cell in data["cells"]] == [("signs-badnets", "finished")]
    assert data["models"][0]["truth"]["backdoored"] is True
    asked: list[bool] = []
    real = benching_scanners.looked

    def looked(classifier: Any, *words: Any, **more: Any) -> Any:
        asked.append("attack" in classifier.card)
        return real(classifier, *words, **more)

    monkeypatch.setattr(benching_scanners, "looked", looked)
    data = result(*bench(out, [BADNETS, CLEAN]))
    assert asked == [False]
    assert [model["truth"]["backdoored"] for model in data["models"]] == [True, False]
    (line,) = data["summary"]
    backdoored, clean = (cell["score"] for cell in data["cells"])
    assert line["auc"]["all"]["value"] == float(backdoored > clean)
    assert backdoored != clean
    kept = json.loads((out / data["cells"][0]["folder"] / "scan.json").read_text())
    assert kept["draws"][0]["facts"]["margins"]
    assert kept["draws"][0]["features"] == data["cells"][0]["features"]
    assert kept["accuracy"] > 0.9
    page = (out / "scanner-bench.html").read_text()
    assert "MM-BD, signs-clean: " in page
    assert "https://" not in page


def test_a_scan_that_fails_is_a_cell_of_its_own(tmp_path: Path, result: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    real = benching_scanners.looked

    def looked(classifier: Any, *words: Any, **more: Any) -> Any:
        if "attack" in classifier.card:
            raise KeyError("bn1")
        return real(classifier, *words, **more)

    monkeypatch.setattr(benching_scanners, "looked", looked)
    data = result(*bench(tmp_path / "run", [BADNETS, CLEAN]))
    assert [(cell["status"], cell["reason"]) for cell in data["cells"]] == [("failed", "KeyError: 'bn1'"), ("finished", None)]
    assert "MM-BD failed on signs-badnets, which counts nowhere" in (tmp_path / "run" / "scanner-bench.md").read_text()


def test_calibrations_are_written_where_there_are_models_enough(tmp_path: Path, result: Json) -> None:
    models = [BADNETS, CLEAN, ZOO / "signs-blend", tmp_path / "clean-again"]
    shutil.copytree(CLEAN, models[-1])
    weights = load_file(models[-1] / "model.safetensors")
    name = next(name for name, value in weights.items() if value.ndim == 4)
    save_file(weights | {name: 1.01 * weights[name]}, models[-1] / "model.safetensors")  # a copy would be refused
    result(*bench(tmp_path / "run", models[:2], "--calibrate"))
    assert not (tmp_path / "run" / "calibrations").exists()
    data = result(*bench(tmp_path / "run", models, "--calibrate"))
    curve = json.loads((tmp_path / "run" / "calibrations" / "mm-bd.json").read_text())
    assert (curve["scanner"], curve["settings"]["steps"], curve["facts"]["models"]) == ("mm-bd", 2, 4)
    assert [cell["probability"] for cell in data["cells"]] == curve["facts"]["left_out"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--rows", "distanc"], "'distanc' is no scanner (did you mean distance?)"),
        (["--rows", "ensemble"], "it is made of the other rows"),
        (["--set", "nc.samples=3"], "is no ROW.NAME=VALUE of a row that is run (mm-bd)"),
        (["--set", "mm-bd.start=3"], "setting 'start=3' is not one of mm-bd's"),
        (
            ["--data", "signs:classes=8,size=20,per_class=8"],
            "signs-badnets/model.safetensors: the data have 8 classes, the model 6",
        ),
        (["--models", "nowhere"], "there is no nowhere"),
    ],
)
def test_wrong_words_are_told(more: list[str], reason: str, tmp_path: Path, command: Command) -> None:
    code, out, err = command(*bench(tmp_path / "run", [BADNETS]), *more)
    assert (code, out) == (2, "")
    assert reason in err
    assert not (tmp_path / "run").exists()


def test_a_model_without_a_card_is_refused(tmp_path: Path, command: Command) -> None:
    shutil.copy(CLEAN / "model.safetensors", tmp_path / "net.safetensors")
    code, _, err = command(*bench(tmp_path / "run", [tmp_path / "net.safetensors"]))
    assert code == 2
    assert "nobody knows whether it has a backdoor" in err


def test_pictures_beside_a_model_are_its_own(tmp_path: Path, result: Json, command: Command) -> None:
    images = open_images(SIGNS)
    for number, (name, model) in enumerate((("a", CLEAN), ("b", BADNETS))):
        folder = shutil.copytree(model, tmp_path / name) / "clean_example_data"
        folder.mkdir()
        for c in range(6):
            for i, index in enumerate((images.labels == c).nonzero().flatten()[number::8].tolist()):
                Image.fromarray(images.pixels[index].permute(1, 2, 0).numpy()).save(folder / f"class_{c}_example_{i}.png")
    words = ("bench", "scanners", "--models", tmp_path / "a", tmp_path / "b", *QUICK, "--out", tmp_path / "run")
    first, second = result(*words)["models"]
    assert first["data"].startswith(f"TrojAI examples {tmp_path / 'a'}")
    assert second["data"].startswith(f"TrojAI examples {tmp_path / 'b'}")
    assert first["inputs"]["images"] != second["inputs"]["images"]
    assert {model["data"] for model in result(*words, "--data", SIGNS)["models"]} == {images.source}
    code, _, err = command("bench", "scanners", "--models", CLEAN, *QUICK)
    assert code == 2
    assert "no example pictures beside it (as TrojAI has them): give --data D" in err


def test_the_list_tells_the_scanners(result: Json) -> None:
    assert "MM-BD" in result("bench", "list")["scanners"]["rows"]["mm-bd"]


def test_what_is_no_record_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no scanner-bench\.json"):
        write_scanner_bench(tmp_path)
    (tmp_path / "scanner-bench.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match="is not the record of a benchmark of scanners"):
        write_scanner_bench(tmp_path)
