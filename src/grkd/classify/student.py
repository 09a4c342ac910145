"""A classifier on disk: saved with all that is needed to use it, and loaded again by one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from grkd.classify.data import Classifier
from grkd.data.classification_batches import stack_inputs
from grkd.data.features import TfidfFeatures
from grkd.errors import UserError
from grkd.files import read_json, write_json
from grkd.models.networks import build, is_transformers, predict

_ABOUT = "classifier.json"
_FEATURES = "features.json"


@dataclass(frozen=True, kw_only=True)
class SavedClassifier:
    """A loaded classifier. about: the method, seed, settings and metrics that it was kept with, if any."""

    module: nn.Module
    class_names: list[str]
    about: dict[str, Any]
    features: TfidfFeatures | None = None

    def scores(self, inputs: Tensor | Sequence[str]) -> Float[Tensor, "examples classes"]:
        """Logits of a batch of inputs: features or images as a tensor, or texts for a network on TF-IDF."""
        if not isinstance(inputs, Tensor):
            if self.features is None:
                raise UserError("this classifier takes a tensor of inputs, not texts")
            inputs = self.features(list(inputs))
        return predict(self.module, inputs, stack_inputs, batch_size=256)

    def classify(self, inputs: Tensor | Sequence[str]) -> list[str]:
        """The name of the highest class of each input."""
        return [self.class_names[number] for number in self.scores(inputs).argmax(-1).tolist()]


def save_classifier(module: nn.Module, folder: Path, *, processor: Any = None) -> None:
    """A transformers folder with its processor, or model.safetensors of any other module."""
    from transformers import PreTrainedModel

    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(module, PreTrainedModel):
        module.save_pretrained(folder)
        processor.save_pretrained(folder)
    else:
        save_model(module, str(folder / "model.safetensors"))


def describe_classifier(folder: Path, classifier: Classifier, about: dict[str, Any]) -> None:
    """Beside a saved model: what `load_classifier` needs, and `about`."""
    write_json(folder / _ABOUT, about)
    if classifier.features is not None:
        classifier.features.save(folder / _FEATURES)


def load_classifier(folder: Path | str) -> SavedClassifier:
    """The student that `grkd run` or `grkd compare` kept in runs/NAME/best/.

    A transformers student is loaded by transformers itself: pipeline("text-classification", "runs/NAME/best/model").
    Raises UserError for a folder without one.
    """
    folder = Path(folder)
    if not (folder / _ABOUT).is_file():
        raise UserError(f"{folder}: no {_ABOUT}; give a folder that grkd kept a classifier in, such as runs/NAME/best")
    about = read_json(folder / _ABOUT)
    if is_transformers(about["model"]):
        raise UserError(f"{folder}: a transformers model; load {folder / 'model'} with transformers")
    names = about["class_names"]
    module = build(
        about["model"],
        input_shape=tuple(about["input_shape"]),
        classes=len(names),
        options=about["options"],
        seed=0,
    )
    load_weights_of(module, folder / "model")
    features = TfidfFeatures.load(folder / _FEATURES) if (folder / _FEATURES).is_file() else None
    return SavedClassifier(module=module.eval(), class_names=names, about=about, features=features)


@torch.no_grad()
def load_weights_of(module: nn.Module, folder: Path) -> None:
    """Fill a module from a folder that `save_classifier` wrote."""
    load_model(module, folder / "model.safetensors")
