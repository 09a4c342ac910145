"""Gemma-2 and Llama-3, as tiny random models: templates, soft caps and stop tokens, from the prompt to the scores."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from grkd import cli
from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.prompts import Example
from grkd.language.context import LanguageContext
from grkd.language.prepare import prepare
from grkd.language.respond import respond
from grkd.language.score import score
from grkd.models.generate import generate_responses
from grkd.models.load import load_language_model
from grkd.recipe import read
from grkd.run.folder import RunFolder
from grkd.teacher import local
from tests.language._architectures import gemma_tokenizer, llama_tokenizer, save_gemma, save_llama
from tests.language._score_runs import own_log_probs

TALK = [
    {"role": "user", "content": "Hello "},
    {"role": "assistant", "content": "Hi!"},
    {"role": "user", "content": "Name a colour."},
]


def written(words: Any, ids: list[int]) -> str:
    return str(words.decode(ids, skip_special_tokens=False))


class TestGemma:
    def test_the_system_text_goes_into_the_first_user_turn(self) -> None:
        words = gemma_tokenizer()
        found = written(words, encode_prompt(words, Example(id="1", messages=TALK), system="Be brief."))
        assert found == (
            "<bos><start_of_turn>user\nBe brief.\n\nHello<end_of_turn>\n<start_of_turn>model\nHi!<end_of_turn>\n"
            "<start_of_turn>user\nName a colour.<end_of_turn>\n<start_of_turn>model\n"
        )

    def test_a_response_ends_with_the_end_of_its_turn(self) -> None:
        words = gemma_tokenizer()
        stop_ids = stop_token_ids(words, None)
        assert words.convert_ids_to_tokens(stop_ids) == ["<eos>", "<end_of_turn>"]
        example = Example(id="1", messages=TALK, completion=" Red.\n")
        assert written(words, encode_response(words, example, stop_ids=stop_ids)) == "Red.<end_of_turn>"

    def test_attention_keeps_its_soft_cap(self, tmp_path: Path) -> None:
        model = load_language_model(str(save_gemma(tmp_path)), dtype=torch.float32)
        assert model.config._attn_implementation != "sdpa", "it knows no soft cap"

    @pytest.mark.parametrize("signal", ["cache", "live"])
    def test_scores_are_the_models_own_with_both_soft_caps(
        self, tmp_path: Path, signal: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[int] = []
        real = local.response_logits
        monkeypatch.setattr(local, "response_logits", lambda *parts: calls.append(1) or real(*parts))
        capped = self.scores(tmp_path, "capped", signal)
        assert len(calls) == 1, "but for a first look, from hidden states, the cap applied to a chunk at a time"
        found = [
            self.scores(tmp_path, name, signal, **{name: None})
            for name in ("attn_logit_softcapping", "final_logit_softcapping")
        ]
        for other in found:
            assert all(abs(value - other[name]) > 1e-3 for name, value in capped.items()), "each cap is felt"

    def scores(self, folder: Path, name: str, signal: str, **changes: Any) -> dict[str, float]:
        """Mean log-probabilities of a few responses by the score stage, each held to the model's own logits."""
        teacher = save_gemma(folder / f"teacher-{name}", **changes)
        records = scored(folder / name, teacher, f"score.signal={signal}")
        for record in records:
            expected = own_log_probs(teacher, record["prompt_ids"], record["response_ids"], len(gemma_tokenizer()))
            assert record["teacher_mean_log_prob_nats"] == pytest.approx(expected.mean().item(), rel=1e-4)
        return {record["id"]: record["teacher_mean_log_prob_nats"] for record in records}


TEXTS = [("Hi", "Hello"), ("What is it?", "A cat"), ("1 + 1", "2"), ("Go on", "No")]


