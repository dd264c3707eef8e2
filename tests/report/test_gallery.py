from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from orthogon.report.gallery_page import write_gallery
from orthogon.report.planted import planting_table, zoo_table


def _gallery(folder: Path, **changes: Any) -> Path:
    """Two attacks: one adds 51 levels everywhere, one paints two pixels white."""
    clean = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    brighter, painted = clean + 51, clean.clone()
    painted[:, :, 0, :2] = 255
    entry = {
        "name": "brighter",
        "about": "Light <everywhere>.",
        "source": "Nobody 1999",
        "settings": {"alpha": 0.25, "colour": [1.0, 0.0]},
        "target": "stop",
        "victim": None,
        "clean_label": True,
        "samples": ["\x1bgo"],
        "model": {"name": "zoo-brighter", "success": 0.9712},
    }
    other = entry | {"name": "painted", "victim": "go", "clean_label": False, "model": None, "settings": {}}
    record = {"attacks": [entry, other], "missing": {"wanet": "too small"}, "data": "made up", "seed": 0}
    record |= {"versions": {"torch": "2"}, "hashes": {"data": "ab"}} | changes
    tensors = {"clean.brighter": clean, "stamped.brighter": brighter, "clean.painted": clean.clone(), "stamped.painted": painted}
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "gallery.safetensors")
    (folder / "gallery.json").write_text(json.dumps(record))
    return folder


def test_the_page_tells_what_each_attack_changes(tmp_path: Path) -> None:
    page = write_gallery(_gallery(tmp_path)).read_text()
    assert page.count("data:image/png;base64,") == 6
    assert "difference × 2.5" in page  # 127.5 / 51
    assert "difference × 0.8" in page  # 127.5 / 155
    for told in ("any other class → stop · clean labels", "go → stop · dirty labels", "attack success 97.1 %", "Made anew"):
        assert told in page
    assert "alpha 0.25, colour 1/0" in page
    assert "Not shown: <b>wanet</b> (too small)" in page
    assert page.index("<td>100.0 %</td>") > page.index("<td>12.5 %</td>")  # 19.4 of 255 levels on average before 51
    assert "19.4" in page
    assert "&lt;everywhere&gt;" in page
    assert "\x1b" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_gallery_without_pictures_or_record_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no gallery\.json"):
        write_gallery(tmp_path)
    folder = _gallery(tmp_path / "run")
    record = json.loads((folder / "gallery.json").read_text())
    del record["attacks"][0]["source"]
    (folder / "gallery.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="does not hold a gallery"):
        write_gallery(folder)
    (folder / "gallery.safetensors").unlink()
    with pytest.raises(ValueError, match="does not hold a gallery"):
        write_gallery(folder)


def _printed(table: Any) -> str:
    file = io.StringIO()
    Console(width=200, file=file).print(table)
    return file.getvalue()


def test_the_tables_of_the_terminal() -> None:
    stamped = {"victim": None, "target": "[red]", "total": 90, "attack_success_interval_95": [0.9, 0.99]}
    attack = {"name": "blend", "planted": True, "attack_success_rate": 0.95, "robust_accuracy": 0.04}
    record = {"attack": attack, "clean": {"accuracy": 0.875, "total": 100}, "stamped": stamped, "made_by": "trained"}
    text = _printed(planting_table(record))
    for told in ("any other class → [red]", "87.50 %", "95.00 %", "4.00 %", "90.00 to 99.00 %", "90 of them stamped"):
        assert told in text
    assert "No backdoor" in _printed(planting_table(record | {"attack": attack | {"planted": False}}))
    row = {"name": "a", "attack": None, "state": "shipped", "made_by": "fine-tuned from b", "accuracy": 0.5, "success": None}
    nothing = dict.fromkeys(("made_by", "accuracy", "success", "bytes", "sha256"))
    rows = [row | {"bytes": 1_080_000, "sha256": "f" * 64}, {"name": "c", "attack": "sig", "state": "not built", **nothing}]
    text = _printed(zoo_table(rows))
    assert "1.08 MB" in text
    assert "ffffffffffff " in text
    assert "fine-tuned " in text
    assert "not built" in text
