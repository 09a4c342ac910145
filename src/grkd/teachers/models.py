"""Language models: loaded from the hub, a folder or a GGUF file, cut from a teacher, made afresh, and saved."""

import copy
import difflib
import importlib.util
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from grkd.data.language import check_head_size as check_head_size
from grkd.data.language import vocabulary_size as vocabulary_size
from grkd.errors import UserError
from grkd.files import whole_folder


@contextmanager
def quiet(*, everything: bool = False) -> Iterator[None]:
    """No progress bars and no remarks of transformers inside; `everything` drops all that is printed on stderr."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        # The bar of the GGUF reader knows no other switch than the stream.
        with redirect_stderr(io.StringIO()) if everything else nullcontext():
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_tokenizer(
    model: str, *, gguf_file: str | None = None, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub name, a local folder, or a GGUF file inside either; raises UserError as the model's."""
    place, gguf_file = _place(model, gguf_file)
    options = {"gguf_file": gguf_file} if gguf_file else {}
    with _explained(model, "tokenizer"), quiet(everything=gguf_file is not None):
        tokenizer = AutoTokenizer.from_pretrained(
            place, revision=revision, trust_remote_code=trust_remote_code, **options
        )
        if gguf_file:  # transformers up to 5.17 takes the file's bos for its eos; the config reads it right
            config = AutoConfig.from_pretrained(place, revision=revision, **options)
            for role in ("bos", "eos", "pad"):
                token = getattr(config, f"{role}_token_id", None)
                if isinstance(token, int):
                    setattr(tokenizer, f"{role}_token", tokenizer.convert_ids_to_tokens(token))
    return tokenizer


