"""Runs whose teacher is behind a server: the same as with the teacher in this process, and nothing asked twice."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from grkd.cli import main
from grkd.errors import UserError
from grkd.language.cache_of_ranks import build_cache
from grkd.language.context import LanguageContext
from grkd.language.prepare import prepare
from grkd.language.respond import read_records, respond
from grkd.language.rows import language_rows
from grkd.language.score import read_groups, score
from grkd.language.served_sampling import chat_messages
from grkd.pipeline.check import check_recipe
from grkd.recipe import LanguageRecipe, read
from grkd.run.folder import RunFolder
from grkd.teacher.rank_cache import RankCache
from tests._model_server import ModelServer
from tests.language._score_runs import save_llama

pytest.importorskip("openai", reason="needs pip install 'grkd[eval]'")


def served(server: ModelServer, folder: Path, **keys: Any) -> str:
    """`teacher=` of a recipe; folder: of the same model here."""
    options = {"url": server.url, "served_model": "s", "model": folder, "top_k": 12, "tolerance_nats": 1e-3, **keys}
    return "teacher={" + ", ".join(f"{key}: {value}" for key, value in options.items() if value is not None) + "}"


def opened(recipe_path: Path, *words: str, output: str = "run") -> LanguageContext:
    recipe = read(recipe_path, [*words, f"output={recipe_path.parent / output}", "data.limit=10"])
    assert isinstance(recipe, LanguageRecipe)
    return LanguageContext.open(recipe, RunFolder(Path(recipe.output)))


def scored(context: LanguageContext) -> LanguageContext:
    prepare(context)
    respond(context)
    score(context)
    return context


def test_scores_and_tokens_are_those_of_the_teacher_here(
    tiny_recipe: Path, tiny_teacher: Path, model_server: ModelServer
) -> None:
    # The student answers in both runs, so both have the same responses.
    words = ["responses.source=student", "responses.n=2", "methods=[kd]"]
    here = scored(opened(tiny_recipe, *words, output="here"))
    there = scored(opened(tiny_recipe, *words, served(model_server, tiny_teacher, top_k=40)))
    for split in ("train", "heldout"):
        groups, own = read_groups(there.run, split), read_groups(here.run, split)
        for group, other in zip(groups, own, strict=True):
            assert group.items == other.items
            assert group.teacher_scores == pytest.approx(other.teacher_scores, abs=1e-4)
        student = there.models.student()
        found = []
        for context, kept in ((there, groups), (here, own)):
            rows = language_rows(context, kept)
            found.append(rows.forward(student, rows.collate(kept[:3]), levels=("row",)).batches["row"].teacher)
        served_scores, here_scores = found
        assert served_scores is not None
        assert here_scores is not None
        # All 40 entries were asked for: there is no tail.
        torch.testing.assert_close(served_scores, here_scores.log_softmax(-1), atol=1e-3, rtol=1e-3)


def test_a_killed_run_asks_nothing_twice(tiny_recipe: Path, tiny_teacher: Path, model_server: ModelServer) -> None:
    words = ["methods=[kd]", served(model_server, tiny_teacher)]
    context = opened(tiny_recipe, *words)
    prepare(context)
    model_server.faults = [*[""] * 7, "refuses key"]
    with pytest.raises(UserError, match="wants a key"):
        respond(context)
    respond(opened(tiny_recipe, *words))
    model_server.faults = [*[""] * 5, "refuses key"]
    with pytest.raises(UserError, match="wants a key"):
        score(opened(tiny_recipe, *words))
    again = opened(tiny_recipe, *words)
    score(again)
    asked = [str(body) for body in model_server.answered]
    responses = sum(len(read_records(again.run, split)) for split in ("train", "heldout"))
    # Eight prompts are compared with the model here, ten responses written and scored.
    assert (len(asked), len(set(asked)), 2 * responses) == (28, 28, 20)
    assert not list((again.run.path / "score").glob("asked-*"))
    # Neither another URL nor other settings of the client ask anything again.
    moved = opened(tiny_recipe, *words, "teacher.concurrency=2", "teacher.url=http://127.0.0.1:9/v1")
    prepare(moved)
    respond(moved)


def test_a_server_is_compared_before_it_writes_for_money(
    tiny_recipe: Path, tiny_teacher: Path, model_server: ModelServer, tmp_path: Path
) -> None:
    """Another model of the same vocabulary, and another vocabulary: no response was asked for."""
    other = save_llama(tmp_path / "other", AutoTokenizer.from_pretrained(tiny_teacher), seed=7, layers=3)
    context = opened(tiny_recipe, served(model_server, other, tolerance_nats=0.05))
    prepare(context)
    with pytest.raises(UserError, match=r"nats per token from the server.*Usual causes: another model"):
        respond(context)
    assert ["prompt_logprobs" in body for body in model_server.asked] == [True] * 8
    model_server.asked.clear()
    model_server.always = "other vocabulary"
    student = f"student={{model: {tiny_teacher}}}"
    context = opened(tiny_recipe, served(model_server, tiny_teacher, model=None), student, output="second")
    prepare(context)
    with pytest.raises(UserError, match="another vocabulary"):
        respond(context)
    assert ["prompt_logprobs" in body for body in model_server.asked] == [True]


def test_a_token_that_the_tokenizer_lacks(
    tiny_recipe: Path, tiny_teacher: Path, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A padded head, or another vocabulary: the response is not stored."""
    write = ModelServer._written
    padded = {"token_ids": [7, 41], "finish_reason": "stop", "text": "w1"}
    monkeypatch.setattr(ModelServer, "_written", lambda *given: write(*given) | padded)
    context = opened(tiny_recipe, served(model_server, tiny_teacher, concurrency=1))
    prepare(context)
    with pytest.raises(UserError, match=r"has the token 41, and the tokenizer here has 40: another vocabulary"):
        respond(context)
    assert not list(context.run.path.glob("teacher/respond-*/answers.jsonl"))


