"""Images in one folder per class, or named in a table, read with Pillow; large sets are read when asked."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from grkd.data.classification import ClassificationData
from grkd.data.splits import stratified_sample, stratified_split
from grkd.errors import UserError

IMAGE_SUFFIXES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
_OTHER_NAMES = frozenset(("val", "valid", "validation", "test", "dev", "eval"))

# Above this the pixels stay on disk and are decoded again in every epoch.
_IN_MEMORY_BYTES = 2**30


class ImageFiles(Sequence[Tensor]):
    """Image files as a sequence of uint8 tensors [3, size, size]; each is read when it is asked for."""

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths = paths
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        return read_image(self.paths[index], self.size)


def image_folder(
    path: Path, *, image_size: int, heldout_fraction: float, seed: int, limit: int | None = None
) -> ClassificationData:
    """Images from path/train/CLASS/file and path/heldout/CLASS/file, or path/CLASS/file split with the seed.

    With train/ alone, heldout_fraction of it is held out. Inputs are uint8 [3, image_size, image_size], in memory up to
    1 GiB and read when asked above it. limit: keep that many training examples, classes in their shares; other files
    are not opened. Raises UserError for a folder without classes, a class without images, a held-out class that is
    not in train, and a file that is no image.
    """
    root, heldout_root = _parts(path)
    class_names = _class_names(root)
    files, labels = _listed(root, class_names)
    if heldout_root is not None:
        for name in _class_names(heldout_root, fewest=1):
            if name not in class_names:
                raise UserError(f"{heldout_root / name}: there is no class {name!r} in {root}")
        kept = torch.arange(len(files))
        heldout_files, heldout_labels = _listed(heldout_root, class_names, every_class=False)
    else:
        kept, held = stratified_split(labels, heldout_fraction, seed=seed)
        heldout_files, heldout_labels = [files[i] for i in held.tolist()], labels[held]
    if limit is not None:
        kept = kept[stratified_sample(labels[kept], limit, seed=seed)]
    return ClassificationData(
        kind="images",
        train_inputs=_read_all(ImageFiles([files[i] for i in kept.tolist()], image_size)),
        train_labels=labels[kept],
        heldout_inputs=_read_all(ImageFiles(heldout_files, image_size)),
        heldout_labels=heldout_labels,
        class_names=class_names,
    )


def named_images(table: ClassificationData, folder: Path, *, size: int) -> ClassificationData:
    """The images that a table's texts name, relative to the folder, as `image_folder` gives them.

    Raises UserError for a file that is not there, or is no image.
    """
    parts = []
    for names in (table.train_inputs, table.heldout_inputs):
        paths = [folder / str(name) for name in names]
        if absent := next((path for path in paths if not path.is_file()), None):
            raise UserError(f"{absent}: no such file; data.image names files inside data.image_root")
        parts.append(_read_all(ImageFiles(paths, size)))
    return replace(table, kind="images", train_inputs=parts[0], heldout_inputs=parts[1])


def read_image(path: Path, size: int) -> UInt8[Tensor, "3 size size"]:
    """An image as RGB in 0..255: turned as its EXIF says, its shorter side scaled to `size`, its centre cut out.

    Raises UserError, naming the file, where Pillow cannot read it.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            if opened.mode == "F" or (opened.mode == "I" and opened.format != "PNG"):  # older Pillows: PNG of 16 bits
                raise ValueError("its pixels have 32 bits, of which nothing says what is white; save it with 8 or 16")
            image: Image.Image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):
                # 16-bit grey: Pillow's own conversion to RGB would clip everything above 255 to white.
                image = Image.fromarray((np.asarray(image).astype(np.int64) // 256).clip(0, 255).astype(np.uint8))
            if "transparency" in image.info:
                image = image.convert("RGBA")
            image = ImageOps.fit(image.convert("RGB"), (size, size), method=Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path}: cannot be read as an image ({str(error).splitlines()[0]}); repair or remove it"
        ) from None
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def class_names(path: Path) -> list[str]:
    """Names of the classes of a folder of images; no image is opened. Raises what `image_folder` raises."""
    return _class_names(_parts(path)[0])


def _parts(path: Path) -> tuple[Path, Path | None]:
    """The folder of the training classes, and that of the held-out ones if there is one."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder")
    names = {child.name for child in path.iterdir() if child.is_dir()}
    other = sorted(name for name in names if name.lower() in _OTHER_NAMES)
    if other and "heldout" not in names:
        # Taken for classes they would make a set of two classes, "train" and "test".
        raise UserError(f"{path}: has a folder {other[0]!r}; name the parts 'train' and 'heldout'")
    if "heldout" in names and "train" not in names:
        raise UserError(f"{path}: has 'heldout' but no 'train'; it needs both, or one folder for each class")
    return (path / "train" if "train" in names else path), (path / "heldout" if "heldout" in names else None)


def _class_names(root: Path, *, fewest: int = 2) -> list[str]:
    names = sorted(child.name for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    if len(names) < fewest:
        raise UserError(f"{root}: {len(names)} class folders in it; it needs one folder of images for each class")
    return names


def _listed(root: Path, class_names: list[str], *, every_class: bool = True) -> tuple[list[Path], Tensor]:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        found = sorted(
            file for file in (root / name).rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
        )
        if not found and every_class:
            raise UserError(f"{root / name}: no images in it (known: {', '.join(sorted(IMAGE_SUFFIXES))})")
        files += found
        labels += [label] * len(found)
    if not files:
        raise UserError(f"{root}: no images in it (known: {', '.join(sorted(IMAGE_SUFFIXES))})")
    return files, torch.tensor(labels)


def _read_all(files: ImageFiles) -> Tensor | ImageFiles:
    if len(files) * 3 * files.size**2 > _IN_MEMORY_BYTES:
        return files
    return torch.stack([files[i] for i in range(len(files))])