def load_language_model(
    model: str,
    *,
    gguf_file: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The model of a hub name, a local folder, or a GGUF file inside either, on the CPU, in evaluation mode.

    A path that ends in .gguf is split into folder and file. A GGUF model is dequantised and rebuilt as an ordinary one,
    so that save_pretrained writes safetensors that from_pretrained opens.
    Raises UserError, one line, for a folder or config that is not there, a hub that cannot be reached, a file that is
    not readable, or a missing gguf package.
    """
    place, gguf_file = _place(model, gguf_file)
    options = {"gguf_file": gguf_file} if gguf_file else {}
    with _explained(model, "model"), quiet(everything=gguf_file is not None):
        loaded = AutoModelForCausalLM.from_pretrained(
            place, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code, **options
        )
        if gguf_file:
            loaded = _plain(loaded)
    return loaded.eval()


def truncated(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A new model of these layers of `model` (numbers from 0, rising), with everything else of it.

    Embeddings, final norm, head and generation config are copied, tied weights stay tied, and lists in the config with
    one entry a layer (such as layer_types) are cut alike. Raises UserError for numbers that are out of range or do not
    rise, and for architectures whose layers are not in one list.
    """
    config = copy.deepcopy(model.config)
    text = config.get_text_config(decoder=True)
    depth = text.num_hidden_layers
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < depth:
        raise UserError(
            f"layers must be rising numbers from 0 to {depth - 1} (the teacher has {depth}), got {list(layers)}"
        )
    prefixes = _layer_lists(model, depth)
    if not prefixes:
        raise UserError(f"a {config.model_type} model cannot be cut by layers: it has no list of {depth} layers")
    for name in _per_layer_fields(text):
        setattr(text, name, [getattr(text, name)[layer] for layer in layers])
    text.num_hidden_layers = len(layers)
    return _rebuilt(model, config, _renamed(model.state_dict(), prefixes, layers))


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
            near = difflib.get_close_matches(name, values, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"student.config: a {config_of_teacher.model_type} model has no field {name!r}{hint}")
    if overrides.get("num_hidden_layers", values.get("num_hidden_layers")) != values.get("num_hidden_layers"):
        values = {name: value for name, value in values.items() if name not in _per_layer_fields(config_of_teacher)}
    try:
        config = type(config_of_teacher).from_dict({**values, **overrides})
        with torch.random.fork_rng(devices=[]), quiet():
            torch.default_generator.manual_seed(seed)
            return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    except (TypeError, ValueError, RuntimeError, StrictDataclassError) as error:
        raise UserError(f"student.config: {_one_line(error)}; change one of {', '.join(overrides)}") from None


def check_same_vocabulary(
    teacher_tokenizer: PreTrainedTokenizerBase, student_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raises UserError, naming the first token whose ids differ, unless both tokenizers map every token to one id."""
    teacher, student = teacher_tokenizer.get_vocab(), student_tokenizer.get_vocab()
    if teacher == student:
        return
    differing = (token for token in {**teacher, **student} if teacher.get(token) != student.get(token))
    token = min(
        differing, key=lambda token: (min(teacher.get(token, sys.maxsize), student.get(token, sys.maxsize)), token)
    )
    raise UserError(
        f"teacher and student have different vocabularies: token {token!r} is {teacher.get(token, 'absent')} in the "
        f"teacher's ({len(teacher)} tokens) and {student.get(token, 'absent')} in the student's ({len(student)}); "
        "choose a student with the teacher's tokenizer"
    )


def cast_weights(model: nn.Module, dtype: torch.dtype) -> Any:
    """The model, its weights changed to `dtype` in place, as from_pretrained would load them; gradients are dropped.

    Buffers stay: `model.to(dtype)` would round rotary frequencies, by which tokens far apart get wrong distances.
    """
    for parameter in model.parameters():
        parameter.grad = None
        parameter.data = parameter.data.to(dtype)
    return model


def context_length(model: PreTrainedModel) -> int | None:
    """The longest input in tokens that the model's config states, None where it states none."""
    return getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)


def save_student(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, card: str) -> None:
    """An ordinary model folder: safetensors, config, generation config, tokenizer with its template, README.md = card.

    It appears whole or not at all, and replaces a folder that is there.
    """
    with whole_folder(folder) as aside, quiet():
        try:
            model.generation_config.validate(strict=True)
        except ValueError:
            # Some published configs set temperature or top_p without do_sample; saving refuses them as they are.
            model.generation_config.do_sample = True
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        (aside / "README.md").write_text(card, encoding="utf-8")


def _place(model: str, gguf_file: str | None) -> tuple[str, str | None]:
    """Where transformers finds the model: a folder or hub name, and the GGUF file in it if any."""
    path = Path(model).expanduser()
    local = path.exists() or model.startswith(("/", ".", "~")) or model.count("/") > 1
    if model.endswith(".gguf"):
        if gguf_file is not None:
            raise UserError(f"{model} is a GGUF file already; leave gguf_file {gguf_file!r} out")
        if not path.is_file() and (path.is_absolute() or model.count("/") != 2):
            raise UserError(f"{model}: no such file")
        place, gguf_file = (str(path.parent), path.name) if path.is_file() else tuple(model.rsplit("/", 1))
    elif not local:
        place = model
    elif not path.is_dir():
        raise UserError(f"{model}: no such folder; give a model's folder, a GGUF file or a hub name such as org/name")
    else:
        place = str(path)
        there = sorted(file.name for file in path.glob("*.gguf"))
        if gguf_file is not None and gguf_file not in there:
            raise UserError(f"{model}: no file {gguf_file!r} in it; GGUF files there: {', '.join(there) or 'none'}")
        if gguf_file is None and not any(
            (path / f"{name}config.json").is_file() for name in ("", "adapter_", "tokenizer_")
        ):
            hint = f"set gguf_file to {there[0]!r}" if there else "give a folder written by save_pretrained"
            raise UserError(f"{model}: no config.json in it; {hint}")
    if gguf_file is not None and importlib.util.find_spec("gguf") is None:
        raise UserError(f"{gguf_file} needs the gguf package: pip install grkd[gguf]")
    return place, gguf_file


@contextmanager
def _explained(model: str, part: str) -> Iterator[None]:
    """Loading errors as one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # readers of damaged files raise anything
        if Path(model).expanduser().exists():
            raise UserError(f"{model}: its {part} cannot be loaded ({_one_line(error)}); repair the files") from error
        raise UserError(
            f"{model}: its {part} could not be had from the hub ({_one_line(error)}); check the name, the network and "
            "access rights (`hf auth login`), or give a local folder"
        ) from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + " ..."


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """The same model without a trace of quantisation."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return _rebuilt(model, config, model.state_dict())


def _rebuilt(model: PreTrainedModel, config: PreTrainedConfig, state: dict[str, Tensor]) -> PreTrainedModel:
    """A model of this config and state, with the device, dtype and generation config of `model`."""
    remote = type(model).__module__.startswith("transformers_modules")  # its code was trusted when it was loaded
    with torch.random.fork_rng(devices=[]), quiet():
        made = AutoModelForCausalLM.from_config(config, dtype=model.dtype, trust_remote_code=remote).to(model.device)
    made.load_state_dict(state)
    made.generation_config = copy.deepcopy(model.generation_config)
    return made.eval()


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
