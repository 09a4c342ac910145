"""Responses that several teachers write: each its share, each as it would alone, the column says which."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

from grkd.errors import UserError
from grkd.language.context import LanguageContext
from grkd.language.prepare import prepare
from grkd.language.respond import read_records, respond
from grkd.recipe import LanguageRecipe, ModelOfSeveral, read
from grkd.run.folder import RunFolder
from grkd.teacher.turns import turns_of
from tests._model_server import ModelServer
from tests.conftest import WORDS as TAIL
from tests.language._score_runs import WORDS, save_llama, tokenizer

LABELS = "abc"


@given(weights=st.lists(st.floats(0.1, 8), min_size=1, max_size=3), prompts=st.integers(1, 30), share=st.integers(1, 4))
def test_each_writes_its_share(weights: list[float], prompts: int, share: int) -> None:
    teachers = {label: ModelOfSeveral(model="m", weight=weight) for label, weight in zip(LABELS, weights, strict=False)}
    turns = turns_of(teachers, {str(at): {} for at in range(prompts)}, share=share)
    counts = Counter(who for each in turns.values() for who in each)
    assert {len(each) for each in turns.values()} == {share}
    for label, each in teachers.items():
        assert abs(counts[label] - prompts * share * each.weight / sum(weights)) < len(weights)


def test_a_column_says_who_writes() -> None:
    teachers = {"a": ModelOfSeveral(model="m", only={"subject": "law"}), "b": ModelOfSeveral(model="m", weight=3.0)}
    columns = {str(at): {"subject": "law" if at % 2 else "maths"} for at in range(8)}
    turns = turns_of(teachers, columns, share=1)
    assert {turns[str(at)][0] for at in range(0, 8, 2)} == {"b"}
    assert sorted(turns[str(at)][0] for at in range(1, 8, 2)) == ["a", "b", "b", "b"]
    with pytest.raises(UserError, match=r"record 0 has {'subject': 'maths'}, which is no teacher's `only`"):
        turns_of({"a": teachers["a"]}, columns, share=1)


def answered(path: Path, teacher: str, output: str, *words: str) -> LanguageContext:
    given = ["data.limit=10", "evaluation.samples=0", "responses.temperature=0.0", f"teacher={teacher}", *words]
    recipe = read(path, [*given, f"output={path.parent / output}"])
    assert isinstance(recipe, LanguageRecipe)
    context = LanguageContext.open(recipe, RunFolder(Path(recipe.output)))
    prepare(context)
    respond(context)
    return context


def texts(context: LanguageContext) -> dict[str, tuple[Any, str]]:
    """By prompt, who wrote its response, and what."""
    records = [record for split in ("train", "heldout") for record in read_records(context.run, split)]
    return {record["group"]: (record["writer"], record["response"]) for record in records}


def test_each_writes_as_it_would_alone(tiny_recipe: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    """One of another vocabulary, and one behind a server that goes down in the middle: nothing is asked twice."""
    pytest.importorskip("openai", reason="needs pip install 'grkd[eval]'")
    words = [*WORDS[:8], *reversed([*WORDS[8:], *TAIL[len(WORDS) :]])]
    foreign = save_llama(tmp_path / "foreign", tokenizer(words), seed=3)
    third = tmp_path / "third"
    torch.manual_seed(7)
    LlamaForCausalLM(AutoConfig.from_pretrained(tiny_teacher)).save_pretrained(third)
    AutoTokenizer.from_pretrained(tiny_teacher).save_pretrained(third)
    server = ModelServer(third, context=256)
    served = f"url: '{server.url}', served_model: s, model: {third}, concurrency: 1"
    student = f"student={{model: {tiny_teacher}}}"
    each = {"a": f"model: {tiny_teacher}", "b": f"model: {foreign}", "c": served}
    teachers = ", ".join(f"{{{where}, label: {label}}}" for label, where in each.items())
    methods = "methods=[seqkd]"
    try:
        alone = {
            label: texts(answered(tiny_recipe, f"{{{where}}}", label, student, methods))
            for label, where in each.items()
        }
        server.asked.clear()
        server.answered.clear()
        # Three prompts are compared with the model here; of three responses two come.
        server.faults = [*[""] * 5, "refuses key"]
        with pytest.raises(UserError, match="wants a key"):
            answered(tiny_recipe, f"[{teachers}]", "all", student, methods)
        context = answered(tiny_recipe, f"[{teachers}]", "all", student, methods)
    finally:
        server.close()
    found = texts(context)
    assert len(server.answered) == len({str(body) for body in server.answered}) == 6
    counts = Counter(who for who, _ in found.values())
    assert (counts["a"], counts["c"]) == (4, 3)
    assert 0 < counts["b"] <= 3  # the student's template cannot write all of them
    for group, (who, text) in found.items():
        assert (None, text) == alone[who][group]
    assert not list((context.run.path / "respond").glob("answers-*"))
    # Another weight is another stage.
    two = ", ".join(f"{{model: {tiny_teacher}, label: {label}, weight: {4 - 3 * (label == 'b')}}}" for label in "ab")
    again = texts(answered(tiny_recipe, f"[{two}]", "all", student, methods))
    assert Counter(who for who, _ in again.values()) == {"a": 8, "b": 2}