def test_a_budget_is_of_all_stages_together(tiny_recipe: Path, tiny_teacher: Path, model_server: ModelServer) -> None:
    """Eight to compare, ten to write, and two of ten scores; the same command resumes."""
    words = ["methods=[kd]", served(model_server, tiny_teacher, concurrency=1, max_requests=20)]
    with pytest.raises(UserError, match=r"the budget of 20 requests is used up; raise teacher\.max_requests"):
        scored(opened(tiny_recipe, *words))
    assert len(model_server.asked) == 20
    scored(opened(tiny_recipe, *words))
    assert len(model_server.asked) == 28


def test_a_chat_api_writes_responses_and_orders_them(
    tiny_recipe: Path, tiny_teacher: Path, model_server: ModelServer
) -> None:
    def reply(body: dict[str, Any]) -> str:
        question = body["messages"][-1]["content"]
        return "Order: [1] > [2]" if "## Response" in question else f"w{len(question) % 9} w{body.get('seed', 0) % 30}"

    model_server.reply = reply
    student = f"student={{model: {tiny_teacher}}}"
    words = [served(model_server, tiny_teacher, log_probs="false", model=None), student, "responses.n=2"]
    context = scored(opened(tiny_recipe, *words, "methods=[seqkd, dpo]"))
    assert read_records(context.run, "train")[0]["response"].startswith("w")
    assert not any("prompt" in body for body in model_server.asked)
    # Each response is named the best once, by its place alone: neither is better.
    assert {score for group in read_groups(context.run, "train") for score in group.teacher_scores} == {0.5}


