"""A recipe's classifier on a recipe's data: the module, its view of the inputs, and how they become batches."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from grkd.data.classification import ClassificationData, digits
from grkd.data.classification_batches import PadTokens, Prepare, ProcessImages, stack_inputs, tokenise
from grkd.data.features import TfidfFeatures
from grkd.data.known_sets import known_set
from grkd.data.labelled_images import image_folder, named_images
from grkd.data.labelled_text import labelled_text
from grkd.errors import UserError
from grkd.models.networks import build, is_transformers, load_weights
from grkd.models.transformers_classifiers import load_transformers_classifier
from grkd.recipe import ClassifierData, ClassifierModel, ClassifierRecipe


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A module with the inputs of both splits as it takes them.

    processor: of a transformers model. features: of a network on texts.
    """

    module: nn.Module
    train_inputs: Tensor | Sequence[Any]
    heldout_inputs: Tensor | Sequence[Any]
    prepare: Prepare
    processor: Any = None
    features: TfidfFeatures | None = None


def load_data(data: ClassifierData, *, seed: int, ranking: str | None = None) -> ClassificationData:
    """The labelled examples that a recipe names. ranking: column of a JSONL file with orders of classes."""
    if data.image_folder is not None:
        return image_folder(
            Path(data.image_folder),
            image_size=data.image_size,
            heldout_fraction=data.heldout_fraction,
            seed=seed,
            limit=data.limit,
        )
    if data.dataset == "digits":
        found = digits(heldout_fraction=data.heldout_fraction, seed=seed)
    elif data.dataset is not None:
        assert data.folder is not None
        found = known_set(data.dataset, Path(data.folder), labels=data.labels, teacher_labels=data.teacher_labels)
    else:
        assert data.train is not None
        found = labelled_text(
            Path(data.train),
            None if data.heldout is None else Path(data.heldout),
            text=data.image or data.text,
            label=data.label,
            heldout_fraction=data.heldout_fraction,
            seed=seed,
            ranking=ranking,
        )
    if data.limit is not None:
        found = found.limited(data.limit, seed=seed)
    return found if data.image_root is None else named_images(found, Path(data.image_root), size=data.image_size)


def make_classifier(
    spec: ClassifierModel, data: ClassificationData, recipe: ClassifierRecipe, *, seed: int, needs_head: bool
) -> Classifier:
    """A teacher or student before training. Raises UserError if model and data do not fit."""
    features = None
    if is_transformers(spec.model):
        return _transformers(spec, data, recipe, seed=seed, needs_head=needs_head)
    if data.kind == "text":
        if recipe.data.features != "tfidf":
            raise UserError(f"{spec.model}: this network cannot read text; set data.features: tfidf")
        features = TfidfFeatures(list(data.train_inputs))
        train, heldout = features(list(data.train_inputs)), features(list(data.heldout_inputs))
        data = dataclasses.replace(data, kind="features", train_inputs=train, heldout_inputs=heldout)
    elif spec.model == "cnn" and data.kind == "features":
        data = data.as_images()
    return Classifier(
        module=network(spec, data.input_shape, classes=data.classes, seed=seed),
        train_inputs=data.train_inputs,
        heldout_inputs=data.heldout_inputs,
        prepare=stack_inputs,
        features=features,
    )


def network(spec: ClassifierModel, input_shape: tuple[int, ...], *, classes: int, seed: int) -> nn.Module:
    """A built-in network or one of a factory for inputs of this shape, before training: its weights, if given."""
    made = build(spec.model, input_shape=input_shape, classes=classes, options=spec.options, seed=seed)
    if spec.weights is not None:
        load_weights(made, Path(spec.weights))
    return made


def _transformers(
    spec: ClassifierModel, data: ClassificationData, recipe: ClassifierRecipe, *, seed: int, needs_head: bool
) -> Classifier:
    data = data.as_images() if data.kind == "features" else data
    kind: Literal["text", "images"] = "text" if data.kind == "text" else "images"
    for option in spec.options:
        if option != "new_head":
            raise UserError(f"{spec.model}: unknown option {option!r} of a transformers classifier; known: new_head")
    module, processor = load_transformers_classifier(
        spec.model,
        class_names=data.class_names,
        kind=kind,
        seed=seed,
        needs_head=needs_head,
        new_head=bool(spec.options.get("new_head", False)),
    )
    train, heldout = data.train_inputs, data.heldout_inputs
    prepare: Prepare = ProcessImages(processor=processor)
    if kind == "text":
        limit = recipe.data.max_tokens
        train, heldout = (tokenise(list(texts), processor, max_tokens=limit) for texts in (train, heldout))
        prepare = PadTokens(pad_id=processor.pad_token_id)
    return Classifier(module=module, train_inputs=train, heldout_inputs=heldout, prepare=prepare, processor=processor)