def scored(folder: Path, teacher: Path, *words: str) -> list[dict[str, Any]]:
    """The respond stage's records with the score stage's columns: a run on data, up to its scores."""
    folder.mkdir()
    lines = [{"prompt": prompt, "completion": text} for prompt, text in TEXTS]
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.yaml").write_text(
        f"""
task: language_model
output: {folder / "run"}
device: cpu
teacher: {{model: {teacher}}}
student: {{layers: [0, 1]}}
data: {{train: data.jsonl, heldout_fraction: 0.25, system: Be brief.}}
responses: {{source: data, max_new_tokens: 16}}
methods: [kd]
"""
    )
    recipe = read(folder / "recipe.yaml", words)
    run = RunFolder(Path(recipe.output))
    context = LanguageContext.open(recipe, run)
    prepare(context)
    respond(context)
    score(context)
    return joined(run.path)


def joined(run: Path) -> list[dict[str, Any]]:
    found = {row["id"]: row for path in (run / "score").glob("scores-*") for row in pq.read_table(path).to_pylist()}
    shards = sorted((run / "respond").glob("shard-*.parquet"))
    return [{**row, **found[row["id"]]} for shard in shards for row in pq.read_table(shard).to_pylist()]


STOPS = ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]


class TestLlama:
    def test_one_begin_of_text_and_every_stop(self, tmp_path: Path) -> None:
        folder = save_llama(tmp_path)
        words, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
        found = written(words, encode_prompt(words, Example(id="1", messages=TALK[:1]), system="Be brief."))
        assert found == (
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        )
        assert set(words.convert_ids_to_tokens(stop_token_ids(words, model.generation_config))) == set(STOPS)

    def test_generation_stops_at_each_and_keeps_the_one_that_was_sampled(self, tmp_path: Path) -> None:
        model = load_language_model(str(save_llama(tmp_path, stops=7.0)), dtype=torch.float32)
        words = llama_tokenizer()
        stop_ids = words.convert_tokens_to_ids(STOPS)
        prompts = [encode_prompt(words, Example(id="1", prompt=f"Say {number}")) for number in range(60)]
        ends: dict[int | None, int] = {}
        for batch in generate_responses(
            model,
            prompts,
            max_new_tokens=6,
            temperature=1.0,
            top_p=1.0,
            stop_ids=stop_ids,
            pad_token_id=stop_ids[0],  # Llama has none: where a response ends is not to be read from the padding
            seed=0,
            batch_size=30,
        ):
            for response in batch:
                *before, last = response.response_ids
                assert not set(before) & set(stop_ids)
                assert response.finished == (last in stop_ids)
                assert response.finished or len(response.response_ids) == 6
                ends[last if response.finished else None] = ends.get(last if response.finished else None, 0) + 1
        assert set(ends) == {*stop_ids, None}
        assert min(ends.values()) >= 3, "each is seen, and so is the limit of length"


RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_read_by_the_command(
    path: Path, tmp_path: Path, tiny_teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a copy of the recipes' folder, with small files and models in the places of those that are made first."""
    recipe = tmp_path / "recipes" / path.name
    recipe.parent.mkdir()
    recipe.write_text(path.read_text())
    (tmp_path / "src").symlink_to(RECIPES.parent / "src")
    asked = yaml.safe_load(path.read_text())
    named = [asked["data"].get("train"), asked["data"].get("heldout"), asked.get("search", {}).get("questions")]
    named += [asked.get("evaluation", {}).get(key) for key in ("questions", "curve_questions")]
    for name in filter(None, named):
        if not (recipe.parent / name).exists():
            texts = [f"{name}: 1 + {number}" for number in range(4)]
            lines = [{"prompt": text, "completion": "2", "question": text, "answer": "2"} for text in texts]
            (recipe.parent / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in [asked["teacher"]["model"], asked["student"].get("model", "")]:
        if name.startswith("../"):
            (recipe.parent / name).parent.mkdir(parents=True)
            (recipe.parent / name).symlink_to(tiny_teacher)
    assert cli.main(["run", str(recipe), "--check"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["methods"]


@pytest.mark.parametrize("name", ["gemma2-9b-2b", "llama3-8b-3b", "gemma2-9b-2b-lora"])
def test_the_large_recipes_have_the_papers_settings(name: str) -> None:
    found = read(RECIPES / f"{name}.yaml")
    responses, training = found.responses, found.training
    assert (responses.source, responses.n, responses.candidates) == ("student", 4, 5)
    assert (responses.temperature, responses.top_p, found.data.max_prompt_tokens) == (1.0, 0.95, 1800)
    assert (found.score.reward, found.score.calibration) == ("calibrated", 0.8)
    assert training.batch_size * training.gradient_accumulation == 128
    assert (training.epochs, training.schedule, training.warmup) == (1, "cosine", 0.1)
    assert (training.learning_rate == 8e-7) == (found.student.lora is None)
    options = {method.name: method.options for method in found.methods}
    assert {"kd", "minillm", "dpo", "simpo", "pro", "grkd"} < set(options), "Table 1 but for SeqKD, a run of its own"
    assert options["simpo"]["beta"] == (2.5 if name.startswith("llama") else 10.0)
    assert options["grkd"] == {"ranking": [{"part": "pairs", "level": "response", "tau": 0.1}]}


@pytest.mark.parametrize("family", ["gemma2", "llama3"])
def test_from_recipe_to_students(tmp_path: Path, family: str) -> None:
    """The settings of the large recipes, on models of their families with a width of 32."""
    if family == "gemma2":
        words = gemma_tokenizer()
        teacher = save_gemma(tmp_path / "teacher")
        student = save_gemma(tmp_path / "student", seed=1, num_hidden_layers=2, hidden_size=16)
    else:
        words = llama_tokenizer()
        teacher, student = save_llama(tmp_path / "teacher"), save_llama(tmp_path / "student", seed=1, stops=7.0)
    lines = [{"prompt": f"Tell me of {number}."} for number in range(6)]
    (tmp_path / "ultrafeedback.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = next(RECIPES.glob(f"{family}-*b.yaml"))
    (tmp_path / recipe.name).write_text(recipe.read_text())
    changes = [
        f"output={tmp_path / 'run'}",
        "device=cpu",
        f"data.train={tmp_path / 'ultrafeedback.jsonl'}",
        f"teacher.model={teacher}",
        f"student.model={student}",
        "data.heldout_fraction=0.25",
        "responses.n=3",
        "responses.max_new_tokens=12",
        "methods=[dpo, {name: grkd, ranking: [{part: pairs}, {part: pairs, level: response, tau: 0.1}]}]",
        "training.gradient_accumulation=4",
        "evaluation.samples=1",
        "evaluation.sample_tokens=4",
        "training.learning_rate=1e-3",
    ]
    assert cli.main(["run", str(tmp_path / recipe.name), *changes]) == 0
    records = joined(tmp_path / "run")
    numbers = json.loads((tmp_path / "run" / "prepare" / "tokens.json").read_text())
    for record in records:
        assert record["source"] == "student"
        expected = own_log_probs(teacher, record["prompt_ids"], record["response_ids"], len(words)).mean()
        assert record["teacher_mean_log_prob_nats"] == pytest.approx(expected.item(), rel=1e-4)
        # The choice's part is the log of a share of wins: never above 0.
        assert record["teacher_reward"] <= 0.8 * record["teacher_mean_log_prob_nats"] + 1e-9
        assert record["ranker_scores"] == [record["teacher_reward"]]
        assert (record["response_ids"][-1] in numbers["stop_ids"]) == record["finished"]
        stops = words.convert_ids_to_tokens(numbers["stop_ids"])
        assert not any(stop in record["response"] for stop in stops), "the stop token ends the text and is not in it"
    if family == "llama3":
        assert len({record["response_ids"][-1] for record in records if record["finished"]}) > 1
    stops = [
        set(AutoModelForCausalLM.from_pretrained(path).generation_config.eos_token_id)
        for path in (student, tmp_path / "run" / "train" / "dpo-seed0" / "student")
    ]
    assert stops[0] == stops[1], "what is served stops where it was trained to"