def test_a_chat_api_is_asked_in_its_own_form() -> None:
    """No weights and thoughts, which it refuses; calls with arguments as text; tools it would not be told of."""
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "x"}}, "id": "1"}
    messages = [
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "b",
            "thinking": "b",
            "weight": 1,
            "tool_calls": [call],
        },
        {"role": "tool", "content": "c", "tool_call_id": "1"},
    ]
    prompt = {"id": "train/1", "messages": json.dumps(messages), "context": '{"template_options": {"mood": 1}}'}
    asked = chat_messages(prompt, "d")
    assert asked[:2] == [{"role": "system", "content": "d"}, {"role": "user", "content": "a"}]
    assert asked[2].keys() == {"role", "content", "tool_calls"}
    assert asked[2]["tool_calls"] == [{**call, "function": {"name": "look", "arguments": '{"at": "x"}'}}]
    assert asked[3] == messages[2]
    with pytest.raises(UserError, match=r"teacher: prompt train/1 has tools, .* set teacher\.log_probs: true"):
        chat_messages({**prompt, "context": '{"tools": [{"name": "look"}]}'}, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["teacher.url=ftp://x"], "teacher.url: a URL looks like http://127.0.0.1:8000/v1"),
        (["teacher.url=https://api.example/v1"], "no key for https://api.example/v1; set the environment variable"),
        (["teacher.key_env=MY_KEY"], "set the environment variable MY_KEY"),
        (["teacher.model=null"], "a served teacher has no layers to keep; give student.model"),
        (["evaluation.top_k=30"], r"evaluation.top_k: is above teacher.top_k \(12\)"),
        (["score.signal=live"], "live belongs to a teacher that answers plain prompts in this process"),
        (["methods=[opd]"], "so it must be in this process"),
        (["teacher.log_probs=false"], "compares tokens, and the teacher gives no log-probabilities; choose seqkd"),
        (["teacher.log_probs=false", "methods=[dpo]", "responses.n=2", "score.reward=choice"], "name the ranker judge"),
    ],
)
def test_mistakes_are_found_before_anything_is_asked(
    tiny_recipe: Path,
    tiny_teacher: Path,
    model_server: ModelServer,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match=said) as caught:
        check_recipe(read(tiny_recipe, [served(model_server, tiny_teacher), *words]))
    assert len(str(caught.value)) < 400
    assert not model_server.asked


@pytest.mark.parametrize(
    ("word", "said"),
    [("teacher.served_model=t", "serves no 't'; it serves s"), ("teacher.url=http://127.0.0.1:9/v1", "127.0.0.1:9")],
)
def test_another_server_is_refused_before_anything_is_loaded(
    tiny_recipe: Path, tiny_teacher: Path, model_server: ModelServer, word: str, said: str
) -> None:
    context = opened(tiny_recipe, served(model_server, tiny_teacher), "responses.source=student", word)
    with pytest.raises(UserError, match=said) as caught:
        prepare(context)
    assert len(str(caught.value)) < 400
    assert not model_server.answered
    assert not (context.run.path / "prepare").exists()


def test_a_cache_of_ranks_from_a_server(
    tiny_recipe: Path, tiny_teacher: Path, model_server: ModelServer, tmp_path: Path
) -> None:
    """The records of the same teacher here, killed in the middle with no request twice; no sample, no temperature."""
    words = ["methods=[{name: kd, temperature: 1.0}]", "data.limit=10", "responses.source=student"]
    here = [*words, f"output={tmp_path / 'here'}", "--entries", "6"]
    assert main(["cache", "build", str(tiny_recipe), str(tmp_path / "local"), *here]) == 0
    there = [*words, served(model_server, tiny_teacher), f"output={tmp_path / 'there'}", "--entries", "6"]
    command = ["cache", "build", str(tiny_recipe), str(tmp_path / "remote"), *there]
    model_server.faults = [*[""] * 4, "refuses key"]
    assert main(command) == 2
    assert main(command) == 0
    own, found = (RankCache(tmp_path / name) for name in ("local", "remote"))
    asked = [str(body) for body in model_server.answered if "prompt" in body]
    assert len(asked) == len(set(asked)) == len(own.records)
    assert not list(found.folder.glob("asked-*"))
    assert found.means() == pytest.approx(own.means(), abs=1e-4)
    for key in own.records:
        ours, theirs = (cache.codec.decode(cache.records[key]) for cache in (own, found))
        assert torch.equal(ours.ids, theirs.ids)
        assert ours.log_weights is not None
        assert theirs.log_weights is not None
        torch.testing.assert_close(ours.log_weights, theirs.log_weights, atol=0.15, rtol=0)
    for wrong, message in (
        (["--choose", "sample"], "inclusion probabilities"),
        (["--temperature", "2"], "set it to 1"),
    ):
        recipe = read(tiny_recipe, [served(model_server, tiny_teacher)])
        assert isinstance(recipe, LanguageRecipe)
        kinds: dict[str, Any] = {"choose": "top", "temperature": 1.0, wrong[0][2:]: wrong[1]}
        kinds["temperature"] = float(kinds["temperature"])
        with pytest.raises(UserError, match=message):
            build_cache(recipe, tmp_path / "x", entries=6, log_probs=True, **kinds)
