"""A tiny run whose prepare and respond stages are made by hand, so that the score stage stands alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from grkd.data.tables import write_table
from grkd.language.context import LanguageContext
from grkd.language.score import SCORES, score
from grkd.language.tables import RESPONSES
from grkd.recipe import read
from grkd.run.folder import RunFolder

WORDS = ["<pad>", "<unk>", "<turn>", "<end>", "user", "assistant", "A", "B", *[f"w{number}" for number in range(32)]]
TEMPLATE = (
    "{% for m in messages %}<turn> {{ m['role'] }} {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<turn> assistant {% endif %}"
)
END, CONTEXT = 3, 256


def tokenizer(words: Sequence[str] = WORDS, template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Splits at spaces; an id is a word's place in the list."""
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<end>", pad_token="<pad>")
    made.chat_template = template
    return made


def save_llama(
    folder: Path, words: PreTrainedTokenizerFast, *, seed: int = 0, layers: int = 2, broken: str | None = None
) -> Path:
    """A random model far from uniform, with its tokenizer; NaN wherever it reads the word `broken`."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words) + 8,  # padded, as many published models are
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    if broken is not None:
        with torch.no_grad():
            model.model.embed_tokens.weight[words.convert_tokens_to_ids(broken)] = torch.nan
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def records(groups: int, responses: int, *, scores: bool = False) -> list[dict[str, Any]]:
    """Ragged groups, the last two held out. The first response of each was cut by the limit of length."""
    words, found = tokenizer(), []
    for number in range(groups):
        text = " ".join(f"w{(3 * number + k) % 32}" for k in range(1 + number % 3))
        prompt_ids = words(f"<turn> user {text} <end> <turn> assistant")["input_ids"]
        for index in range(responses):
            answer = " ".join(f"w{(7 * number + 5 * index + k) % 32}" for k in range(1 + (number + 2 * index) % 4))
            found.append(
                {
                    "id": f"p{number}#{index}",
                    "group": f"p{number}",
                    "index": index,
                    "source": ("student", "data")[index % 2],
                    "split": "heldout" if number >= groups - 2 else "train",
                    "prompt": text,
                    "messages": json.dumps([{"role": "user", "content": text}]),
                    "prompt_ids": prompt_ids,
                    "response_ids": [*words(answer)["input_ids"], *([END] if index else [])],
                    "response": answer,
                    "finished": index > 0,
                    "data_score": float((5 * number + 3 * index) % 4) if scores else None,
                }
            )
    return found


class Prepared:
    """A run folder with whole prepare and respond stages."""

    def __init__(
        self, folder: Path, teacher: Path, responses: list[dict[str, Any]], *words: str, student: Path | None = None
    ) -> None:
        path = folder / "recipe.yaml"
        start = f"{{model: {student}}}" if student else "{layers: [0]}"
        path.write_text(
            f"""
task: language_model
output: {folder / "run"}
device: cpu
teacher: {{model: {teacher}}}
student: {start}
data: {{train: prompts.jsonl}}
responses: {{source: student, n: 3, max_new_tokens: 8, shard_size: 2}}
methods: [kd]
"""
        )
        self.path, self.words = path, words
        self.recipe = read(path, words)
        self.run = RunFolder(Path(self.recipe.output))
        self.context = LanguageContext.open(self.recipe, self.run)
        self.run.stage("prepare", {"made": "by hand"}, self.context.models.make)
        self.run.stage(
            "respond",
            {"responses": str(responses)},
            lambda work: write_table(work / "shard-00000.parquet", responses, RESPONSES),
        )

    def again(self, *words: str) -> "Prepared":
        """The same run, read with other words."""
        made = object.__new__(Prepared)
        made.path, made.words, made.run = self.path, words, self.run
        made.recipe = read(self.path, words)
        made.context = LanguageContext.open(made.recipe, made.run)
        return made


def made(folder: Path, teacher: Path, *words: str, responses: list[dict[str, Any]] | None = None) -> Prepared:
    run = Prepared(folder, teacher, records(7, 3) if responses is None else responses, *words)
    score(run.context)
    return run


def table(run: Prepared) -> dict[str, dict[str, Any]]:
    """The score stage's rows by the response's id."""
    files = sorted((run.run.path / "score").glob("scores-*.parquet"))
    assert all(pq.read_schema(path).equals(SCORES) for path in files)
    return {row["id"]: row for path in files for row in pq.read_table(path).to_pylist()}


def agree(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> None:
    assert one.keys() == other.keys()
    for name, row in one.items():
        for column in ("teacher_mean_log_prob_nats", "teacher_reward"):
            assert other[name][column] == pytest.approx(row[column], rel=1e-4)


def own_log_probs(teacher: Path, prompt_ids: list[int], response_ids: list[int], vocabulary: int) -> torch.Tensor:
    """Of each response token under the model's own logits, one sequence alone and unpadded, in float64."""
    model = AutoModelForCausalLM.from_pretrained(teacher, attn_implementation="eager")  # sdpa leaves a soft cap out
    model = model.double().eval()
    with torch.no_grad():
        logits = model(torch.tensor([prompt_ids + response_ids])).logits[0, :, :vocabulary]
    start = len(prompt_ids) - 1
    return torch.stack([logits[start + at].log_softmax(-1)[token] for at, token in enumerate(response_ids)])
