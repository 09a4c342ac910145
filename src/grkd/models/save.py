"""A student saved as a Hugging Face folder."""

from pathlib import Path

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from grkd.files import whole_folder
from grkd.models.load import quiet


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
