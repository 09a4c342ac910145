"""Adapters of peft: merged into their base model, on loading or in a copy; heads that must not be tied under them."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from grkd.errors import UserError
from grkd.files import NotJSON, parse_json

_REPLACES = "unload_and_optionally_merge_module"  # peft's method of wrappers that are no adapted layers


def adapter_base(place: str, *, revision: str | None = None) -> str | None:
    """The base model that an adapter's folder or hub name names; None if `place` holds no adapter."""
    found = find_adapter_config_file(place, revision=revision)
    if found is None:
        return None
    try:
        config = parse_json(Path(found).read_bytes())
    except NotJSON as error:
        raise UserError(
            f"{place}: its adapter_config.json is not JSON ({error}); save or copy the adapter again"
        ) from None
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not base:
        raise UserError(
            f"{place}: its adapter_config.json names no base_model_name_or_path; set it to the model that the adapter "
            "was trained on"
        )
    return str(base)


def merged(place: str, load_base: Callable[[], PreTrainedModel], *, revision: str | None = None) -> PreTrainedModel:
    """The base model with the adapter of `place` merged into its weights: an ordinary model.

    Raises UserError if peft is not installed, or for an adapter that is no change of weights (prompt tuning).
    """
    try:
        from peft import PeftConfig, PeftModel
    except ImportError:
        raise UserError(f"{place} is an adapter, which needs peft: pip install 'grkd[lora]'") from None
    config = PeftConfig.from_pretrained(place, revision=revision)
    if config.is_prompt_learning:
        raise UserError(
            f"{place}: an adapter of kind {config.peft_type.value} cannot be merged into a model; give LoRA"
        )
    base = load_base()
    with ties_are_ours():
        adapted = PeftModel.from_pretrained(base, place, revision=revision)
        untie_adapted(adapted)
        made: PreTrainedModel = adapted.merge_and_unload()
    made.requires_grad_(True)  # peft froze them
    return made


@contextmanager
def ties_are_ours() -> Iterator[None]:
    """No warning of peft's about adapters on tied weights: `untie_adapted` takes care of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model with `tie_word_embeddings|Model has `tie_word_embeddings")
        yield


def untie_adapted(adapted: Any) -> None:
    """Give the head a weight of its own, in place, where an adapter sits on the head or embedding of a tied model.

    Merged into the one weight, an adapter of one side would change the other side too.
    """
    model = adapted.get_base_model()
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    sides = [(module, _inner(module)) for module in (embeddings, head)]
    if head is None or sides[0][1].weight is not sides[1][1].weight or all(outer is inner for outer, inner in sides):
        return
    own = sides[1][1]
    own.weight = nn.Parameter(own.weight.detach().clone(), requires_grad=own.weight.requires_grad)
    for config in (model.config, model.config.get_text_config(decoder=True)):
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}  # what save_pretrained leaves out


def plain_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and weights that the model would have after its adapters were merged into it; it stays as it is.

    One adapted layer at a time is copied. A model without adapters: all of its state.
    """
    adapted = {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, _REPLACES) or isinstance(getattr(module, "base_layer", None), nn.Module)
    }
    given: set[str] = set()
    for name, value in model.state_dict().items():
        above = (name[:at] for at, letter in enumerate(name) if letter == ".")
        outer = next((place for place in above if place in adapted), None)
        if outer is None:
            yield name, value.detach()
        elif outer not in given:
            given.add(outer)
            merged_layer = _merged_layer(adapted[outer])
            yield from ((f"{outer}.{own}", weight.detach()) for own, weight in merged_layer.state_dict().items())


@torch.no_grad()
def _merged_layer(layer: Any) -> nn.Module:
    """The plain layer that peft would put in place of an adapted one."""
    own = copy.deepcopy(layer)
    if replaces := getattr(own, _REPLACES, None):  # modules_to_save, trainable tokens
        found: nn.Module = replaces(merge=True, safe_merge=False, adapter_names=None)
        return found
    own.merge()
    base: nn.Module = own.get_base_layer()
    return base


def trains_biases(model: nn.Module) -> bool:
    """Whether adapters of the model train biases of its base too, which stay when the adapters are switched off."""
    configs: Any = getattr(model, "peft_config", {})
    return any(getattr(config, "bias", "none") != "none" for config in configs.values())


def apart(teacher: Any, student: nn.Module) -> Any:
    """The teacher; a frozen copy of it, as it is now, where it shares a weight with the student.

    A teacher that is the model under the student's adapter is copied without the adapter.
    """
    if not shares_weights(teacher, student):
        return teacher
    made = copy.deepcopy(teacher)
    if hasattr(student, "peft_config") and teacher is not student:
        for module in made.modules():
            if _inner(module) is not module and callable(enable := getattr(module, "enable_adapters", None)):
                enable(False)
    return made.eval().requires_grad_(False)


def shares_weights(teacher: nn.Module | None, student: nn.Module) -> bool:
    """Whether any weight of the teacher is also the student's."""
    own = {id(parameter) for parameter in student.parameters()}
    return teacher is not None and any(id(parameter) in own for parameter in teacher.parameters())


def _inner(module: Any) -> Any:
    """The module under an adapter's layer, or itself."""
    for name in ("base_layer", "original_module"):
        if isinstance(inner := getattr(module, name, None), nn.Module):
            return inner
    return module
