"""GRKDTrainer: groups that the student samples and anyone ranks, the reference of dpo, the teacher's own responses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from grkd import objectives, rankers
from grkd.data.chat import decode_response, encode_prompt
from grkd.data.language import Group, Item
from grkd.data.prompts import Example
from grkd.errors import UserError
from grkd.metrics.rank import kendall_tau_b, reverse_kl
from grkd.models.cut import truncated
from grkd.training import DistillationTrainer, GRKDTrainer, LanguageRows, teacher_answers
from grkd.training.fresh_groups import FreshGroups
from grkd.training.groups_file import read_groups_files
from grkd.training.language_rows import mean_log_probs_of
from grkd.training.on_policy import on_policy_sampler
from tests.conftest import word_tokenizer
from tests.training.test_fresh_groups import METHODS
from tests.training.test_grkd_trainer import RECORDS, config, weights

PROMPTS = [{"prompt": record["prompt"], "grade": len(record["completion"])} for record in RECORDS]
STOP = 3
GROUPED = {"num_generations": 4, "max_new_tokens": 5, "max_steps": 3}


def by_length(prompts: Any, completions: list[str], grade: list[int], **columns: Any) -> list[float]:
    """Longer is better; the record's column counts too."""
    return [len(text.split()) + (grade[at] % 3) * (text.count("w1")) for at, text in enumerate(completions)]


def by_first(prompts: Any, completions: list[str], **columns: Any) -> list[float | None]:
    return [float(text[1:].split()[0]) if text.startswith("w") else None for text in completions]


@pytest.fixture
def teacher(tiny_teacher: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_teacher)


@pytest.fixture
def student(teacher: Any) -> Any:
    return truncated(teacher, [0, 2])


def made(folder: Path, student: Any, teacher: Any, method: str, records: Any = PROMPTS, **given: Any) -> GRKDTrainer:
    name, options = {**METHODS, "seqkd": ("seqkd", {})}[method]
    asks = {"rankers": [by_length]} if method not in ("opd", "seqkd") else {}
    own = {key: given.pop(key) for key in list(given) if hasattr(config(folder), key)}
    settings = {**GROUPED, "method": name, "method_options": options, **own}
    return GRKDTrainer(
        student, teacher, config(folder, **settings), train_dataset=records, processing_class=word_tokenizer(),
        **{**asks, **given},
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_the_groups_are_those_of_the_trainer_that_recipes_use(
    method: str, tmp_path: Path, student: Any, teacher: Any
) -> None:
    """Every method, on prompts without a response: the same weights as from parts that are put together by hand."""
    name, options = METHODS[method]
    objective, tokenizer = objectives.load(name, **options), word_tokenizer()
    panel = rankers.panel([by_length])
    panel.open(rankers.Resources())
    before = truncated(teacher, [0, 2])
    rows = LanguageRows(
        pad_token_id=0, vocabulary=40, trains_on=objective.trains_on,
        teacher=teacher if objective.needs_teacher and "row" in objective.levels else None,
        sampler=on_policy_sampler(None, max_new_tokens=5, stop_ids=[STOP], pad_token_id=0, vocabulary=40),
        fresh=None if method == "opd" else FreshGroups(
            panel=panel, n=4, decode=lambda ids: decode_response(tokenizer, ids, {STOP}),
            reference=lambda batch: mean_log_probs_of(rows, before, batch),
        ),
    )  # fmt: skip
    groups = [
        Group(
            id=str(number), teacher_scores=(0.0,), sources=("none",), columns={**record},
            items=(Item("", encode_prompt(tokenizer, Example(id="", prompt=record["prompt"])), [STOP]),),
        )
        for number, record in enumerate(PROMPTS)
    ]  # fmt: skip
    again = truncated(teacher, [0, 2])
    DistillationTrainer(
        again, config(tmp_path, **GROUPED), objective=objective, rows=rows, train_dataset=groups
    ).train()
    trainer = made(tmp_path, student, teacher, method)
    start = weights(student)
    trainer.train()
    assert not torch.equal(weights(student), start)
    torch.testing.assert_close(weights(student), weights(again), rtol=0, atol=0)


def test_reward_functions_are_summed_as_trl_sums_them(tmp_path: Path, student: Any) -> None:
    """Weights, a missing reward and the advantages: of trl.GRPOTrainer's formula on the groups that were kept."""
    torch.manual_seed(0)
    network = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, num_labels=1, initializer_range=0.5, pad_token_id=0,
        )
    )  # fmt: skip
    network.save_pretrained(tmp_path / "judge")
    word_tokenizer().save_pretrained(tmp_path / "judge")
    trainer = made(
        tmp_path, student, None, "grpo", rankers=None, reward_funcs=[by_length, by_first, str(tmp_path / "judge")],
        reward_weights=[1.0, 0.1, 2.0],
    )  # fmt: skip
    trainer.train()
    lines = read_groups_files(tmp_path / "groups")
    assert {line["step"] for line in lines} == {0, 1, 2}
    assert set(lines[0]["by_ranker"]) == {"by_length", "by_first", "judge"}
    for line in lines:
        rewards = np.array([line["by_ranker"][name] for name in ("by_length", "by_first", "judge")], dtype=float)
        np.testing.assert_allclose(line["scores"], np.nansum(rewards * [[1.0], [0.1], [2.0]], 0), rtol=1e-6)
    first = [value for line in lines if line["step"] == 0 for value in line["by_ranker"]["by_length"]]
    assert trainer.state.log_history[0]["score/by_length"] == pytest.approx(np.mean(first))
    judge = rankers.load("reward_model", model=LlamaForSequenceClassification.from_pretrained(tmp_path / "judge"))
    judge.open(rankers.Resources())
    found = judge([lines[0]["prompt"]], [lines[0]["responses"]])
    np.testing.assert_allclose(found[0], lines[0]["by_ranker"]["judge"], rtol=1e-5)


