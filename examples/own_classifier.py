"""A classifier of one's own: a folder of images, a torch module written here, and `grkd run`.

python examples/own_classifier.py IMAGES OUTPUT

IMAGES has a folder per class with image files inside. The teacher is trained on the labels first, then the student
learns from it with three methods; OUTPUT/report.html compares them. Needs pillow: pip install 'grkd[image]'.
"""

import sys
from pathlib import Path

import yaml
from torch import nn

from grkd.cli import main as grkd

# Run from this folder, or put it on PYTHONPATH: recipes name modules by import path.
FACTORY = "own_classifier:convolutions"


def convolutions(*, classes: int, input_shape: tuple[int, int, int], width: int = 16) -> nn.Module:
    """Any nn.Module from images [batch, channels, height, width] to logits [batch, classes].

    A factory gets `classes` and `input_shape` of the data if it names them, and the recipe's options.
    """
    return nn.Sequential(
        nn.Conv2d(input_shape[0], width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, classes),
    )


def recipe(images: Path, output: Path, *, epochs: int = 20) -> dict:
    """The recipe as `grkd run` reads it from YAML."""
    return {
        "task": "classifier",
        "output": str(output),
        "data": {"image_folder": str(images), "image_size": 16},
        "teacher": {
            "model": FACTORY,
            "options": {"width": 32},
            "training": {"epochs": epochs, "batch_size": 16, "learning_rate": 3e-3},
        },
        "student": {"model": FACTORY, "options": {"width": 4}},
        "methods": ["ce", "kd", {"name": "grkd", "preset": "classes"}],
        "training": {"epochs": epochs, "batch_size": 16, "learning_rate": 1e-2},
    }


def main(images: Path, output: Path, *, epochs: int = 20) -> int:
    """Exit status of `grkd run`."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / "own_classifier.yaml"
    path.write_text(yaml.safe_dump(recipe(images.absolute(), output.absolute(), epochs=epochs)), encoding="utf-8")
    return grkd(["run", str(path)])


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2])))
