"""GSM8K through lm-eval: against lm-eval's own way of running it, on a tiny random model, without a network."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from grkd.benchmarks import _gsm8k_harness as gsm8k
from grkd.errors import UserError

# lm-eval is looked for, not imported here: its import is slow and warns.
lm_eval = pytest.mark.skipif(
    not gsm8k.importlib.util.find_spec("lm_eval"), reason="lm-eval is not installed (grkd[eval])"
)
DATA = Path(os.environ.get("GRKD_DATA", Path(__file__).parents[2] / "../shared/data")) / "llm"
real_data = pytest.mark.skipif(not (DATA / "gsm8k" / "test.jsonl").is_file(), reason="no gsm8k there; set GRKD_DATA")

WORDS = ["<pad>", "<unk>", "<end>", "Question:", "####", *(str(number) for number in range(25))]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model that speaks in numbers."""
    folder = tmp_path_factory.mktemp("numbers")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", eos_token="<end>", pad_token="<pad>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_data(folder: Path, answers: list[str]) -> Path:
    (folder / "gsm8k").mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 8), ("test", len(answers))):
        texts = answers if name == "test" else [f"It is {n}.\n#### {n}" for n in range(count)]
        lines = [json.dumps({"question": f"{n} 3 {n + 5} ?", "answer": text}) for n, text in enumerate(texts)]
        (folder / "gsm8k" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Records and refuses every look-up and connection."""
    tried: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        tried.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


def by_lm_eval(model: str, data: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """lm-eval's simple_evaluate on a task file that includes its gsm8k and names local files."""
    import lm_eval as library
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    files = {name: str(data / "gsm8k" / f"{name}.jsonl") for name in ("train", "test")}
    task = {
        "include": str(Path(library.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"),
        "task": "local_gsm8k",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    return library.simple_evaluate(
        HFLM(pretrained=model, device="cpu", dtype="float32", batch_size=2),
        tasks=["local_gsm8k"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        **options,
    )


@pytest.mark.slow
@lm_eval
@real_data
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("fewshot", "chat"), [(5, False), (3, True)])
def test_as_lm_eval_itself(model: str, tmp_path: Path, fewshot: int, chat: bool) -> None:
    found = gsm8k.run(model, DATA, limit=2, batch_size=2, fewshot=fewshot, chat=chat, max_new_tokens=16)
    expected = by_lm_eval(
        model,
        DATA,
        tmp_path,
        limit=2,
        num_fewshot=fewshot,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        gen_kwargs="max_gen_toks=16",
    )
    samples = expected["samples"]["local_gsm8k"]
    assert len(found["items"]) == 2
    for number, item in enumerate(found["items"]):
        for name, full in (("strict", "strict-match"), ("flexible", "flexible-extract")):
            sample = next(s for s in samples if s["doc_id"] == number and s["filter"] == full)
            assert item["prompt"] == sample["arguments"][0][0]
            assert item["response"] == sample["resps"][0][0]
            assert item[f"found_{name}"] == sample["filtered_resps"][0]
            assert item[f"correct_{name}"] == sample["exact_match"]
    assert found["items"][0]["prompt"].count("Question:") == fewshot + 1
    results = expected["results"]["local_gsm8k"]
    for name, full in (("strict", "strict-match"), ("flexible", "flexible-extract")):
        assert found["metrics"][f"accuracy_{name}"]["value"] == results[f"exact_match,{full}"]
        assert found["metrics"][f"standard_error_{name}"]["value"] == results[f"exact_match_stderr,{full}"]
    assert found["settings"]["prompts_truncated"] == 0


@pytest.mark.slow
@lm_eval
def test_right_answers_count(
    model: str, tmp_path: Path, no_network: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"fewshot": 0, "chat": True, "max_new_tokens": 6, "batch_size": 2}
    blind = gsm8k.run(model, write_data(tmp_path / "blind", ["#### 9999"] * 4), **options)
    assert [item["correct_flexible"] for item in blind["items"]] == [0] * 4
    last = [item["found_flexible"] for item in blind["items"]]
    assert all(text.isdigit() for text in last)
    # The same questions, whose answers now are what the model says; one of them is not.
    seen = gsm8k.run(
        model, write_data(tmp_path / "seen", [*(f"So.\n#### {n}" for n in last[:3]), "#### 77"]), **options
    )
    assert [item["correct_flexible"] for item in seen["items"]] == [1, 1, 1, 0]
    assert [item["correct"] for item in seen["items"]] == [1, 1, 1, 0]  # without examples accuracy is the flexible one
    assert [item["correct_strict"] for item in seen["items"]] == [0] * 4
    assert [item["id"] for item in seen["items"]] == ["1", "2", "3", "4"]
    # Wilson's interval of 3 in 4, and the standard error of the mean of 1, 1, 1, 0.
    assert seen["metrics"]["accuracy"] == pytest.approx({"value": 0.75, "low": 0.300642, "high": 0.954413}, abs=1e-6)
    assert seen["metrics"]["accuracy_strict"]["value"] == 0
    assert seen["metrics"]["standard_error_flexible"]["value"] == pytest.approx(0.25)
    assert "user Question: 0 3 5 ?" in seen["items"][0]["prompt"]
    assert no_network == []
    written = capfd.readouterr()
    assert written.out == ""
    assert {line.split()[0] for line in written.err.splitlines() if line.strip()} == {"gsm8k:"}  # our own progress line
    limited = gsm8k.run(model, tmp_path / "seen" / "gsm8k", limit=1, **options)  # the folder of the files itself
    assert [item["id"] for item in limited["items"]] == ["1"]
    assert limited["metrics"]["standard_error_flexible"]["value"] is None


@pytest.mark.slow
@lm_eval
def test_a_killed_run_asks_only_for_what_is_missing(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.models.huggingface import HFLM

    data = write_data(tmp_path, [f"#### {n}" for n in range(7)])
    options: dict[str, Any] = {"fewshot": 1, "max_new_tokens": 5, "batch_size": 1}
    whole = gsm8k.run(model, data, **options)
    generate, asked, most = HFLM._model_generate, list[str](), 3

    def killed(self: Any, context: torch.Tensor, **more: Any) -> torch.Tensor:
        if len(asked) == most:
            raise KeyboardInterrupt
        asked.append(self.tok_decode(context[0]))
        return generate(self, context, **more)

    monkeypatch.setattr(HFLM, "_model_generate", killed)
    store = tmp_path / "deep" / "responses.db"
    with pytest.raises(KeyboardInterrupt):
        gsm8k.run(model, data, store=store, **options)
    assert len(asked) == 3
    most = 100
    again = gsm8k.run(model, data, store=store, **options)
    assert again == whole
    assert len(asked) == len(set(asked)) == 7
    longer = options | {"max_new_tokens": 6}
    for expected, settings in ((7, options), (14, longer), (14, longer)):  # another setting is another answer
        gsm8k.run(model, data, store=store, **settings)
        assert len(asked) == expected
    store.write_text("no database " * 100)
    with pytest.raises(UserError, match=r"responses\.db: not a cache of responses; delete it"):
        gsm8k.run(model, data, store=store, **options)


@pytest.mark.slow
@lm_eval
def test_the_seed_chooses_the_examples(model: str, tmp_path: Path) -> None:
    data = write_data(tmp_path, ["#### 1"])
    prompts = [
        gsm8k.run(model, data, fewshot=2, seed=seed, max_new_tokens=1)["items"][0]["prompt"] for seed in (0, 0, 1)
    ]
    assert prompts[0] == prompts[1] != prompts[2]


@lm_eval
def test_a_context_that_is_too_short(model: str, tmp_path: Path, tiny_teacher: Path) -> None:
    data = write_data(tmp_path, ["#### 1"])
    with pytest.raises(UserError, match="its context of 64 tokens leaves no room for 256 new ones"):
        gsm8k.run(str(tiny_teacher), data)
    # 64 tokens hold the question but not five examples before it.
    found = gsm8k.run(str(tiny_teacher), data, fewshot=5, max_new_tokens=10)
    assert found["settings"]["prompts_truncated"] == 1


@lm_eval
def test_mistakes_are_one_line(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no gsm8k/test.jsonl in it; put train.jsonl and test.jsonl of github.com"):
        gsm8k.run(model, tmp_path)
    data = write_data(tmp_path, ["#### 1"])
    for options in ({"fewshot": -1}, {"limit": 0}, {"batch_size": 0}):
        with pytest.raises(UserError, match="is out of range"):
            gsm8k.run(model, data, **options)
    bare = PreTrainedTokenizerFast.from_pretrained(model)
    bare.chat_template = None
    LlamaForCausalLM.from_pretrained(model).save_pretrained(tmp_path / "bare")
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="its tokenizer has no chat template; evaluate it without chat"):
        gsm8k.run(str(tmp_path / "bare"), data, chat=True)
    (data / "gsm8k" / "train.jsonl").unlink()
    with pytest.raises(UserError, match=r"train.jsonl: no such file"):
        gsm8k.run(model, data)


def test_without_lm_eval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gsm8k.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'grkd\[eval\]'"):
        gsm8k.run("anything", tmp_path)
