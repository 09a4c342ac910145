"""Language models and tokenizers: loaded from the hub, a folder or a GGUF file."""

import copy
import importlib.util
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import patch_environment
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

from grkd import hub
from grkd.data.language import check_head_size as check_head_size
from grkd.data.language import vocabulary_size as vocabulary_size
from grkd.errors import UserError
from grkd.models.adapters import adapter_base, merged
from grkd.models.attention import honour_softcap
from grkd.models.complete import check_complete


@contextmanager
def quiet(*, everything: bool = False) -> Iterator[None]:
    """No progress bars and no log output of transformers inside; `everything` drops all that is printed on stderr."""
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
    """The tokenizer of a hub name, a local folder, or a GGUF file inside either; raises UserError as the model's.

    Of an adapter's folder without a tokenizer: its base model's.
    """
    place, gguf_file = _place(model, gguf_file)
    options = {"gguf_file": gguf_file} if gguf_file else {}
    if (Path(place) / "adapter_config.json").is_file() and not (Path(place) / "tokenizer_config.json").is_file():
        base = adapter_base(place)
        assert base is not None
        return load_tokenizer(base, trust_remote_code=trust_remote_code)
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


def known_config(
    model: str, *, gguf_file: str | None = None, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedConfig | None:
    """The config of a local folder, or of a hub name that was downloaded before; None if it is not at hand.

    Raises UserError for a folder that is not there or a config that cannot be read. No network, no weights.
    """
    place, gguf_file = _place(model, gguf_file)
    local = Path(place).is_dir()
    if gguf_file is not None or (local and not (Path(place) / "config.json").is_file()):
        return None
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    if local:
        with _explained(model, "config"), quiet():
            return AutoConfig.from_pretrained(place, **options)
    try:
        with quiet():
            return AutoConfig.from_pretrained(place, local_files_only=True, **options)
    except (OSError, ValueError):
        return None


def config_of_gguf(file: str) -> PreTrainedConfig:
    """The config of a GGUF file. Raises UserError for one that cannot be read, or without the extra gguf."""
    place, name = _place(file, None)
    with _explained(file, "config"), quiet(everything=True):
        found: PreTrainedConfig = AutoConfig.from_pretrained(place, gguf_file=name)
    return found


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
    so that save_pretrained writes safetensors that from_pretrained opens. An adapter (LoRA) is merged into the base
    model that it names.
    Raises UserError, one line, for a folder or config that is not there, a hub that cannot be reached, a file that is
    not readable, tensors that the files lack, or a missing gguf or peft package.
    """
    place, gguf_file = _place(model, gguf_file)
    options: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    # `accelerate launch --use_fsdp` has transformers read weights on the first process alone, and leave empty ones on
    # the others, which only a model that is trained has filled afterwards.
    by_every_process = patch_environment(fsdp_cpu_ram_efficient_loading="false")
    with _explained(model, "model"), quiet(everything=gguf_file is not None), by_every_process:
        base = None if gguf_file else adapter_base(place, revision=revision)
        if base is not None:

            def load_base() -> PreTrainedModel:
                return load_language_model(base, dtype=dtype, trust_remote_code=trust_remote_code)

            return honour_softcap(merged(place, load_base, revision=revision)).eval()
        loaded, found = AutoModelForCausalLM.from_pretrained(
            place,
            revision=revision,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # named by check_complete; transformers' own report is a table
            **options,
        )
        if gguf_file:
            loaded = _plain(loaded)
    check_complete(model, found)
    return honour_softcap(loaded).eval()


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


def context_length(model: Any) -> int | None:
    """The longest input in tokens that the model's config states, None if it states none.

    Of RoBERTa and its kin less the positions up to that of padding, which no token takes.
    """
    found: int | None = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    tables = (each for name, each in model.named_modules() if name.endswith("position_embeddings"))
    unused = next((each.padding_idx for each in tables if getattr(each, "padding_idx", None) is not None), None)
    return found if found is None or unused is None else found - unused - 1


def _place(model: str, gguf_file: str | None) -> tuple[str, str | None]:
    """Where transformers finds the model: a folder or hub name, and the GGUF file in it if any."""
    path = Path(model).expanduser()
    local = path.exists() or model.startswith(("/", ".", "~")) or model.count("/") > 1
    if model.endswith(".gguf"):
        if gguf_file is not None:
            raise UserError(f"{model} is a GGUF file already; remove gguf_file {gguf_file!r}")
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
            hint = f"give the GGUF file itself: {path / there[0]}" if there else _what_it_is(path)
            raise UserError(f"{model}: no config.json in it; {hint}")
    if gguf_file is not None and importlib.util.find_spec("gguf") is None:
        raise UserError(f"{gguf_file} needs the gguf package: pip install grkd[gguf]")
    return place, gguf_file


def _what_it_is(folder: Path) -> str:
    """What to give instead of a folder without a language model, by what lies in it."""
    if (folder / "modules.json").is_file():
        return "it is a sentence-transformers model, no language model; the report of its run has its metrics"
    if (folder / "classifier.json").is_file():
        return "it is a classifier, no language model; the report of its run has its metrics"
    students = sorted(folder.glob("train/*/student"))
    if students:
        return f"it is a run's folder; give one of its students, such as {students[0]}"
    return "give a folder written by save_pretrained"


@contextmanager
def _explained(model: str, part: str) -> Iterator[None]:
    """Loading errors as one line."""
    hub.look_for(model)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # readers of damaged files raise anything
        if Path(model).expanduser().exists():
            raise UserError(f"{model}: its {part} cannot be loaded ({one_line(error)}); repair the files") from error
        raise UserError(
            f"{model}: its {part} could not be loaded from the hub ({one_line(error)}); check name, network and "
            "access rights (`hf auth login`), or give a local folder"
        ) from error


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + " ..."


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """The same model without a trace of quantisation."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return rebuilt(model, config, model.state_dict())


def rebuilt(model: PreTrainedModel, config: PreTrainedConfig, state: dict[str, Tensor]) -> PreTrainedModel:
    """A model of this config and state, with the device, dtype and generation config of `model`."""
    remote = type(model).__module__.startswith("transformers_modules")  # its code was trusted when it was loaded
    with torch.random.fork_rng(devices=[]), quiet():
        made = AutoModelForCausalLM.from_config(config, dtype=model.dtype, trust_remote_code=remote).to(model.device)
    made.load_state_dict(state)
    made.generation_config = copy.deepcopy(model.generation_config)
    return honour_softcap(made).eval()
