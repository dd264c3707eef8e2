"""`--family filter` all the way: measured, written, reported, compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from orthogon.protocols import PROTOCOLS
from orthogon.triggers import Filter

from .conftest import SIGNS
from .quick import QUICK


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "screen", QUICK)


def test_filters_are_measured_reported_and_compared(
    trained: Path, result: Callable[..., dict[str, Any]], command: Callable[..., tuple[int, str, str]]
) -> None:
    words = ("measure", "--model", trained, "--data", SIGNS, "--protocol", "screen", "--samples", 20, "--pairs", "1-2,2-1,*-0")
    data = result(*words, "--family", "filter", "--out", "filters")
    assert (data["family"], data["unit"]) == ("filter", Filter().unit)
    assert data["settings"]["family"] == "filter"
    assert {data["outcomes"][1][2], data["outcomes"][2][1]} <= {"found", "asr not reached"}
    file = load_file("filters/triggers.safetensors")
    trigger = {name.removeprefix("trigger."): value for name, value in file.items() if name.startswith("trigger.")}
    assert set(trigger) == {"mean", "std", "clean_mean", "clean_std"}
    assert {tuple(value.shape) for value in trigger.values()} == {(3, 3)}
    stamped = Filter().stamp(trigger, file["clean"][:, None].float() / 255)[:, 0]
    assert (stamped * 255 - file["stamped"].float()).abs().max() <= 0.501
    for size, told in zip(Filter().size(trigger).tolist(), file["size"].tolist(), strict=True):
        assert told == pytest.approx(size, rel=1e-5) or told != told
    assert Filter().unit in Path(data["report"]).read_text()
    again = result(*words, "--family", "filter", "--out", "filters")
    assert again["values"] == data["values"]
    assert result("compare", "filters", "filters")["unit"] == Filter().unit
    assert result("card", "filters")["family"] == "filter"
    code, _, err = command(*words, "--family", "patch", "--out", "filters")
    assert code == 4
    assert "family" in err
