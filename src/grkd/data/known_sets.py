"""Known classification sets read from files that the user has: images in archives, intents in CSV and JSON.

What they have beyond inputs and labels: human labels with real noise, people's votes, look-alike classes, and texts
that belong to no class. Nothing is downloaded.
"""

import csv
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from grkd.data.classification import ClassificationData
from grkd.errors import UserError
from grkd.files import parse_json

KnownSet = Literal["cifar10", "tiny_imagenet32", "banking77", "clinc150"]
CifarLabels = Literal["clean", "aggregate", "random1", "random2", "random3", "worst"]

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_NOISY = {
    "aggregate": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "worst": "worse_label",
}
# Classes of Tiny ImageNet that people mix up, by WordNet id.
LOOK_ALIKES = {
    "dogs": ("n02085620", "n02094433", "n02099601", "n02099712", "n02106662", "n02113799"),
    "cats": ("n02123045", "n02123394", "n02124075"),
    "big cats": ("n02125311", "n02129165"),
    "horned animals": ("n02403003", "n02410509", "n02415577", "n02423022"),
    "apes": ("n02480495", "n02481823", "n02486410"),
    "lobsters": ("n01983481", "n01984695"),
    "butterflies": ("n02279972", "n02281406"),
    "cars": ("n03670208", "n03100240", "n04285008", "n02814533"),
    "bottles": ("n02823428", "n03937543", "n03983396"),
    "bridges": ("n04532670", "n04311004", "n04366367"),
}
_TILE = 32  # pixels of a side of an image on a sheet
_TRAIN_A_CLASS, _HELDOUT_A_CLASS = 250, 50
_BROKEN_ARCHIVE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error)


def known_set(
    name: KnownSet, folder: Path, *, labels: CifarLabels = "clean", teacher_labels: CifarLabels | None = None
) -> ClassificationData:
    """A set by its name, from its folder; labels and teacher_labels: cifar10 only (teacher_labels None: as labels).

    Raises UserError for a folder that lacks a file or holds a broken one.
    """
    if not folder.is_dir():
        raise UserError(f"data.folder: {folder}: no such folder")
    if name == "cifar10":
        return cifar10(folder, labels=labels, teacher_labels=teacher_labels)
    readers: dict[str, Callable[[Path], ClassificationData]] = {
        "tiny_imagenet32": tiny_imagenet32,
        "banking77": banking77,
        "clinc150": clinc150,
    }
    return readers[name](folder)


def cifar10(
    folder: Path, *, labels: CifarLabels = "clean", teacher_labels: CifarLabels | None = None
) -> ClassificationData:
    """CIFAR-10: 50,000 and 10,000 images, uint8 [3, 32, 32]; other labels are the people's of CIFAR-10N.

    Files: cifar10_train_jpeg.tar.xz, cifar10_test_jpeg.tar.xz (members "split/class/file" in the original order);
    cifar10n_labels.npz for other labels than clean; cifar10h_counts.npz, where there, gives the votes.
    Source: Krizhevsky (2009); CIFAR-10N: Wei et al., arXiv 2110.12088; CIFAR-10H: Peterson et al., arXiv 1908.07086.
    """
    images, clean = _cifar_images(folder / "cifar10_train_jpeg.tar.xz")
    heldout_images, heldout = _cifar_images(folder / "cifar10_test_jpeg.tar.xz")
    votes = None
    if (folder / "cifar10h_counts.npz").exists():
        found = _arrays(folder / "cifar10h_counts.npz", ("counts", "test_label"), len(heldout))
        _check_order(folder / "cifar10h_counts.npz", found["test_label"], heldout)
        votes = torch.from_numpy(found["counts"].astype(np.int64))
    return ClassificationData(
        kind="images",
        train_inputs=images,
        train_labels=_cifar_labels(folder, clean, labels),
        heldout_inputs=heldout_images,
        heldout_labels=heldout,
        class_names=list(CIFAR10),
        teacher_labels=None if teacher_labels is None else _cifar_labels(folder, clean, teacher_labels),
        heldout_votes=votes,
    )


def tiny_imagenet32(folder: Path) -> ClassificationData:
    """Tiny ImageNet at 32 x 32: 200 classes, 250 images of each to train on and 50 held out.

    Files: classes.json ([{"label", "wnid", "name"}]), tiny_imagenet32_train250.zip, tiny_imagenet32_val50.zip: a sheet
    of tiles, 25 across, a class. class_groups: the table of look-alikes above.
    """
    with _reading(folder / "classes.json") as path:
        classes = sorted(parse_json(path.read_bytes()), key=lambda entry: entry["label"])
        wnids = [entry["wnid"] for entry in classes]
        names = [entry["name"].split(",")[0] for entry in classes]
    parts = {}
    for split, file, count in (
        ("train", "tiny_imagenet32_train250.zip", _TRAIN_A_CLASS),
        ("val", "tiny_imagenet32_val50.zip", _HELDOUT_A_CLASS),
    ):
        images = torch.cat(_sheets(folder / file, [f"{split}/{wnid}.jpg" for wnid in wnids], count))
        parts[split] = images, torch.arange(len(wnids)).repeat_interleave(count)
    by_wnid = dict(zip(wnids, names, strict=True))
    groups = {name: [by_wnid[wnid] for wnid in group if wnid in by_wnid] for name, group in LOOK_ALIKES.items()}
    return ClassificationData(
        kind="images",
        train_inputs=parts["train"][0],
        train_labels=parts["train"][1],
        heldout_inputs=parts["val"][0],
        heldout_labels=parts["val"][1],
        class_names=names,
        class_groups={name: members for name, members in groups.items() if len(members) > 1},
    )


