"""Known sets: made-up files of the same layout, and the real ones where they are."""

import csv
import io
import json
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from grkd.data import known_sets
from grkd.data.classification import ClassificationData
from grkd.data.known_sets import CIFAR10, LOOK_ALIKES, known_set
from grkd.errors import UserError

REAL = Path(os.environ.get("GRKD_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "classification"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the data sets are not here (GRKD_DATA)")


def jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def plain(colour: tuple[int, int, int], height: int = 32, width: int = 32) -> np.ndarray:
    return np.broadcast_to(np.array(colour, dtype=np.uint8), (height, width, 3)).copy()


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """Six training and four test images, one colour each; other labels and votes."""
    for split, classes in (("train", [0, 9, 3, 3, 1, 0]), ("test", [2, 5, 0, 1])):
        with tarfile.open(tmp_path / f"cifar10_{split}_jpeg.tar.xz", "w:xz") as archive:
            for number, label in enumerate(classes):
                content = jpeg(plain((40 * number, 10, 200)))
                entry = tarfile.TarInfo(f"{split}/{CIFAR10[label]}/{number:04}.jpg")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    clean = np.array([0, 9, 3, 3, 1, 0], dtype=np.uint8)
    worst = np.array([1, 9, 3, 5, 1, 2], dtype=np.uint8)
    np.savez(tmp_path / "cifar10n_labels.npz", clean_label=clean, worse_label=worst, aggre_label=clean)
    votes = np.eye(10, dtype=np.uint8)[[2, 5, 0, 1]] * 50
    np.savez(tmp_path / "cifar10h_counts.npz", counts=votes, test_label=np.array([2, 5, 0, 1]))
    return tmp_path


def test_cifar_in_the_archives_order_with_noisy_labels_and_votes(cifar: Path) -> None:
    found = known_set("cifar10", cifar, labels="worst", teacher_labels="clean")
    assert found.train_labels.tolist() == [1, 9, 3, 5, 1, 2]
    assert found.teacher_labels is not None
    assert found.teacher_labels.tolist() == [0, 9, 3, 3, 1, 0]
    assert found.heldout_labels.tolist() == [2, 5, 0, 1]
    assert found.train_inputs.shape == (6, 3, 32, 32)
    assert found.train_inputs.dtype == torch.uint8
    for number in range(6):
        shown = found.train_inputs[number].float().mean((1, 2))
        assert (shown - torch.tensor([40.0 * number, 10, 200])).abs().max() < 3  # JPEG is not exact
    assert found.heldout_votes is not None
    assert found.heldout_votes.argmax(-1).tolist() == found.heldout_labels.tolist()
    assert known_set("cifar10", cifar).train_labels.tolist() == [0, 9, 3, 3, 1, 0]
    assert known_set("cifar10", cifar).teacher_labels is None


def test_labels_in_another_order_than_the_images_are_refused(cifar: Path) -> None:
    swapped = np.array([9, 0, 3, 3, 1, 0], dtype=np.uint8)
    np.savez(cifar / "cifar10n_labels.npz", clean_label=swapped, worse_label=swapped)
    with pytest.raises(UserError, match=r"cifar10n_labels.npz: its true labels are not those of the images"):
        known_set("cifar10", cifar, labels="worst")
    np.savez(cifar / "cifar10h_counts.npz", counts=np.zeros((3, 10)), test_label=np.zeros(3))
    with pytest.raises(UserError, match="counts has 3 entries, there are 4 images"):
        known_set("cifar10", cifar)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes, four images of each to train on and two held out; every tile has its own grey."""
    monkeypatch.setattr(known_sets, "_TRAIN_A_CLASS", 4)
    monkeypatch.setattr(known_sets, "_HELDOUT_A_CLASS", 2)
    wnids = [*LOOK_ALIKES["lobsters"], "n00000001"]
    names = ["American lobster, Northern lobster", "spiny lobster", "acorn"]
    classes = [{"label": n, "wnid": wnid, "name": names[n]} for n, wnid in enumerate(wnids)]
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    for split, file, tiles in (("train", "train250", 6), ("val", "val50", 3)):  # sheets are filled up with black
        with zipfile.ZipFile(tmp_path / f"tiny_imagenet32_{file}.zip", "w") as archive:
            for label, wnid in enumerate(wnids):
                sheet = np.zeros((32 * (tiles // 3), 96, 3), dtype=np.uint8)
                for tile in range(4 if split == "train" else 2):
                    down, across = divmod(tile, 3)
                    sheet[32 * down : 32 * down + 32, 32 * across : 32 * across + 32] = 50 * label + 10 * tile + 5
                archive.writestr(f"{split}/{wnid}.jpg", jpeg(sheet))
    return tmp_path


def test_tiles_are_read_row_by_row_and_known_look_alikes_are_named(tiny: Path) -> None:
    found = known_set("tiny_imagenet32", tiny)
    assert found.train_labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert found.heldout_labels.tolist() == [0, 0, 1, 1, 2, 2]
    greys = found.train_inputs.float().mean((1, 2, 3))
    expected = torch.tensor([50.0 * label + 10 * tile + 5 for label in range(3) for tile in range(4)])
    assert (greys - expected).abs().max() < 2
    assert found.class_names == ["American lobster", "spiny lobster", "acorn"]
    assert found.class_groups == {"lobsters": ["American lobster", "spiny lobster"]}


def test_a_sheet_that_is_too_small_is_refused(tiny: Path) -> None:
    with zipfile.ZipFile(tiny / "tiny_imagenet32_val50.zip", "w") as archive:
        for wnid in [*LOOK_ALIKES["lobsters"], "n00000001"]:
            archive.writestr(f"val/{wnid}.jpg", jpeg(plain((0, 0, 0))))
    with pytest.raises(UserError, match="not 2 tiles of 32 x 32"):
        known_set("tiny_imagenet32", tiny)


def test_banking_and_clinc_texts(tmp_path: Path) -> None:
    for split, rows in (("train", [("where, please?", "b"), ("my card", "a")]), ("test", [("card?", "a")])):
        with (tmp_path / f"banking77_{split}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("text", "category"), *rows])
    found = known_set("banking77", tmp_path)
    assert found.train_inputs == ["where, please?", "my card"]
    assert (found.class_names, found.train_labels.tolist(), found.heldout_labels.tolist()) == (["a", "b"], [1, 0], [0])
    parts = {"train": [["hi", "a"], ["yo", "b"]], "test": [["hey", "b"]], "oos_test": [["42", "oos"]]}
    (tmp_path / "clinc150_data_full.json").write_text(json.dumps(parts))
    found = known_set("clinc150", tmp_path)
    assert found.outside_inputs == ["42"]
    assert found.heldout_labels.tolist() == [1]
    parts["test"] = [["hey", "c"]]
    (tmp_path / "clinc150_data_full.json").write_text(json.dumps(parts))
    with pytest.raises(UserError, match="held-out part has the label 'c'"):
        known_set("clinc150", tmp_path)


def test_a_limit_keeps_labels_and_inputs_together(cifar: Path) -> None:
    found = known_set("cifar10", cifar, labels="worst", teacher_labels="clean")
    small = found.limited(5, seed=0)
    assert len(small.train_labels) == len(small.train_inputs) == 5
    assert small.teacher_labels is not None
    for inputs, label, clean in zip(small.train_inputs, small.train_labels, small.teacher_labels, strict=True):
        place = next(n for n in range(6) if torch.equal(found.train_inputs[n], inputs))
        assert (label, clean) == (found.train_labels[place], found.teacher_labels[place])


def test_recipes_that_share_a_teacher_share_its_examples() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.arange(60) % 3

    def data(labels: torch.Tensor, teacher_labels: torch.Tensor | None) -> ClassificationData:
        inputs = torch.arange(60.0).unsqueeze(-1)
        return ClassificationData(
            kind="features", train_inputs=inputs, train_labels=labels, heldout_inputs=inputs, heldout_labels=clean,
            class_names=["a", "b", "c"], teacher_labels=teacher_labels,
        )  # fmt: skip

    noisy = [torch.randint(3, (60,), generator=generator) for _ in range(2)]
    kept = [data(*labels).limited(20, seed=1) for labels in ((clean, None), *((labels, clean) for labels in noisy))]
    for other in kept[1:]:
        assert torch.equal(other.train_inputs, kept[0].train_inputs)
        assert other.teacher_labels is not None
        assert torch.equal(other.teacher_labels, kept[0].train_labels)


def test_archives_that_are_flat_or_damaged_inside_are_one_line(cifar: Path, tiny: Path) -> None:
    archive = tiny / "tiny_imagenet32_train250.zip"
    with zipfile.ZipFile(archive) as whole:
        contents = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as again:
        for name, content in contents.items():
            again.writestr(name, content)
    damage(archive, 60)  # within the first member: zlib.error
    with pytest.raises(UserError, match=r"train250.zip: not what this set has there"):
        known_set("tiny_imagenet32", tiny)
    archive = cifar / "cifar10_train_jpeg.tar.xz"
    archive.write_bytes(lzma.compress(np.random.default_rng(0).bytes(20_000)))  # no archive, but a sound stream
    with pytest.raises(UserError, match=r"tar.xz: not what this set has there"):
        known_set("cifar10", cifar)
    members = {f"train/{CIFAR10[0]}/{n}.png": noise(n) for n in range(40)}
    write_archive(archive, members)
    damage(archive, archive.stat().st_size // 2)  # beyond what is read at the opening: LZMAError
    with pytest.raises(UserError, match=r"tar.xz: not what this set has there"):
        known_set("cifar10", cifar)
    write_archive(archive, {"0001.jpg": jpeg(plain((1, 2, 3)))})  # no folders that name classes: IndexError
    with pytest.raises(UserError, match=r"tar.xz: not what this set has there"):
        known_set("cifar10", cifar)


def damage(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place : place + 40] = bytes(255 - byte for byte in content[place : place + 40])
    path.write_bytes(bytes(content))


def noise(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:xz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("name", ["cifar10", "tiny_imagenet32", "banking77", "clinc150"])
def test_missing_folders_and_broken_files_are_one_line(tmp_path: Path, name: known_sets.KnownSet) -> None:
    with pytest.raises(UserError, match="no such folder"):
        known_set(name, tmp_path / "nowhere")
    with pytest.raises(UserError, match="no such file"):
        known_set(name, tmp_path)
    for file in ("cifar10_train_jpeg.tar.xz", "classes.json", "banking77_train.csv", "clinc150_data_full.json"):
        (tmp_path / file).write_text("nonsense\n1")
    with pytest.raises(UserError, match="not what this set has there"):
        known_set(name, tmp_path)


@real
def test_the_real_texts() -> None:
    found = known_set("clinc150", REAL / "intent_text")
    assert (len(found.train_inputs), len(found.heldout_inputs), found.classes) == (15_000, 4_500, 150)
    assert len(found.outside_inputs) == 1_000
    found = known_set("banking77", REAL / "intent_text")
    assert (len(found.train_inputs), len(found.heldout_inputs), found.classes) == (10_003, 3_080, 77)


@real
def test_every_look_alike_is_a_class_of_the_real_set() -> None:
    classes = json.loads((REAL / "tiny_imagenet32" / "classes.json").read_text())
    wnids = {entry["wnid"] for entry in classes}
    assert all(wnid in wnids for group in LOOK_ALIKES.values() for wnid in group)
    assert len({entry["name"].split(",")[0] for entry in classes}) == 200
