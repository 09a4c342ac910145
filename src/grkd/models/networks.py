"""Any classifier as one thing: built in, from an import path, or from transformers; `scores` gives its logits."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model
from torch import Tensor, nn

from grkd.data.classification_batches import Inputs, Prepare, moved
from grkd.errors import UserError
from grkd.imports import imported_callable, working_directory_importable
from grkd.models._networks import cnn, mlp
from grkd.models.evaluation_mode import evaluation_mode

BUILT_IN: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "cnn": cnn}


def is_transformers(model: str) -> bool:
    """True for a hub name or a folder: neither built in nor an import path "package.module:factory"."""
    return model not in BUILT_IN and ":" not in model


def build(
    model: str,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    options: Mapping[str, Any],
    seed: int,
    vocabulary: int | None = None,
) -> nn.Module:
    """A network by name, with weights drawn from the seed (torch's global state on the CPU is left as it was).

    model: "mlp" (options hidden, dropout), "cnn" (channels, dropout), or "package.module:factory", looked for in the
    current directory too and called with `options`, and with classes, input_shape and vocabulary where it names them.
    input_shape: of one input, without the batch. vocabulary: for token ids; the network is then called with
    input_ids and attention_mask [batch, tokens], and input_shape is (tokens,).
    A dry forward in eval mode checks that two inputs give [2, classes].
    Raises UserError for a name or options that do not work, a result that is no nn.Module, and a wrong shape.
    """
    given: dict[str, Any] = {"classes": classes, "input_shape": input_shape}
    if vocabulary is not None:
        given["vocabulary"] = vocabulary
    with torch.random.fork_rng(devices=[]), working_directory_importable():
        factory = BUILT_IN[model] if model in BUILT_IN else imported_callable(model)
        torch.default_generator.manual_seed(seed)
        keywords = _keywords(model, factory, options, given)
        try:
            network = factory(**keywords)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{model}: building it failed: {_one_line(error)}") from error
        if not isinstance(network, nn.Module):
            raise UserError(f"{model}: gave a {type(network).__name__}, not an nn.Module")
        _check_outputs(model, network, input_shape, classes, vocabulary)
    return network


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module from a safetensors file.

    Raises UserError for a file that is absent or no safetensors, and for names or shapes other than the module's.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    try:
        with safe_open(path, framework="pt") as stored:
            shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from None
    for name, value in module.state_dict().items():
        if name in shapes and shapes[name] != tuple(value.shape):
            raise UserError(
                f"{path}: {name} has shape {shapes[name]}, the model's has {tuple(value.shape)}; "
                "give the model the options that it was trained with"
            )
    missing, unexpected = load_model(module, path, strict=False)
    for names, problem in ((missing, "lacks"), (unexpected, "has, unlike the model,")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(f"{path}: {problem} {', '.join(sorted(names)[:3])}{more}; it belongs to another model")


def scores(model: nn.Module, inputs: Inputs) -> Float[Tensor, "batch classes"]:
    """Logits of any classifier: inputs are a tensor, or a dict that is spread as keywords; the output is a tensor or
    has `logits`. Raises ValueError for another output."""
    output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(output).__name__}"
        raise ValueError(f"a classifier must give logits [batch, classes], got {found}")
    return logits


@torch.no_grad()
def predict(
    model: nn.Module,
    inputs: Tensor | Sequence[Any],
    prepare: Prepare,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "examples classes"]:
    """Logits of all inputs in eval mode, float32 on the CPU; the model's training mode is left as it was."""
    found = []
    with evaluation_mode(model):
        for start in range(0, len(inputs), batch_size):
            batch = prepare([inputs[i] for i in range(start, min(start + batch_size, len(inputs)))])
            found.append(scores(model, moved(batch, device)).float().cpu())
    return torch.cat(found)


def _keywords(
    model: str, factory: Callable[..., Any], options: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The options, and what is `given` by the data where the factory names it; UserError where they do not fit."""
    try:
        signature = inspect.signature(factory)
    except ValueError:  # a factory written in C tells no signature
        return dict(options)
    named = [name for name, parameter in signature.parameters.items() if parameter.kind is not parameter.VAR_KEYWORD]
    known = [name for name in named if name not in given]
    for option in options:
        if option in given and option in named:
            raise UserError(f"{model}: {option} comes from the data; remove it from options")
        if option not in known and len(named) == len(signature.parameters):
            raise UserError(f"{model}: unknown option {option!r}; known: {', '.join(known) or 'it has none'}")
    keywords = {**options, **{name: value for name, value in given.items() if name in named}}
    try:
        signature.bind(**keywords)
    except TypeError as error:
        raise UserError(f"{model}: {error}; set it in options") from None
    return keywords


@torch.no_grad()
def _check_outputs(
    model: str, network: nn.Module, input_shape: tuple[int, ...], classes: int, vocabulary: int | None
) -> None:
    inputs: Inputs = torch.zeros(2, *input_shape)
    if vocabulary is not None:
        ids = torch.zeros(2, *input_shape, dtype=torch.long)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    try:
        with evaluation_mode(network):
            found = scores(network, inputs)
    except Exception as error:
        raise UserError(f"{model}: does not run on 2 inputs of shape {input_shape}: {_one_line(error)}") from error
    if tuple(found.shape) != (2, classes):
        raise UserError(
            f"{model}: gives scores of shape {tuple(found.shape)} for 2 inputs, the data needs (2, {classes})"
        )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
