"""A student saved as a Hugging Face folder."""

import copy
from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from grkd.data.chat import stop_token_ids
from grkd.files import whole_folder
from grkd.models.load import quiet


def save_student(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, card: str) -> None:
    """An ordinary model folder: safetensors, config, generation config, tokenizer with its template, README.md = card.

    The generation config names every token that ended a response in training, so that what serves the model stops
    there. The folder appears complete or not at all, and replaces one that is there.
    """
    model.generation_config = stopping_config(model, tokenizer)
    with whole_folder(folder) as aside, quiet():
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        (aside / "README.md").write_text(card, encoding="utf-8")


def stopping_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """A copy of the model's generation config with every stop token of `stop_token_ids`, valid for saving."""
    config: GenerationConfig = copy.deepcopy(model.generation_config)
    stop_ids = stop_token_ids(tokenizer, config)
    config.eos_token_id = stop_ids[0] if len(stop_ids) == 1 else stop_ids
    try:
        config.validate(strict=True)
    except ValueError:
        # Some published configs set temperature or top_p without do_sample; saving refuses them as they are.
        config.do_sample = True
    return config
