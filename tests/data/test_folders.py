"""Folders of images, decoding, and what is common to all sources."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orthogon.data import DataError, aligned, arrays, listing, open_images
from orthogon.data.classes import MOST_CLASSES, align, natural, numbered
from orthogon.data.decoding import decode


def save(path: Path, colour, size: tuple[int, int] = (8, 6), mode: str = "RGB", **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for c in ("1", "2", "10"):
        for i in range(4):
            save(tmp_path / c / f"{i}.png", (int(c), i, 0))
    return tmp_path


def test_classes_and_files_in_natural_order(folder: Path) -> None:
    save(folder / "2" / "12.png", (2, 12, 0))
    save(folder / "2" / "deeper" / "9.bmp", (2, 99, 0))
    (folder / "2" / "notes.txt").write_text("no image")
    (folder / ".hidden").mkdir()
    images = open_images(str(folder))
    assert images.classes == ("1", "2", "10")
    assert images.image_shape == (3, 6, 8)
    assert images.counts() == [4, 6, 4]
    assert images.of_class(1).pixels[:, :, 0, 0].tolist() == [[2, i, 0] for i in (0, 1, 2, 3, 12, 99)]
    assert str(folder) in images.source


def test_splits_are_subfolders(folder: Path, tmp_path: Path) -> None:
    top = tmp_path / "top"
    save(top / "train" / "a" / "x.png", "red")
    save(top / "test" / "a" / "x.png", "blue")
    assert open_images(str(top), split="train").pixels[0, :, 0, 0].tolist() == [255, 0, 0]
    held_out = open_images(str(top))
    assert held_out.pixels[0, :, 0, 0].tolist() == [0, 0, 255]
    assert held_out.source.endswith("test")
    with pytest.raises(DataError, match=r"has test, train.*got 'val'"):
        open_images(str(top), split="val")


def test_a_split_of_a_class_folder_is_told_what_the_folder_is(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"whose folders are its classes \(1, 2, 10\), has no splits, got 'test'; leave --split out"
    ):
        open_images(str(folder), split="test")


def test_what_archives_and_disks_add_is_no_class(folder: Path) -> None:
    save(folder / "__MACOSX" / "._0.png", "red")
    (folder / "lost+found").mkdir()
    assert open_images(str(folder)).classes == ("1", "2", "10")


def test_an_empty_class_keeps_its_place(folder: Path) -> None:
    (folder / "3").mkdir()
    images = open_images(str(folder))
    assert images.classes == ("1", "2", "3", "10")
    assert images.counts() == [4, 4, 0, 4]
    assert "no images of 3" in images.source


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class folders"):
        open_images(str(tmp_path))
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="no images"):
        open_images(str(tmp_path))
    with pytest.raises(DataError, match="nowhere"):
        open_images("nowhere")
    with pytest.raises(DataError, match="image shape"):
        open_images("signs", image_shape=(2, 8, 8))


def test_corrupt_images_are_named_or_skipped(folder: Path) -> None:
    (folder / "1" / "0.png").write_bytes(b"not an image")
    whole = (folder / "2" / "1.png").read_bytes()
    (folder / "2" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"2 of 12 images cannot be read: .*0\.png.*1\.png"):
        open_images(str(folder))
    images = open_images(str(folder), skip_corrupt=True)
    assert images.counts() == [3, 3, 4]
    assert "2 unreadable" in images.source
    for i in range(4):
        for c in ("1", "10"):
            (folder / c / f"{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"9 of 12.* and 4 more"):
        open_images(str(folder))


def test_mixed_sizes_are_an_error_or_resized(folder: Path) -> None:
    save(folder / "2" / "1.png", "red", size=(20, 9))
    with pytest.raises(DataError, match=r"0\.png is 8×6.*1\.png is 20×9.*--image-size"):
        open_images(str(folder))
    resized = open_images(str(folder), image_shape=(3, 5, 7))
    assert resized.image_shape == (3, 5, 7)
    assert "resized to 7×5 (width×height; the first image is 8×6)" in resized.source


def test_images_of_the_right_size_are_not_said_to_be_resized(folder: Path) -> None:
    assert "resized" not in open_images(str(folder), image_shape=(1, 6, 8)).source


def one(path: Path, shape: tuple[int, int, int] | None = None) -> list[int]:
    images = open_images(str(path.parent.parent), image_shape=shape)
    return images.pixels[0, :, 0, 0].tolist()


def test_modes(tmp_path: Path) -> None:
    file = tmp_path / "a" / "x.png"
    save(file, 77, mode="L")
    assert one(file) == [77]
    assert one(file, (3, 6, 8)) == [77, 77, 77]
    save(file, (0, 0, 0, 0), mode="RGBA")
    assert one(file) == [255, 255, 255]
    save(file, (255, 0, 0, 255), mode="RGBA")
    assert one(file) == [255, 0, 0]
    save(file, 1, mode="1")
    assert one(file) == [255]
    save(file, 200 * 256, mode="I;16")
    assert one(file) == [200]
    palette = Image.new("RGB", (8, 6), (10, 200, 30)).quantize(4)
    palette.save(file)
    assert one(file) == [10, 200, 30]
    palette.save(file, transparency=0)
    assert one(file) == [255, 255, 255]
    save(file, (0, 128, 0))
    assert one(file, (1, 6, 8)) == [75]
    file.unlink()
    save(tmp_path / "a" / "x.tif", 0.5, mode="F")
    with pytest.raises(DataError, match="floating-point"):
        one(file)


def test_a_transparent_colour_is_seen_on_white(tmp_path: Path) -> None:
    file = tmp_path / "a" / "x.png"
    save(file, (10, 20, 30), transparency=(10, 20, 30))
    assert one(file) == [255, 255, 255]
    assert one(file, (1, 6, 8)) == [255]
    save(file, (10, 20, 30), transparency=(10, 20, 31))
    assert one(file) == [10, 20, 30]
    save(file, 77, mode="L", transparency=77)
    assert one(file) == [255]
    assert one(file, (3, 6, 8)) == [255, 255, 255]


def test_grey_of_more_bits(tmp_path: Path) -> None:
    file = tmp_path / "a" / "x.tif"
    save(file, 200 * 256 + 9, mode="I;16B")
    assert one(file) == [200]
    assert one(file, (3, 6, 8)) == [200, 200, 200]
    save(file, 200, mode="I")
    assert one(file) == [200]
    for value in (256, -1, 70000):
        save(file, value, mode="I")
        with pytest.raises(DataError, match=rf"32-bit pixels from {value} to {value} have no known range; save them as 8"):
            one(file)
    pgm = b"P5 2 1 65535 " + struct.pack(">2H", 0x1234, 0xFF00)
    assert decode(pgm, None).tolist() == [[[0x12, 0xFF]]]


def test_grey_among_colour_becomes_colour(folder: Path) -> None:
    save(folder / "1" / "0.png", 50, mode="L")
    images = open_images(str(folder))
    assert images.pixels[:2, :, 0, 0].tolist() == [[50, 50, 50], [1, 1, 0]]


def test_photographs_stand_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a" / "x.jpg", "red", exif=exif)
    assert open_images(str(tmp_path)).image_shape == (3, 8, 6)
    (tmp_path / "a" / "x.jpg").unlink()
    save(tmp_path / "a" / "x.png", "red", exif=exif)
    assert open_images(str(tmp_path)).image_shape == (3, 8, 6)


def test_a_broken_tag_does_not_cost_the_picture() -> None:
    stream = io.BytesIO()
    Image.new("L", (3, 2), 9).save(stream, "PNG")
    tag = b"eXIfrubbish"
    chunk = struct.pack(">I", len(tag) - 4) + tag + struct.pack(">I", zlib.crc32(tag))
    whole = stream.getvalue()
    assert decode(whole[:33] + chunk + whole[33:], None).shape == (1, 2, 3)  # after the signature and the header


def test_names_that_no_file_can_hold_are_told_at_once(folder: Path) -> None:
    bad = os.fsdecode(os.fsencode(folder / "b") + b"\xff")
    try:
        save(Path(bad) / "a" / "x.png", "red")
    except OSError:
        pytest.skip("this file system holds UTF-8 only")
    with pytest.raises(DataError, match=r"the class name b\\udcff is not UTF-8; rename the class or its folder") as told:
        open_images(str(folder))
    assert str(folder) in str(told.value)
    assert open_images(bad).source.endswith("b\\udcff")


def test_a_container_bounds_what_one_data_set_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "memory_bytes", lambda: 1000)
    assert listing.memory_bound() == 250
    monkeypatch.setattr(listing, "memory_bytes", lambda: None)
    assert listing.memory_bound() == 4 << 30


def test_limit_and_memory_sample_by_class(folder: Path) -> None:
    save(folder / "1" / "5.png", (1, 5, 0))
    limited = open_images(str(folder), limit=2, seed=1)
    assert limited.counts() == [2, 2, 2]
    assert "at most 2 images per class" in limited.source
    assert limited.digest() == open_images(str(folder), limit=2, seed=1).digest()
    assert len({open_images(str(folder), limit=2, seed=s).digest() for s in range(5)}) > 1
    small = open_images(str(folder), memory=10 * 3 * 6 * 8)
    assert small.counts() == [3, 3, 3]
    assert "sampled to fit the memory: at most 3 of 5 images per class" in small.source
    assert open_images(str(folder), memory=1).counts() == [1, 1, 1]
    with pytest.raises(DataError, match="at least 1, got 0"):
        open_images(str(folder), limit=0)


def test_many_images_keep_their_order(tmp_path: Path) -> None:
    for i in range(1100):  # more than one block of the decoder
        save(tmp_path / "a" / f"{i}.bmp", (i % 256, i // 256, 0), size=(1, 1))
    images = open_images(str(tmp_path))
    assert images.pixels[:, :2, 0, 0].tolist() == [[i % 256, i // 256] for i in range(1100)]


def test_labels_follow_the_models_classes(folder: Path) -> None:
    by_name = open_images(str(folder), classes=("10", "2", "x", "1"))
    assert by_name.counts() == [4, 4, 0, 4]
    assert by_name.of_class(0).pixels[0, 0, 0, 0] == 10
    assert "no images of x" in by_name.source
    with pytest.raises(DataError, match="3 classes, the model 2"):
        open_images(str(folder), classes=("cat", "dog"))


def test_align() -> None:
    labels = torch.tensor([0, 1, 1])
    assert align(labels, ("a", "b"), None)[1] == ("a", "b")
    moved, names, note = align(labels, ("3", "5"), ("n0", "n1", "n2", "n3", "n4", "n5"))
    assert (moved.tolist(), len(names), note) == ([3, 5, 5], 6, "")
    kept, names, note = align(labels, ("car", "dog"), ("automobile", "dog"))
    assert (kept.tolist(), names) == ([0, 1, 1], ("automobile", "dog"))
    assert "position" in note
    with pytest.raises(DataError, match=r": car of the data are none of .*, nor by position, since dog of the data"):
        align(labels, ("car", "dog"), ("dog", "automobile"))
    with pytest.raises(DataError, match=r"name: zebra of the data are none of the model's \(cat, dog\); rename"):
        align(torch.tensor([0, 1, 2]), ("cat", "dog", "zebra"), ("cat", "dog"))
    with pytest.raises(DataError, match="the model's class names must differ, cat stands there more than once"):
        align(labels, ("cat", "dog"), ("cat", "cat", "dog"))


def test_many_classes_meet_in_one_pass() -> None:
    compared = 0

    class Name(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    names, wanted = (tuple(Name(f"n{i}") for i in order) for order in (range(300), reversed(range(300))))
    assert align(torch.arange(300), names, wanted)[0].tolist() == list(reversed(range(300)))
    assert compared < 10 * 300


def test_images_are_brought_into_the_order_of_classes_that_became_known_later(folder: Path) -> None:
    classes = ("10", "2", "x", "1")
    at_once, later = open_images(str(folder), classes=classes), aligned(open_images(str(folder)), classes)
    assert (later.classes, later.source) == (at_once.classes, at_once.source)
    assert later.digest() == at_once.digest()


def test_numbered_and_natural() -> None:
    assert numbered([2, 0, 2])[1] == ("0", "1", "2")
    assert numbered([10, 1, 2])[0].tolist() == [2, 0, 1]
    assert numbered(["b10", "b9"])[1] == ("b9", "b10")
    with pytest.raises(DataError, match="label -1"):
        numbered([0, -1])
    assert len(numbered([0, MOST_CLASSES - 1])[1]) == MOST_CLASSES
    with pytest.raises(DataError, match=r"the labels up to 20000000 make 20000001 classes, at most 100000 can be"):
        numbered([0, 20_000_000])
    with pytest.raises(DataError, match=r"make 100001 classes"):
        numbered(range(1, MOST_CLASSES + 2))
    names = ["a10b", "a2b", "B1", "b", "10", "9", "a2a"]
    assert sorted(names, key=natural) == ["9", "10", "a2a", "a2b", "a10b", "b", "B1"]


def test_arrays_of_all_layouts(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2])
    expected = torch.from_numpy(colour).permute(0, 3, 1, 2)
    file = tmp_path / "x.npz"

    def opened(**arrays) -> torch.Tensor:
        np.savez(file, **arrays)
        return open_images(str(file)).pixels

    assert torch.equal(opened(x=colour, y=labels), expected)
    assert torch.equal(opened(images=colour.transpose(0, 3, 1, 2), labels=labels[:, None]), expected)
    assert torch.equal(opened(x=colour.astype(np.int64), y=labels), expected)
    assert torch.equal(opened(x=(colour / 255).astype(np.float32), y=labels), expected)
    for grey in (colour[..., 0], colour[..., :1], colour[:, None, :, :, 0]):
        assert torch.equal(opened(x=grey, y=labels), expected[:, :1])


def test_npz_splits_and_names(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    x, y = np.zeros((2, 4, 4), np.uint8), np.array([0, 1], np.uint8)
    np.savez(file, x_train=x, y_train=y, test_images=x[:1] + 9, test_labels=y[:1], classes=np.array(["cat", "dog"]))
    assert open_images(str(file)).pixels.unique().tolist() == [9]
    train = open_images(str(file), split="train")
    assert train.classes == ("cat", "dog")
    assert "train" in train.source
    with pytest.raises(DataError, match="has test, train"):
        open_images(str(file), split="val")
    np.savez(file, x=x, y=np.array(["b", "a"]))
    assert open_images(str(file)).labels.tolist() == [1, 0]
    with pytest.raises(DataError, match=r"x\.npz has no splits, got 'test'; leave --split out"):
        open_images(str(file), split="test")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 4, 4), np.float32) - 1, "y": np.zeros(2, int)}, "from -1 to -1"),
        ({"x": np.full((2, 4, 4), np.nan), "y": np.zeros(2, int)}, "nan"),
        ({"x": np.zeros((2, 4, 4, 4), np.uint8), "y": np.zeros(2, int)}, r"\(2, 4, 4, 4\)"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": np.zeros(3, int)}, "2 images but 3 labels"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": np.zeros((2, 10))}, "whole numbers"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": np.array([0, 7]), "classes": np.array(["a", "b"])}, "label 7"),
        ({"a": np.zeros(3)}, "needs arrays x and y"),
        ({"x": np.array([{}]), "y": np.zeros(1, int)}, "could run code"),
    ],
)
def test_wrong_arrays(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_images(str(tmp_path / "x.npz"))


def test_not_an_archive(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    for content in (b"", b"rubbish", b"PK\x03\x04 cut off"):
        file.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            open_images(str(file))
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(DataError, match="one array"):
        open_images(str(file))


def test_an_archive_larger_than_the_memory_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.npz"
    x = np.broadcast_to(np.arange(200, dtype=np.float32)[:, None, None, None] / 255, (200, 3, 64, 64))
    np.savez_compressed(file, x=x, y=np.arange(200) % 2)
    monkeypatch.setattr(arrays, "_BLOCK", 7 * x[0].nbytes, raising=False)
    whole = open_images(str(file), image_shape=(3, 64, 64)).pixels
    assert whole[:, 0, 0, 0].tolist() == list(range(200))
    tracemalloc.start()
    images = open_images(str(file), memory=20 * 3 * 64 * 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert images.counts() == [10, 10]
    assert "sampled to fit the memory: at most 10 of 100 images per class" in images.source
    assert [v % 2 for v in images.pixels[:, 0, 0, 0].tolist()] == images.labels.tolist()
    assert peak < x.nbytes / 2


def test_what_can_only_be_read_whole_must_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.npz"
    x = np.arange(120, dtype=np.uint8).reshape(10, 4, 3)
    np.savez(file, x=np.asfortranarray(x), y=np.zeros(10, np.uint8))
    assert torch.equal(open_images(str(file)).pixels[:, 0], torch.from_numpy(x))
    monkeypatch.setattr(arrays, "memory_bound", lambda: 100)
    with pytest.raises(DataError, match=r"x\.npz: x \(10, 4, 3\) takes 120 bytes and can only be read whole, at most 100"):
        open_images(str(file))
    np.savez(file, x=x, y=np.zeros(10))
    with pytest.raises(DataError, match="labels must be whole numbers"):
        open_images(str(file))
    np.savez(file, x=x, y=np.zeros(101, np.uint8))
    with pytest.raises(DataError, match=r"y \(101,\) takes 101 bytes"):
        open_images(str(file))
    np.savez(file, x=np.zeros((1, 11, 10), np.uint8), y=np.zeros(1, np.uint8))
    with pytest.raises(DataError, match=r"one image of x \(1, 11, 10\) takes 110 bytes"):
        open_images(str(file))


def test_an_archive_that_breaks_off_among_its_images(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    np.savez(file, y=np.zeros(9, np.uint8), x=np.full((9, 20, 20), 7, np.uint8))
    content = file.read_bytes()
    at = content.index(b"\7" * 3000)
    file.write_bytes(content[:at] + b"\6" + content[at + 1 :])
    with pytest.raises(DataError, match=r"x\.npz cannot be read: .*CRC"):
        open_images(str(file))
