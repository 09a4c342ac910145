"""Students made from a teacher: some of its layers, or its architecture with fresh weights."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from grkd.errors import UserError, nearest
from grkd.models.attention import honour_softcap
from grkd.models.load import one_line, quiet, rebuilt

_MOST_PARTS = 1_000  # layers, heads or experts of a model with fresh weights


def truncated(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A new model of these layers of `model` (numbers from 0, rising), with everything else of it.

    Embeddings, final norm, head and generation config are copied, tied weights stay tied, and lists in the config with
    one entry a layer (such as layer_types) are cut alike. Raises UserError for numbers that are out of range or do not
    rise, and for architectures whose layers are not in one list.
    """
    config = copy.deepcopy(model.config)
    text = config.get_text_config(decoder=True)
    depth = text.num_hidden_layers
    check_layers(config, layers)
    prefixes = _layer_lists(model, depth)
    if not prefixes:
        raise UserError(f"a {config.model_type} model cannot be cut by layers: it has no list of {depth} layers")
    for name in _per_layer_fields(text):
        setattr(text, name, [getattr(text, name)[layer] for layer in layers])
    text.num_hidden_layers = len(layers)
    return rebuilt(model, config, _renamed(model.state_dict(), prefixes, layers))


def check_layers(config: PreTrainedConfig, layers: Sequence[int]) -> None:
    """Raises UserError unless these are rising numbers of layers that the config's model has."""
    depth = config.get_text_config(decoder=True).num_hidden_layers
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < depth:
        raise UserError(
            f"layers must be rising numbers from 0 to {depth - 1} (the teacher has {depth}), got {list(layers)}"
        )


def fresh(
    config_of_teacher: PreTrainedConfig, overrides: dict[str, Any], seed: int, *, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A model with random weights and the teacher's config, some fields changed; the seed decides the weights.

    Where num_hidden_layers changes, the config's lists with one entry a layer take their defaults again.
    Raises UserError for a field that the config has not, with the nearest name, or a value that it refuses.
    """
    values = config_of_teacher.to_dict()
    for name in overrides:
        if name not in values:
            near = nearest(name, values)
            hint = f"; did you mean {near!r}?" if near else ""
            raise UserError(f"student.config: a {config_of_teacher.model_type} model has no field {name!r}{hint}")
        # Each is a module of its own: building a million of them would take hours before memory runs out.
        if name.startswith("num_") and isinstance(overrides[name], int) and overrides[name] > _MOST_PARTS:
            raise UserError(f"student.config: {name} is {overrides[name]}; at most {_MOST_PARTS} are possible")
    if overrides.get("num_hidden_layers", values.get("num_hidden_layers")) != values.get("num_hidden_layers"):
        values = {name: value for name, value in values.items() if name not in _per_layer_fields(config_of_teacher)}
    try:
        config = type(config_of_teacher).from_dict({**values, **overrides})
        with torch.random.fork_rng(devices=[]), quiet():
            torch.default_generator.manual_seed(seed)
            return honour_softcap(AutoModelForCausalLM.from_config(config, dtype=dtype)).eval()
    except (TypeError, ValueError, RuntimeError, StrictDataclassError) as error:
        raise UserError(f"student.config: {one_line(error)}; change one of {', '.join(overrides)}") from None


def _layer_lists(model: PreTrainedModel, depth: int) -> list[str]:
    """Prefixes, in the state dict, of the decoder's lists of layers (not of lists inside a layer)."""
    inside = set(model.get_decoder().modules())
    prefixes: list[str] = []
    for name, part in model.named_modules():
        is_list = isinstance(part, nn.ModuleList) and len(part) == depth and part in inside
        if is_list and not name.startswith(tuple(prefixes)):
            prefixes.append(f"{name}.")
    return prefixes


def _renamed(state: dict[str, Tensor], prefixes: list[str], layers: Sequence[int]) -> dict[str, Tensor]:
    """The state without dropped layers, kept ones numbered anew."""
    place = {str(old): str(new) for new, old in enumerate(layers)}
    kept = {}
    for name, value in state.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is None:
            kept[name] = value
            continue
        number, _, rest = name[len(prefix) :].partition(".")
        if number in place:
            kept[f"{prefix}{place[number]}.{rest}"] = value
    return kept


def _per_layer_fields(config: PreTrainedConfig) -> list[str]:
    """Fields of the config that are lists with one entry a layer."""
    others = ("architectures", "bos_token_id", "eos_token_id", "pad_token_id")  # lists, but not of layers
    return [
        name
        for name, value in config.to_dict().items()
        if isinstance(value, list) and len(value) == config.num_hidden_layers and name not in others
    ]
