"""TorchScript: scripted and traced networks load, those that could touch files do not."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from orthogon.models import CheckpointError, build, load_classifier
from orthogon.models.torchscript import _source_refusal

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
TARGET = "created"


class MapsFile(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mapped = torch.from_file("created", True, 8, dtype=torch.uint8)
        return x.flatten(1) + mapped.sum()


class SavesOnLoading(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)

    @torch.jit.export
    def __getstate__(self) -> int:
        return 0

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        self.training = False
        torch.save(torch.zeros(1), "created")


@pytest.mark.parametrize("kind", ["traced", "scripted"])
def test_torchscript_loads(tmp_path: Path, kind: str) -> None:
    traced = kind == "traced"
    network = build("wrn16_1", 4, (3, 32, 32)) if traced else torchvision.models.squeezenet1_1(num_classes=4).eval()
    images = torch.rand(2, 3, 32, 32)
    scripted = torch.jit.trace(network, images) if traced else torch.jit.script(network)
    scripted.save(str(tmp_path / "net.pt"))  # type: ignore[union-attr]
    classifier = load_classifier(str(tmp_path / "net.pt"), image_shape=(3, 32, 32), classes=list("abcd"))
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), network(images))
    assert classifier.classes == ("a", "b", "c", "d")


@pytest.mark.parametrize(("network", "word"), [(MapsFile, "from_file"), (SavesOnLoading, "save")])
def test_files_are_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: type[nn.Module], word: str) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(network()).save("net.pt")
    with pytest.raises(CheckpointError, match=f"refused: its TorchScript uses .*{word}"):
        load_classifier("net.pt", image_shape=(3, 1, 1))
    assert not Path(TARGET).exists()
    # PyTorch finds records whatever their case, so the check must too.
    with zipfile.ZipFile("net.pt") as archive, zipfile.ZipFile("odd.pt", "w") as odd:
        for name in archive.namelist():
            odd.writestr(name.replace("code/", "CODE/").replace(".py", ".PY"), archive.read(name))
    with pytest.raises(CheckpointError):
        load_classifier("odd.pt", image_shape=(3, 1, 1))
    assert not Path(TARGET).exists()


@pytest.mark.parametrize(
    "source",
    [
        "x = torch.from_file(a, )",
        "x = torch . save (a)",
        "x = ops.c10d.barrier(a)",
        "y = ops\nz = y.c10d.barrier(a)",
        'z = getattr(torch, "from" "_file")(a)',
        'z = getattr(torch, "sa\\x76e")(a)',
        'z = getattr(__torch__.torch, "classes")',
        "z = (torch. # so\n classes.c10d.Store)",
        "z = (ops. # so\n c10d.barrier)",
        "z = __torch__.torch.classes.c10d.Store()",
        "z = a.classes.c10d.Store()",
    ],
)
def test_spellings_that_are_refused(source: str) -> None:
    assert _source_refusal(source, pickled=False) is not None


def test_classes_in_the_pickle_are_refused() -> None:
    assert _source_refusal("c__torch__.torch.classes.c10d\nStore\n", pickled=True) is not None


def test_torchscript_cut_short(tmp_path: Path) -> None:
    torch.jit.trace(nn.Flatten(), torch.zeros(1, 3, 1, 1)).save(str(tmp_path / "net.pt"))  # type: ignore[union-attr]
    content = (tmp_path / "net.pt").read_bytes()
    (tmp_path / "net.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"net\.pt"):
        load_classifier(str(tmp_path / "net.pt"), image_shape=(3, 1, 1))


def test_a_network_that_raises_is_refused_in_words(tmp_path: Path) -> None:
    class Raises(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.dim() == 4:
                raise ValueError("not today")
            return images

    torch.jit.script(Raises()).save(str(tmp_path / "net.pt"))  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"cannot take images of shape .*not today"):
        load_classifier(str(tmp_path / "net.pt"), image_shape=(3, 8, 8))
