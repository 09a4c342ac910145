"""Classifiers of the transformers library, with their classes in the data's order."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from grkd import hub
from grkd.console import console
from grkd.errors import UserError

_HEADS = {"text": "ForSequenceClassification", "images": "ForImageClassification"}


@dataclass(frozen=True)
class _InDataOrder:
    """A forward hook: the model's logits in the order of the data's classes. `order[i]`: the model's place of class i.

    A hook, so that the model stays what it is: saved, it keeps its own order and the names that go with it.
    """

    order: tuple[int, ...]

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        output.logits = output.logits[..., torch.tensor(self.order, device=output.logits.device)]
        return output


def load_transformers_classifier(
    model: str,
    *,
    class_names: list[str],
    kind: Literal["text", "images"],
    seed: int,
    needs_head: bool = False,
    new_head: bool = False,
) -> tuple[nn.Module, Any]:
    """A classifier in float32 and its tokenizer (text) or image processor (images), from a hub name or a folder.

    A model without a classification head gets a fresh one, drawn from the seed, that carries class_names; with
    needs_head (a teacher that is used as it is) that is an error. A fine-tuned head must have the data's classes: they
    are matched by name and the logits are put into the order of class_names. new_head replaces a fine-tuned head.
    Raises UserError for a model that cannot be loaded, another number of classes, or names that do not match.
    """
    from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

    hub.check_path(model)
    config = _loaded(model, AutoConfig)
    fine_tuned = not new_head and any(name.endswith(_HEADS[kind]) for name in config.architectures or [])
    if fine_tuned:
        order = _order(model, config, class_names)
    else:
        if needs_head:
            raise UserError(f"{model}: has no classification head; choose a fine-tuned model, or give it `training`")
        config.id2label = dict(enumerate(class_names))
        config.label2id = {name: label for label, name in enumerate(class_names)}
        order = None
    processor = _processor(model, kind, config)
    automatic = AutoModelForSequenceClassification if kind == "text" else AutoModelForImageClassification
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network, info = _loaded(
            model, automatic, config=config, ignore_mismatched_sizes=not fine_tuned,
            output_loading_info=True, dtype=torch.float32,
        )  # fmt: skip
    if fine_tuned and info["missing_keys"]:
        raise UserError(f"{model}: its weights lack {sorted(info['missing_keys'])[0]}; the folder is incomplete")
    if order is not None and order != tuple(range(len(order))):
        network.register_forward_hook(_InDataOrder(order))
    return network, processor


def _loaded(model: str, automatic: Any, **options: Any) -> Any:
    hub.look_for(model)
    with _quiet():
        try:
            return automatic.from_pretrained(model, **options)
        except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
            raise UserError(f"{model}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of fresh weights: the fresh head is asked for, and missing weights are checked."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _processor(model: str, kind: str, config: Any) -> Any:
    from transformers import AutoImageProcessor, AutoTokenizer

    if kind == "images":
        return _loaded(model, AutoImageProcessor)
    tokenizer = _loaded(model, AutoTokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    if getattr(config, "pad_token_id", None) is None:
        # Models that read the last token's state look for it by this id.
        config.pad_token_id = tokenizer.pad_token_id
    # Absolute positions end here, whatever the tokenizer says (often nothing: 10^30). RoBERTa's start at pad_id + 1.
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None:
        offset = config.pad_token_id + 1 if "roberta" in config.model_type else 0
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions - offset)
    return tokenizer


def _order(model: str, config: Any, class_names: list[str]) -> tuple[int, ...]:
    """Where each of the data's classes is in the model's logits."""
    theirs = [str(config.id2label[label]) for label in range(config.num_labels)]
    if len(theirs) != len(class_names):
        raise UserError(
            f"{model}: was fine-tuned for {len(theirs)} classes, the data has {len(class_names)}; "
            "choose another model, or train it with options: {new_head: true}"
        )
    for form in (str, plain_name):  # exactly, or with other capitals, "-", "_" and spaces
        places = {form(name): place for place, name in enumerate(theirs)}
        if len(places) == len(theirs) and places.keys() == {form(name) for name in class_names}:
            return tuple(places[form(name)] for name in class_names)
    if all(name.upper() == f"LABEL_{place}" for place, name in enumerate(theirs)):
        return _unnamed(model, class_names)
    unknown = [name for name in class_names if plain_name(name) not in places] or class_names
    raise UserError(
        f"{model}: its classes ({_listed(theirs)}) are not the data's; it has none for {_listed(unknown)}; "
        "rename the labels, or choose another model"
    )


def _unnamed(model: str, class_names: list[str]) -> tuple[int, ...]:
    """The order of a model whose classes are LABEL_0, LABEL_1, ...: by number where the data's classes are numbers."""
    if {name.removeprefix("LABEL_") for name in class_names} == {str(place) for place in range(len(class_names))}:
        return tuple(int(name.removeprefix("LABEL_")) for name in class_names)
    console.print(f"{model}: its classes have no names; taken to be in the order {_listed(class_names)}", markup=False)
    return tuple(range(len(class_names)))


def plain_name(name: str) -> str:
    """A class's name by which heads and data are matched."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
