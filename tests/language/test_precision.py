"""In which precision a student is measured: its answers as where responses are sampled, its ranks in float32."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from grkd import cli, objectives
from grkd.language import compare as language_compare
from grkd.language import evaluate as language_evaluation
from grkd.language import sampling, stages
from grkd.models.load import cast_weights
from grkd.recipe import Training
from grkd.run import training as _train
from grkd.training import LanguageRows
from tests.training.test_trainer import PAD, ragged, tiny

Seen = list[tuple[str, torch.dtype, torch.dtype]]


def test_cast_weights_as_if_loaded_so(tiny_teacher: Path) -> None:
    """Buffers keep their precision: rotary frequencies in bfloat16 would turn distant tokens to the wrong places."""
    loaded = AutoModelForCausalLM.from_pretrained(tiny_teacher, dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(tiny_teacher)
    model.lm_head.weight = model.model.embed_tokens.weight  # tied
    loaded.lm_head.weight = loaded.model.embed_tokens.weight
    model(torch.tensor([[5, 6]])).logits.sum().backward()
    cast = cast_weights(model, torch.bfloat16)
    assert cast.lm_head.weight is cast.model.embed_tokens.weight
    assert cast.model.rotary_emb.inv_freq.dtype == torch.float32
    assert {parameter.dtype for parameter in cast.parameters()} == {torch.bfloat16}
    assert all(parameter.grad is None for parameter in cast.parameters())
    ids = torch.randint(4, 40, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(cast(ids).logits, loaded(ids).logits)
        rounded = loaded.to(torch.bfloat16)(ids).logits
    assert not torch.equal(cast(ids).logits, rounded)  # what .to makes of it


def test_mixed_precision_ends_with_the_training(tmp_path: Path) -> None:
    """The student comes back without the Trainer's autocast: it computes as one that is loaded from its folder."""
    trained = _train.train(
        tiny(1),
        ragged(4),
        objective=objectives.load("kd"),
        rows=LanguageRows(pad_token_id=PAD, vocabulary=30, teacher=tiny(0)),
        training=Training(steps=1, batch_size=4),
        folder=tmp_path,
        seed=0,
        where=torch.device("cpu"),
        bf16=True,
        description="train",
    )
    assert isinstance(trained, LlamaForCausalLM)
    again = tiny(2)
    again.load_state_dict(trained.state_dict())
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        ours, theirs = trained.eval()(ids).logits, again.eval()(ids).logits
    assert torch.equal(ours, theirs)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Who writes text or is ranked, in which dtype its weights and its buffers are."""
    found: Seen = []

    def note(what: str, model: Any) -> None:
        assert "_original_forward" not in model.__dict__, "still wrapped by the Trainer"
        found.append((what, next(model.parameters()).dtype, next(model.buffers()).dtype))

    def noted(module: Any, name: str, what: str, place: int) -> None:
        real = getattr(module, name)

        def call(*words: Any, **options: Any) -> Any:
            note(what, words[place])
            return real(*words, **options)

        monkeypatch.setattr(module, name, call)

    noted(sampling, "generate_responses", "sample", 0)
    noted(language_evaluation, "answered", "answer", 1)
    noted(language_evaluation, "sample_answers", "answer", 1)
    for module in (language_evaluation, language_compare):
        noted(module, "rank_metrics", "rank", 1)
    return found


@pytest.mark.parametrize("gpu", [False, True])
def test_tries_and_runs_are_measured_alike(
    tiny_recipe: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gpu: bool
) -> None:
    """gpu: with the dtype that a GPU would choose for answers."""
    if gpu:
        for module in (sampling, language_evaluation):
            monkeypatch.setattr(module, "dtype", lambda name, where: torch.bfloat16)
    monkeypatch.setattr(stages, "evaluate_teacher", lambda *_: None)
    questions = tiny_recipe.parent / "questions.jsonl"
    # The data's first three, of which one at least is trained on; one that fills the context of 64 tokens.
    prompts = ("w0 w0", "w3 w4 w1", "w6 w7 w8 w2", "w1 " * 64)
    questions.write_text("".join(json.dumps({"question": text, "answer": "3"}) + "\n" for text in prompts))
    common = ["training.steps=1", f"evaluation.questions={questions}", "responses.source=student", "score.signal=live"]
    words = [*common, "methods=[kd]", "search.learning_rate=[1e-3]"]
    for search in (f"search.questions={questions}", "search.metric=top1_agreement"):
        assert cli.main(["compare", str(tiny_recipe), *words, search]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 4 questions fill the context of 64 tokens: no answer" in said
    assert "of 4 are also prompts of data.train, so exact match counts answers learnt by heart" in said
    answers, whole = torch.bfloat16 if gpu else torch.float32, torch.float32
    ranks = {entry[1:] for entry in seen if entry[0] == "rank"}
    assert ranks == {(whole, whole)}
    texts = [entry for entry in seen if entry[0] != "rank"]
    assert {entry[1:] for entry in texts} == {(answers, whole)}
    # Before training and after, each with questions and samples, and the try: only where it is asked questions.
    assert [entry[0] for entry in texts if entry[0] != "sample"] == ["answer"] * 5
    assert len([entry for entry in seen if entry[0] == "rank"]) == 3
    assert ("sample", answers, whole) in seen
