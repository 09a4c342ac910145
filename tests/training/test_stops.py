"""A student that is saved stops by itself where it was trained to, whoever serves it."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, pipeline

from grkd.benchmarks import gsm8k
from grkd.data.chat import stop_token_ids
from grkd.models.save import save_student
from grkd.training import GRKDConfig, GRKDTrainer

WORDS = ["<pad>", "<unk>", "<eos>", "<end>", "user", "assistant", "say", "####", "yes", "7", "Question:"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def base_tokenizer() -> PreTrainedTokenizerFast:
    """As of a base model: its eos is not the token that the chat template ends turns with."""
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<eos>", pad_token="<pad>")
    made.add_special_tokens({"additional_special_tokens": ["<end>"]})
    made.chat_template = TEMPLATE
    return made


def base_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student trained to answer "#### 7" and to end its turn, then saved."""
    folder = tmp_path_factory.mktemp("stops")
    settings: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 60, "per_device_train_batch_size": 2, "learning_rate": 1e-2,
        "report_to": [], "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "method": "sft",
    }  # fmt: skip
    made = GRKDTrainer(
        base_model(),
        args=GRKDConfig(**settings),
        train_dataset=[{"prompt": word, "completion": "#### 7"} for word in ("say", "yes")],
        processing_class=base_tokenizer(),
    )
    made.train()
    before = made.model.generation_config.eos_token_id
    made.save_model(str(folder / "student"))
    assert before in (2, [2])  # the Trainer of some versions of transformers makes a list of it
    assert made.model.generation_config.eos_token_id == before, "the model in memory is left alone"
    return folder / "student"


def test_the_trainers_folder_stops_in_a_pipeline(saved: Path) -> None:
    written = pipeline("text-generation", model=str(saved), device="cpu")
    (found,) = written([[{"role": "user", "content": "say"}]], max_new_tokens=12)
    assert found[0]["generated_text"][-1]["content"].split() == ["####", "7"]
    assert set(json.loads((saved / "generation_config.json").read_text())["eos_token_id"]) == {2, 3}
    assert (saved / "chat_template.jinja").read_text() == TEMPLATE


def test_a_runs_student_names_the_same_stops(tmp_path: Path) -> None:
    model, tokenizer = base_model(), base_tokenizer()
    stops = stop_token_ids(tokenizer, model.generation_config)
    save_student(model, tokenizer, tmp_path / "student", card="card\n")
    read = LlamaForCausalLM.from_pretrained(tmp_path / "student").generation_config
    assert read.eos_token_id == stops == [2, 3]


@pytest.mark.skipif(not importlib.util.find_spec("lm_eval"), reason="lm-eval is not installed (grkd[eval])")
def test_gsm8k_ends_an_answer_where_the_student_ends_it(saved: Path, tmp_path: Path) -> None:
    """Also for a folder of which the generation config knows the base model's eos alone."""
    config = json.loads((saved / "generation_config.json").read_text())
    (tmp_path / "student").mkdir()
    for file in saved.iterdir():
        (tmp_path / "student" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "student" / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": 2}))
    for name in ("train", "test"):
        lines = [{"question": word, "answer": "yes #### 7"} for word in ("say", "yes")]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = gsm8k.by_harness(str(tmp_path / "student"), tmp_path, fewshot=0, chat=True, max_new_tokens=12)
    assert [item["response"].split() for item in found["items"]] == [["####", "7"]] * 2
    assert found["metrics"]["accuracy_strict"]["value"] == 1.0