def test_a_kill_in_a_generation_is_made_good(tmp_path: Path, student: Any, teacher: Any) -> None:
    options = {"max_steps": 5, "steps_per_generation": 2, "save_strategy": "steps", "save_steps": 3.0}
    made(tmp_path, student, teacher, "dpo", **options).train()
    again = truncated(teacher, [0, 2])
    resumed = made(tmp_path, again, teacher, "dpo", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    torch.testing.assert_close(weights(again), weights(student), rtol=0, atol=0)
    lines = read_groups_files(tmp_path / "groups")
    assert len({(line["step"], line["id"]) for line in lines}) == len(lines) == 5 * 4


PAIRS = [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": f"w{n} w7"} for n, r in enumerate(RECORDS)]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("lora", [False, True])
def test_dpo_compares_with_the_student_before(tmp_path: Path, student: Any, *, lora: bool) -> None:
    """Of stored pairs: loss log 2 at the start, the loss by its formula after training, also of a set given later."""
    peft_config = None
    if lora:
        peft = pytest.importorskip("peft")
        peft_config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    before = truncated(student, [0, 1])
    trainer = GRKDTrainer(
        student, None, config(tmp_path, method="dpo", method_options={"beta": 0.5}), train_dataset=PAIRS,
        eval_dataset={"all": PAIRS}, processing_class=word_tokenizer(), peft_config=peft_config,
    )  # fmt: skip
    assert trainer.evaluate()["eval_all_loss"] == pytest.approx(np.log(2))
    trainer.train()
    found = trainer.evaluate()["eval_all_loss"]
    rows = LanguageRows(pad_token_id=0, vocabulary=40)
    batch = rows.collate_all(trainer.train_dataset)
    lengths = torch.tensor([[len(item.response_ids) for item in group.items] for group in trainer.train_dataset])
    with torch.no_grad():
        now, then = (mean_log_probs_of(rows, model, batch).double() for model in (trainer.model.eval(), before))
    margin = 0.5 * ((now - then) * lengths) @ torch.tensor([1.0, -1.0], dtype=torch.float64)
    assert found == pytest.approx(float(-torch.nn.functional.logsigmoid(margin).mean()), rel=1e-5)
    assert found < np.log(2)
    if lora:
        assert trainer.evaluate(PAIRS)["eval_loss"] == pytest.approx(found)
    else:
        with pytest.raises(UserError, match="the student before training, which is gone; give the set as eval_dataset"):
            trainer.evaluate(PAIRS)


def test_the_teachers_responses_are_made_once(
    tmp_path: Path, student: Any, teacher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """seqkd on prompts: what the teacher writes, kept for the next start; another teacher writes anew."""
    trainer = made(tmp_path, student, teacher, "seqkd", (record for record in PROMPTS))  # which can be read once
    assert len(trainer.train_dataset) == len(PROMPTS)
    assert {group.sources for group in trainer.train_dataset} == {("teacher",)}
    means, _ = trainer._encode.teacher_answers.side.asked_by_rankers(torch.device("cpu"), 4).scored(
        [item for group in trainer.train_dataset for item in group.items]
    )
    assert np.mean(means) > -np.log(40)  # likelier than chance under the teacher
    trainer.train()

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("sampled again")

    monkeypatch.setattr(teacher_answers, "generate_responses", refuse)
    again = made(tmp_path, truncated(teacher, [0, 2]), teacher, "seqkd")
    assert again.train_dataset == trainer.train_dataset
    teacher.model.norm.weight.data *= 1.1
    with pytest.raises(RuntimeError, match="sampled again"):
        made(tmp_path, truncated(teacher, [0, 2]), teacher, "seqkd")


def foreign(folder: Path, teacher: Any) -> Any:
    """The teacher with a vocabulary in another order: the same words have other ids."""
    turned = truncated(teacher, [0, 1, 2])
    order = torch.cat([torch.arange(6), torch.arange(39, 5, -1)])
    turned.model.embed_tokens.weight.data = turned.model.embed_tokens.weight.data[order].clone()
    turned.lm_head.weight.data = turned.lm_head.weight.data[order].clone()
    tokenizer = word_tokenizer()
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    names = {index: word for word, index in described["model"]["vocab"].items()}
    described["model"]["vocab"] = {names[int(old)]: new for new, old in enumerate(order)}
    own = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)), unk_token="<unk>", eos_token="<end>",
        pad_token="<pad>",
    )  # fmt: skip
    own.chat_template = tokenizer.chat_template
    return turned, own