def banking77(folder: Path) -> ClassificationData:
    """Banking77: 10,003 and 3,080 questions to a bank, 77 intents.

    Files: banking77_train.csv, banking77_test.csv (text, category). Source: Casanueva et al., arXiv 2003.04807.
    """
    parts = {}
    for split in ("train", "test"):
        with _reading(folder / f"banking77_{split}.csv") as path, path.open(encoding="utf-8", newline="") as stream:
            parts[split] = [(row["text"], row["category"]) for row in csv.DictReader(stream)]
    return _texts(folder, parts["train"], parts["test"])


def clinc150(folder: Path) -> ClassificationData:
    """CLINC150: 15,000 and 4,500 queries, 150 intents; 1,000 held-out queries of none of them are outside_inputs.

    File: clinc150_data_full.json ({"train": [[text, intent]], "test", "oos_test"}).
    Source: Larson et al., arXiv 1909.02027.
    """
    with _reading(folder / "clinc150_data_full.json") as path:
        parts = parse_json(path.read_bytes())
        outside = [text for text, _ in parts["oos_test"]]
        return _texts(folder, parts["train"], parts["test"], outside)


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Turns what goes wrong with a file into one line that names it."""
    if not path.is_file():
        raise UserError(f"data.folder: {path}: no such file")
    try:
        yield path
    except (OSError, ValueError, LookupError, TypeError, EOFError, *_BROKEN_ARCHIVE) as error:
        if isinstance(error, UserError):
            raise
        text = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: not what this set has there ({type(error).__name__}: {text})") from None


def _pixels(content: bytes) -> np.ndarray:
    """[height, width, 3], uint8."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _cifar_images(path: Path) -> tuple[Tensor, Tensor]:
    with _reading(path), tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile()]
        contents = [stream.read() for member in members if (stream := archive.extractfile(member)) is not None]
        images = np.stack([_pixels(content) for content in contents])  # so small that threads would only wait
        labels = torch.tensor([CIFAR10.index(member.name.split("/")[-2]) for member in members])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels


def _cifar_labels(folder: Path, clean: Tensor, which: CifarLabels) -> Tensor:
    if which == "clean":
        return clean
    path = folder / "cifar10n_labels.npz"
    found = _arrays(path, ("clean_label", _NOISY[which]), len(clean))
    _check_order(path, found["clean_label"], clean)
    return torch.from_numpy(found[_NOISY[which]].astype(np.int64))


def _arrays(path: Path, names: Sequence[str], length: int) -> dict[str, np.ndarray]:
    with _reading(path), np.load(path) as stored:
        arrays = {name: stored[name] for name in names}
    for name, array in arrays.items():
        if len(array) != length:
            raise UserError(f"{path}: {name} has {len(array)} entries, there are {length} images")
    return arrays


def _check_order(path: Path, stored: np.ndarray, labels: Tensor) -> None:
    """Labels of other files belong to images by position alone."""
    if not np.array_equal(stored, labels.numpy()):
        raise UserError(f"{path}: its true labels are not those of the images; the two are not in the same order")


def _sheets(path: Path, names: Sequence[str], count: int) -> list[Tensor]:
    """The first `count` tiles of every sheet, [count, 3, 32, 32] each."""
    with _reading(path), zipfile.ZipFile(path) as archive, ThreadPoolExecutor() as pool:
        sheets = list(pool.map(_pixels, [archive.read(name) for name in names]))
        for name, sheet in zip(names, sheets, strict=True):
            if sheet.shape[0] % _TILE or sheet.shape[1] % _TILE or sheet.size < count * 3 * _TILE**2:
                size = f"{sheet.shape[1]} x {sheet.shape[0]}"
                raise ValueError(f"{name} is {size}, not {count} tiles of {_TILE} x {_TILE}")
    return [_tiles(sheet)[:count] for sheet in sheets]


def _tiles(sheet: np.ndarray) -> Tensor:
    down, across = sheet.shape[0] // _TILE, sheet.shape[1] // _TILE
    tiles = torch.from_numpy(sheet.copy()).view(down, _TILE, across, _TILE, 3).permute(0, 2, 4, 1, 3)
    return tiles.reshape(-1, 3, _TILE, _TILE).contiguous()


def _texts(folder: Path, train: list[Any], heldout: list[Any], outside: Sequence[str] = ()) -> ClassificationData:
    names = sorted({label for _, label in train})
    index = {name: number for number, name in enumerate(names)}
    unknown = sorted({label for _, label in heldout} - set(names))
    if unknown:
        raise UserError(f"{folder}: the held-out part has the label {unknown[0]!r}, the training part does not")
    return ClassificationData(
        kind="text",
        train_inputs=[text for text, _ in train],
        train_labels=torch.tensor([index[label] for _, label in train]),
        heldout_inputs=[text for text, _ in heldout],
        heldout_labels=torch.tensor([index[label] for _, label in heldout]),
        class_names=names,
        outside_inputs=outside,
    )
