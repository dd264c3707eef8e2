"""Parquet files, Hugging Face datasets, torchvision's sets, and the real data."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import torch
import torchvision
from PIL import Image

from orthogon.data import DataError, open_images


def png(value: int, size: tuple[int, int] = (4, 4)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, values: list[int], labels: list, features: dict | None = None, **names) -> None:
    """A table in the Hub's layout: image structs in groups of three rows, and the features in the metadata."""
    image, label = names.get("image", "img"), names.get("label", "label")
    table = pa.table({"id": list(range(len(values))), image: [{"bytes": png(v), "path": None} for v in values]})
    table = table.append_column(label, pa.array(labels))
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)


def values(images) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()


def test_shards_groups_and_samples_keep_rows_and_labels_together(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00002.parquet", list(range(8)), [i % 2 for i in range(8)])
    write(tmp_path / "data" / "train-00001-of-00002.parquet", list(range(8, 15)), [i % 2 for i in range(8, 15)])
    write(tmp_path / "data" / "test-00000-of-00001.parquet", [99], [1])
    for spec in (str(tmp_path), f"hf:{tmp_path}"):
        everything = open_images(spec, split="train")
        assert values(everything) == list(range(15))
        assert everything.classes == ("0", "1")
        assert values(open_images(spec)) == [99]
    for seed in range(5):
        some = open_images(str(tmp_path), split="train", limit=3, seed=seed)
        assert some.counts() == [3, 3]
        assert [v % 2 for v in values(some)] == some.labels.tolist()
    with pytest.raises(DataError, match="has test, train"):
        open_images(str(tmp_path), split="validation")


def test_class_names_of_the_features_and_a_single_file(tmp_path: Path) -> None:
    features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog", "emu"]}}
    write(tmp_path / "some {file}.parquet", [1, 2], [1, 0], features)
    images = open_images(str(tmp_path / "some {file}.parquet"))
    assert images.classes == ("cat", "dog", "emu")
    assert images.labels.tolist() == [1, 0]
    assert "no images of emu" in images.source


def test_columns_are_found_by_name_then_by_kind(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    write(file, [1, 2], [1, 0], image="photo", label="fine_label")
    assert open_images(str(file)).labels.tolist() == [1, 0]
    write(file, [1, 2], [5, 6], label="kind")
    with pytest.raises(DataError, match=r"no one label column among id \(integer\), img \(image\), kind"):
        open_images(str(file))
    write(file, [1, 2], ["b", "a"], {"id": {"_type": "Value"}}, label="label")
    table = pq.read_table(file).drop(["id"])
    pq.write_table(table, file)
    assert open_images(str(file)).classes == ("a", "b")
    pq.write_table(table.drop(["img"]), file)
    with pytest.raises(DataError, match="no one image column"):
        open_images(str(file))


def test_a_column_of_classes_by_another_name_does_not_displace_the_labels(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    features = {"split": {"_type": "ClassLabel", "names": ["train", "test"]}}
    write(file, [1, 2, 3], [4, 0, 1], features)
    table = pq.read_table(file)
    pq.write_table(table.append_column("split", pa.array([0, 0, 1])), file)
    images = open_images(str(file))
    assert images.labels.tolist() == [4, 0, 1]
    assert "labels of" not in images.source
    pq.write_table(pq.read_table(file).drop(["label"]), file)
    images = open_images(str(file))
    assert images.classes == ("train", "test")
    assert images.source.endswith("x.parquet (x), labels of column 'split'")
    pq.write_table(table.drop(["label"]), file)
    with pytest.raises(DataError, match=r"no one label column among id \(integer\), img \(image\)"):
        open_images(str(file))


@pytest.mark.parametrize("told", [{"info": None}, {"info": {"features": None}}, [], {"info": {"features": {"label": None}}}])
def test_metadata_that_say_nothing_are_passed_over(tmp_path: Path, told: object) -> None:
    file = tmp_path / "x.parquet"
    write(file, [1, 2], [1, 0])
    pq.write_table(pq.read_table(file).replace_schema_metadata({"huggingface": json.dumps(told)}), file)
    assert open_images(str(file)).labels.tolist() == [1, 0]


def test_wrong_metadata(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    features = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    write(file, [1, 2], ["cat", "emu"], features)
    with pytest.raises(DataError, match=r"x\.parquet: label 'cat' is none of the 2 named classes, 0 to 1"):
        open_images(str(file))
    write(file, [1, 2], [[0], [1]], {"label": {"_type": "ClassLabel"}})
    with pytest.raises(DataError, match=r"label \(other\)"):
        open_images(str(file))
    pq.write_table(pq.read_table(file).replace_schema_metadata({"huggingface": "{"}), file)
    with pytest.raises(DataError, match=r"x\.parquet: its metadata 'huggingface' are not JSON"):
        open_images(str(file))
    write(file, [1, 2], [0, 1], {"label": {"_type": "ClassLabel", "names": ["a", "\udcff"]}})
    with pytest.raises(DataError, match=r"the class name \\udcff is not UTF-8"):
        open_images(str(file))


def test_broken_tables(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    file.write_bytes(b"PAR1 rubbish PAR1")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        open_images(str(file))
    write(file, [1, 2], [0, None])
    with pytest.raises(DataError, match="row 1 has no label"):
        open_images(str(file))
    write(file, [1, 2], [0, -1])
    with pytest.raises(DataError, match="not labelled"):
        open_images(str(file))
    table = pa.table({"image": [png(1), b"rubbish", None, png(4)], "label": [0, 0, 1, 1]})
    pq.write_table(table, file)
    with pytest.raises(DataError, match=r"2 of 4 images cannot be read: .*row 1 \(not an image\).*row 2"):
        open_images(str(file))
    assert open_images(str(file), skip_corrupt=True).labels.tolist() == [0, 1]


@pytest.fixture
def dataset():
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [{"bytes": png(v), "path": None} for v in (5, 6, 7)], "label": [1, 0, 1]}
    return datasets.Dataset.from_dict(rows, features=features)


def test_saved_datasets(tmp_path: Path, dataset) -> None:
    import datasets

    dataset.save_to_disk(tmp_path / "one")
    images = open_images(f"hf:{tmp_path / 'one'}")
    assert (values(images), images.labels.tolist(), images.classes) == ([5, 6, 7], [1, 0, 1], ("cat", "dog"))
    datasets.DatasetDict(train=dataset, test=dataset.select([2])).save_to_disk(tmp_path / "two")
    assert values(open_images(f"hf:{tmp_path / 'two'}")) == [7]
    assert len(open_images(f"hf:{tmp_path / 'two'}", split="train", limit=1)) == 2


def test_a_saved_dataset_shows_no_files_of_other_folders(tmp_path: Path) -> None:
    import datasets

    folder, private = tmp_path / "one", tmp_path / "private.png"
    private.write_bytes(png(9))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat"])})

    def naming(image: Path) -> str:
        kept = {"bytes": pa.array([None], pa.binary()), "path": pa.array([str(image)])}
        columns = {"image": pa.StructArray.from_arrays(list(kept.values()), list(kept)), "label": pa.array([0])}
        with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as stream:
            table = pa.table(columns).cast(features.arrow_schema)
            with pa.ipc.new_stream(stream, table.schema) as writer:
                writer.write_table(table)
        return f"hf:{folder}"

    rows = {"image": [{"bytes": png(5), "path": None}], "label": [0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(folder)
    (folder / "own.png").write_bytes(png(8))
    assert values(open_images(naming(folder / "own.png"))) == [8]
    for image in (private, folder / ".." / "private.png"):
        with pytest.raises(DataError, match=r"one row 0 names the image .*private\.png, outside the data set's folder .*one;"):
            open_images(naming(image))
    (folder / "link.png").symlink_to(private)
    with pytest.raises(DataError, match=r"link\.png, outside"):
        open_images(naming(folder / "link.png"))


def test_hub_names(monkeypatch: pytest.MonkeyPatch, dataset) -> None:
    import datasets

    class Builder:
        info = datasets.DatasetInfo(splits=datasets.SplitDict.from_split_dict([{"name": "train"}, {"name": "test"}]))

    asked = []
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *a, **k: Builder())
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or dataset)
    images = open_images("hf:some/pets:small", split="train")
    assert values(images) == [5, 6, 7]
    assert images.source == "hf:some/pets:small (train)"
    open_images("hf:some/pets")
    assert [(a, k["split"]) for a, k in asked] == [(("some/pets", "small"), "train"), (("some/pets", None), "test")]

    def offline(*_args, **_kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset_builder", offline)
    with pytest.raises(DataError, match=r"some/pets cannot be loaded.*no network"):
        open_images("hf:some/pets")
    with pytest.raises(DataError, match="no such folder"):
        open_images("hf:./nowhere")


def test_imagefolders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for c in ("cat", "dog"):
        (tmp_path / "set" / c).mkdir(parents=True)
        (tmp_path / "set" / c / "x.png").write_bytes(png(len(c)))
    assert open_images(f"hf:{tmp_path / 'set'}").classes == ("cat", "dog")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    listed = tmp_path / "listed" / "train"
    listed.mkdir(parents=True)
    (listed / "a.png").write_bytes(png(8))
    (listed / "b.png").write_bytes(png(9))
    (listed / "metadata.csv").write_text("file_name,label\na.png,zebra\nb.png,ape\n")
    images = open_images(f"hf:{tmp_path / 'listed'}")
    assert dict(zip(values(images), (images.classes[c] for c in images.labels), strict=True)) == {8: "zebra", 9: "ape"}


def test_gtsrb_as_torchvision_keeps_it(tmp_path: Path) -> None:
    for c in (0, 14, 42):
        folder = tmp_path / "gtsrb" / "GTSRB" / "Training" / f"{c:05d}"
        folder.mkdir(parents=True)
        Image.new("RGB", (20 + c, 25), (c, 0, 0)).save(folder / "00000_00000.ppm")
    # torchvision numbers the class folders it finds; the full set has all 43
    for c in set(range(43)) - {0, 14, 42}:
        (tmp_path / "gtsrb" / "GTSRB" / "Training" / f"{c:05d}").mkdir()
        Image.new("RGB", (20, 25), (c, 0, 0)).save(tmp_path / "gtsrb" / "GTSRB" / "Training" / f"{c:05d}" / "00000_00000.ppm")
    images = open_images(f"torchvision:gtsrb@{tmp_path}", split="train", image_shape=(3, 32, 32))
    assert len(images.classes) == 43
    assert values(images) == images.labels.tolist() == list(range(43))


def test_svhn_as_torchvision_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
    scipy.io.savemat(tmp_path / "test_32x32.mat", {"X": pixels, "y": np.array([[1], [2], [10], [9], [3]], np.uint8)})
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda _: True)
    images = open_images(f"torchvision:svhn@{tmp_path}")
    assert images.labels.tolist() == [1, 2, 0, 9, 3]
    assert torch.equal(images.pixels, torch.from_numpy(pixels).permute(3, 2, 0, 1))


def test_cifar10_as_torchvision_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    data = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": data, "labels": [3, 8, 0]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"name{i}" for i in range(10)]}))
    for check in ("_check_integrity", "_load_meta"):
        monkeypatch.setattr(torchvision.datasets.CIFAR10, check, lambda _: True)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "classes", [f"name{i}" for i in range(10)], raising=False)
    images = open_images(f"torchvision:cifar10@{tmp_path}", split="test")
    assert images.labels.tolist() == [3, 8, 0]
    assert images.classes[3] == "name3"
    assert torch.equal(images.pixels, torch.from_numpy(data).view(3, 3, 32, 32))


def test_celeba_is_the_papers_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06d}.jpg" for i in range(8)]
    header = ["Heavy_Makeup", "Mouth_Slightly_Open", "Smiling"]
    rows = [(i >> 2 & 1, i & 1, i >> 1 & 1) for i in range(8)]
    signed = [f"{n} {' '.join('1' if b else '-1' for b in row)}" for n, row in zip(names, rows, strict=True)]
    (folder / "list_attr_celeba.txt").write_text("\n".join(["8", " ".join(header), *signed]))
    (folder / "list_eval_partition.txt").write_text("\n".join(f"{n} 2" for n in names))
    (folder / "identity_CelebA.txt").write_text("\n".join(f"{n} 1" for n in names))
    for file in ("list_bbox_celeba.txt", "list_landmarks_align_celeba.txt"):
        (folder / file).write_text("\n".join(["8", "a", *(f"{n} 1" for n in names)]))
    for i, name in enumerate(names):
        Image.new("RGB", (8, 10), (i * 30, i * 30, i * 30)).save(folder / "img_align_celeba" / name, quality=100)
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda _: True)
    images = open_images(f"torchvision:celeba@{tmp_path}", split="test")
    assert images.labels.tolist() == list(range(8))
    assert images.classes[0] == "none"
    assert images.classes[5] == "makeup+open-mouth"
    assert images.classes[6] == "makeup+smiling"
    assert [v // 29 for v in values(images)] == list(range(8))


def test_torchvision_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="use one of cifar10"):
        open_images("torchvision:imagenet")
    with pytest.raises(DataError, match="has test, train"):
        open_images("torchvision:cifar10", split="extra")

    def no_network(_self):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets.STL10, "download", no_network)
    with pytest.raises(DataError, match=r"cannot be downloaded \(no network\)"):
        open_images(f"torchvision:stl10@{tmp_path}")


def test_real_cifar10(shared: Path) -> None:
    images = open_images(str(shared / "data" / "cifar10"), split="test")
    assert images.pixels.shape == (10000, 3, 32, 32)
    assert images.classes[:4] == ("airplane", "automobile", "bird", "cat")
    assert images.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert images.counts() == [1000] * 10
    named = open_images(str(shared / "data" / "cifar10"), split="train", limit=3, classes=[f"name{i}" for i in range(10)])
    assert named.classes[2] == "name2"
    assert named.counts() == [3] * 10


def test_real_gtsrb_and_mnist(shared: Path) -> None:
    gtsrb = open_images(str(shared / "data" / "gtsrb"), limit=5)
    assert (len(gtsrb.classes), gtsrb.image_shape, min(gtsrb.counts())) == (43, (3, 32, 32), 5)
    mnist = open_images(str(shared / "data" / "mnist.npz"))
    assert (len(mnist), mnist.image_shape) == (10000, (1, 28, 28))
    assert mnist.labels[:5].tolist() == [7, 2, 1, 0, 4]