def test_a_teacher_of_another_vocabulary_ranks_the_text(tmp_path: Path, student: Any, teacher: Any) -> None:
    """The teacher with its vocabulary shuffled gives the same words the same log-probabilities, so the same weights."""
    same = truncated(teacher, [0, 2])
    made(tmp_path / "a", same, teacher, "dpo", rankers="log_prob").train()
    other, own = foreign(tmp_path, teacher)
    trainer = made(tmp_path / "b", student, other, "dpo", rankers="log_prob", teacher_processing_class=own)
    assert trainer.rows.teacher is None
    trainer.train()
    torch.testing.assert_close(weights(student), weights(same), rtol=1e-5, atol=1e-6)
    kept = [read_groups_files(tmp_path / name / "groups") for name in "ab"]
    for here, there in zip(*kept, strict=True):
        assert here["responses"] == there["responses"]
        np.testing.assert_allclose(here["scores"], there["scores"], atol=1e-5)
    here, there = (
        made(tmp_path / name, truncated(teacher, [0, 2]), model, "seqkd", **given).train_dataset
        for name, model, given in (("a", teacher, {}), ("b", other, {"teacher_processing_class": own}))
    )
    assert all(item.response_ids for group in there for item in group.items)
    assert len(here) == len(there) == len(PROMPTS)


def test_a_column_that_a_ranker_reads_must_be_there(tmp_path: Path, student: Any) -> None:
    with pytest.raises(UserError, match="a ranker reads the column 'answer', and no record of train_dataset has it"):
        made(tmp_path, student, None, "grpo", rankers=["verifier"])
    with pytest.raises(UserError, match="reward_weights: 1 rankers need as many weights"):
        made(tmp_path, student, None, "grpo", reward_weights=[1.0, 2.0])


def test_evaluation_measures_what_is_asked(tmp_path: Path, student: Any, teacher: Any) -> None:
    """Named metrics by their own functions, compute_metrics on the same numbers, in batches of any size.

    They are of all four responses of a group, not of the two that dpo is trained on.
    """
    seen: list[Any] = []

    def own(prediction: Any) -> dict[str, float]:
        seen.append(prediction)
        return {"own": float(prediction.predictions.sum())}

    names = ["kendall_tau", "reverse_kl_nats", "forward_kl_nats", "response_kendall_tau", "score"]
    trainer = made(
        tmp_path, student, teacher, "dpo", eval_dataset=PROMPTS, eval_metrics=names, compute_metrics=own, eval_top_k=5,
        per_device_eval_batch_size=8,
    )  # fmt: skip
    found = trainer.evaluate()
    groups = trainer.eval_dataset
    rows = LanguageRows(pad_token_id=0, vocabulary=40, teacher=teacher)  # all responses of a group
    with torch.no_grad():
        batches = rows.forward(student, rows.collate(groups), levels=("row", "response")).batches
    tokens, order = batches["row"], batches["response"]
    assert found["eval_reverse_kl_nats"] == pytest.approx(
        float(reverse_kl(tokens.student, tokens.teacher).mean()), rel=1e-5
    )
    tau = kendall_tau_b(order.student, order.teacher, mask=order.mask).nanmean()
    assert found["eval_response_kendall_tau"] == pytest.approx(float(tau))
    np.testing.assert_allclose(seen[0].predictions[:, 0], order.student[:, 0], rtol=1e-5)
    assert seen[0].label_ids.shape == seen[0].predictions.shape == (8, 4)
    assert found["eval_own"] == pytest.approx(float(order.student.sum()), rel=1e-5)
    assert 1 < found["eval_score/by_length"] < 12
    trainer.args.per_device_eval_batch_size = 3
    again = trainer.evaluate()
    for name, value in found.items():
        if "per_second" not in name and "runtime" not in name:
            assert again[name] == pytest.approx(value, rel=1e-5), name
