"""GRKDTrainer: records as TRL and the hub have them, the steps of DistillationTrainer, and clear refusals.

Over 300 lines: one class, every kind of record that it takes and every mistake that it names.
"""

import json
import logging
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from transformers import AutoModelForCausalLM, HfArgumentParser, LlamaForCausalLM, TrainingArguments

import grkd
from grkd import objectives
from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.language import Group, Item
from grkd.data.prompts import Example
from grkd.data.sources import read_examples
from grkd.errors import UserError
from grkd.models.cut import truncated
from grkd.models.load import load_tokenizer
from grkd.training import DistillationTrainer, GRKDConfig, GRKDTrainer, LanguageRows
from tests.conftest import word_tokenizer

RECORDS = [
    {"prompt": f"w{n} w{n + 1}", "completion": " ".join(f"w{(3 * n + k) % 30}" for k in range(2 + n % 3))}
    for n in range(8)
]


@pytest.fixture
def teacher(tiny_teacher: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(tiny_teacher)


@pytest.fixture
def student(teacher: LlamaForCausalLM) -> LlamaForCausalLM:
    return truncated(teacher, [0, 2])


def config(folder: Path, **options: Any) -> GRKDConfig:
    settings: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-2,
        "report_to": [], "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1.0,
        "method_options": {"pairs.group": "top", "pairs.group_size": 6},
    }  # fmt: skip
    return GRKDConfig(**{**settings, **options})


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def trainer(tmp_path: Path, student: Any, teacher: Any, records: Any = RECORDS, **options: Any) -> GRKDTrainer:
    return GRKDTrainer(
        student, teacher, config(tmp_path, **options), train_dataset=records, processing_class=word_tokenizer()
    )


def test_the_steps_are_those_of_the_distillation_trainer(tmp_path: Path, student: Any, teacher: Any) -> None:
    again = truncated(teacher, [0, 2])
    trainer(tmp_path, student, teacher).train()
    tokenizer = word_tokenizer()
    stops = stop_token_ids(tokenizer, again.generation_config)
    groups = []
    for number, record in enumerate(RECORDS):
        example = Example(id=str(number), **record)
        response = encode_response(tokenizer, example, stop_ids=stops)
        item = Item(f"{number}#0", encode_prompt(tokenizer, example), response)
        groups.append(Group(id=str(number), items=(item,), teacher_scores=(0.0,), sources=("data",)))
    DistillationTrainer(
        again,
        config(tmp_path),
        objective=objectives.load("grkd", **{"pairs.group": "top", "pairs.group_size": 6}),
        rows=LanguageRows(pad_token_id=0, vocabulary=40, teacher=teacher),
        train_dataset=groups,
    ).train()
    assert torch.equal(weights(student), weights(again))


def test_from_names_to_a_folder_that_opens(tmp_path: Path, tiny_teacher: Path, student: Any) -> None:
    student.save_pretrained(tmp_path / "start")
    word_tokenizer().save_pretrained(tmp_path / "start")
    before = weights(student)
    made = GRKDTrainer(
        str(tmp_path / "start"),
        args=config(tmp_path / "out", method="kd", method_options=None, teacher_model_name_or_path=str(tiny_teacher)),
        train_dataset=RECORDS,
        eval_dataset=RECORDS[:3],
    )
    start = made.evaluate()["eval_loss"]
    made.train()
    assert made.evaluate()["eval_loss"] < start
    made.save_model(str(tmp_path / "end"))
    assert not torch.equal(weights(AutoModelForCausalLM.from_pretrained(tmp_path / "end")), before)
    assert load_tokenizer(str(tmp_path / "end")).get_vocab() == word_tokenizer().get_vocab()


def test_a_kill_is_made_good_from_a_checkpoint(tmp_path: Path, teacher: Any) -> None:
    whole = truncated(teacher, [0, 2])
    trainer(tmp_path / "a", whole, teacher, max_steps=6, save_strategy="steps", save_steps=2.0).train()
    again = truncated(teacher, [0, 2])
    resumed = trainer(tmp_path / "a", again, teacher, max_steps=6, save_strategy="steps", save_steps=2.0)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    torch.testing.assert_close(weights(again), weights(whole))


USER = {"role": "user", "content": "w1"}
ANSWER, WORSE = ({"role": "assistant", "content": text} for text in ("w2 w3", "w4"))


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"messages": [USER, ANSWER]}, {"prompt": "w1", "completion": "w2 w3"}),
        ({"prompt": [USER], "completion": [ANSWER], "messages": None}, {"prompt": "w1", "completion": "w2 w3"}),
        ({"prompt": "w1", "completion": "w2 w3", "id": None}, {"prompt": "w1", "completion": "w2 w3"}),
        ({"chosen": [USER, ANSWER], "rejected": [USER, WORSE]}, {"prompt": "w1", "chosen": "w2 w3", "rejected": "w4"}),
        (
            {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]},
            {"prompt": "w1", "chosen": "w2 w3", "rejected": "w4"},
        ),
        (
            {"prompt": "w1", "responses": ["w2 w3", "w4"], "teacher_scores": [-0.5, -2], "completion": None},
            {"prompt": "w1", "responses": ["w2 w3", "w4"], "teacher_scores": [-0.5, -2.0]},
        ),
    ],
    ids=str,
)
def test_records_as_others_write_them(
    tmp_path: Path, student: Any, teacher: Any, record: dict[str, Any], line: dict[str, Any]
) -> None:
    """The same groups as from a file of prompts in the project's own form."""
    path = tmp_path / "line.jsonl"
    path.write_text(json.dumps(line) + "\n")
    (example,) = read_examples(path)
    tokenizer = word_tokenizer()
    (group,) = trainer(tmp_path, student, teacher, [record]).train_dataset
    assert [tokenizer.decode(item.response_ids[:-1]) for item in group.items] == example.answers
    assert all(item.response_ids[-1] == 3 for item in group.items)  # one end of sequence
    assert {tuple(item.prompt_ids) for item in group.items} == {tuple(encode_prompt(tokenizer, example))}
    assert list(group.teacher_scores) == (example.scores or [0.0])


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("simpo", {}),
        ("pro", {}),
        ("grkd", {"preset": "responses"}),
        ("grkd", {"ranking": [{"part": "pairs"}, {"part": "pairs", "level": "response"}]}),
        ("gkd", {}),
        ("grkd", {"on_policy_fraction": 1.0}),
        ("sft", {}),
    ],
)
def test_methods_of_every_kind_make_steps(
    tmp_path: Path, student: Any, teacher: Any, method: str, options: dict[str, Any]
) -> None:
    records: list[dict[str, Any]] = [
        {"prompt": record["prompt"], "responses": [record["completion"], "w7 w8"], "teacher_scores": [-0.2, -1.0 - n]}
        for n, record in enumerate(RECORDS)
    ]
    before = weights(student)
    needs = method not in ("simpo", "pro", "sft")
    made = trainer(
        tmp_path, student, teacher if needs else None, records, method=method, method_options=options, max_new_tokens=4
    )
    made.train()
    assert weights(student).isfinite().all()
    assert not torch.equal(weights(student), before)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name
def test_lora_trains_adapters_alone(tmp_path: Path, student: Any, teacher: Any) -> None:
    peft = pytest.importorskip("peft")
    made = GRKDTrainer(
        student, teacher, config(tmp_path), train_dataset=RECORDS, processing_class=word_tokenizer(),
        peft_config=peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    )  # fmt: skip
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    made.train()
    changed = {name for name, value in made.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora" in name for name in changed)


def test_options_from_a_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without type checks: transformers gives its arguments values that are not of their declared types."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    words = ["--output_dir", str(tmp_path), "--use_cpu", "--method", "kd", "--method_options", '{"temperature": 2.0}']
    words += ["--teacher_placement", "sharded"]
    (found,) = HfArgumentParser(GRKDConfig).parse_args_into_dataclasses(args=words)
    assert (found.method, found.method_options) == ("kd", {"temperature": 2.0})
    assert found.teacher_placement == "sharded"


def test_what_is_too_long_is_left_out_and_said(
    tmp_path: Path, student: Any, teacher: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"prompt": "w1", "completion": " ".join(["w2"] * 60)}
    made = trainer(tmp_path, student, teacher, [*RECORDS, long], max_length=20)
    assert len(made.train_dataset) == len(RECORDS)
    said = " ".join(capsys.readouterr().err.split())
    assert "train_dataset: 1 response over max_length 20 left out" in said
    with pytest.raises(
        UserError, match="train_dataset: grkd can learn from none of its records; 1 responses are over max_length 20"
    ):
        trainer(tmp_path, student, teacher, [long], max_length=20)


UNORDERED = [{"prompt": "w1", "responses": ["w2", "w3", "w4"]}]
TIERS = [{**UNORDERED[0], "tiers": [[1], [0]]}]
SCORED = [{**UNORDERED[0], "teacher_scores": [0.1, 0.4, 0.2]}]


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        ([{"prompt": "w1"}], {}, r"train_dataset: example 0: a prompt without a response; give a completion"),
        ([{"text": "w1"}], {}, r'train_dataset\[0\]: neither "prompt" nor "messages"'),
        ([{"prompt": "w1", "completion": " "}], {}, r"train_dataset\[0\]: completion is empty"),
        (RECORDS, {"method": "simpo", "method_options": {}}, "simpo can learn from none .* chosen and rejected"),
        (RECORDS, {"method": "dpo", "method_options": {}}, "dpo can learn from none .* or rankers="),
        (RECORDS, {"method": "grpo", "method_options": {}}, "nothing ranks them; give rankers"),
        (TIERS, {"method": "pad", "method_options": {}}, "train_dataset: pad needs a score per response"),
        (TIERS, {"method": "plackett_luce", "method_options": {}}, "compares tokens, .* set level: response"),
        (SCORED, {"method": "ranknet", "method_options": {}}, "compares tokens, .* scores of .*; set level: response"),
        (UNORDERED, {"method_options": {"preset": "responses"}}, "no record has responses in an order; .* rankers="),
        (RECORDS, {"eval_metrics": ["tau"]}, "eval_metrics: unknown metric 'tau'; known: kendall_tau"),
        (RECORDS, {"eval_metrics": ["score"]}, "belong to rankers"),
        (RECORDS, {"method": "kdd"}, "kdd"),
        (RECORDS, {"method_options": {"taw": 1.0}}, "taw"),
        (RECORDS, {"method_options": "tau=1"}, "method_options must be a JSON object"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(
    tmp_path: Path, student: Any, teacher: Any, records: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        trainer(tmp_path, student, teacher, records, **options)
    assert "\n" not in str(caught.value)


def test_teachers_that_do_not_fit(tmp_path: Path, student: Any, teacher: Any) -> None:
    with pytest.raises(UserError, match="grkd learns from a teacher's scores of tokens; give teacher_model"):
        trainer(tmp_path, student, None)
    other = word_tokenizer()
    other.add_tokens(["w99"])
    teacher.save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="different vocabularies: token 'w99'"):
        trainer(tmp_path, student, str(tmp_path / "other"))


def test_the_trainers_names_are_there() -> None:
    """They cost nothing until they are used: tests/cli/test_import_cost.py."""
    assert grkd.GRKDTrainer is GRKDTrainer
    assert grkd.GRKDConfig().method == "grkd"
    with pytest.raises(AttributeError, match="no attribute 'GRKDTrainers'"):
        grkd.GRKDTrainers  # noqa: B018


def test_evaluation_can_be_compared_over_training_and_leaves_it_alone(
    tmp_path: Path, student: Any, teacher: Any
) -> None:
    """At a rate of 0 every evaluation is of the same weights, whatever alpha is."""
    options = {"method_options": {"pairs.group": "sample", "pairs.group_size": 4}, "max_steps": 4}
    plain = truncated(teacher, [0, 2])
    trainer(tmp_path, plain, teacher, **options).train()
    still = trainer(tmp_path, student, teacher, **options, learning_rate=0.0)
    losses = []
    for progress in (0.0, 0.5, 1.0):
        still.state.global_step, still.state.max_steps = round(4 * progress), 4
        losses.append(still.evaluate(RECORDS)["eval_loss"])
    assert losses[0] == losses[1] == losses[2]
    seen = truncated(teacher, [0, 2])
    made = GRKDTrainer(
        seen, teacher, config(tmp_path, **options, eval_strategy="steps", eval_steps=1.0), train_dataset=RECORDS,
        eval_dataset={"a": RECORDS[:3], "b": RECORDS[3:]}, processing_class=word_tokenizer(),
    )  # fmt: skip
    made.train()
    torch.testing.assert_close(weights(seen), weights(plain), rtol=0, atol=0)
    assert {"eval_a_loss", "eval_b_loss"} <= set().union(*(line.keys() for line in made.state.log_history))


def test_a_training_that_is_lost_fails_whenever_it_was_logged(tmp_path: Path, student: Any, teacher: Any) -> None:
    made = trainer(tmp_path, student, teacher, logging_steps=500.0, learning_rate=1e38, max_grad_norm=0.0)
    with pytest.raises(FloatingPointError):
        made.train()


def test_answers_in_training_stay_within_max_length(
    tmp_path: Path, student: Any, teacher: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [*RECORDS, {"prompt": " ".join(["w1"] * 12), "completion": "w2"}]
    options = {"method": "gkd", "method_options": {"on_policy_fraction": 1.0}, "max_length": 20}
    made = trainer(tmp_path, student, teacher, records, **options, max_new_tokens=8)
    assert len(made.train_dataset) == len(RECORDS)
    assert "1 response over max_length 20 left out" in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(UserError, match="max_new_tokens 20 leaves no room for a prompt in 20 tokens"):
        trainer(tmp_path, student, teacher, **options, max_new_tokens=20)


def test_turns_before_the_last_of_a_completion_belong_to_the_prompt(tmp_path: Path, student: Any, teacher: Any) -> None:
    said = [("user", "w1"), ("assistant", "w2"), ("user", "w3"), ("assistant", "w4")]
    messages = [{"role": role, "content": content} for role, content in said]
    apart = trainer(tmp_path, student, teacher, [{"prompt": messages[:1], "completion": messages[1:]}])
    whole = trainer(tmp_path, student, teacher, [{"messages": messages}])
    assert apart.train_dataset[0].items == whole.train_dataset[0].items


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (
            {"prompt": "w1", "completion": [{"role": "assistant", "content": "w2"}, {"role": "user", "content": "w3"}]},
            r"train_dataset\[0\]: a completion of messages must end with an assistant turn",
        ),
        (
            {
                "chosen": [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}],
                "rejected": [{"role": "user", "content": "w9"}, {"role": "assistant", "content": "w3"}],
            },
            r"train_dataset\[0\]: chosen and rejected answer different prompts",
        ),
    ],
)
def test_conversations_that_cannot_be_meant_are_refused(
    tmp_path: Path, student: Any, teacher: Any, record: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError, match=line):
        trainer(tmp_path, student, teacher, [record], method="simpo", method_options={})


def test_arguments_that_would_do_nothing_are_refused(tmp_path: Path, student: Any, teacher: Any) -> None:
    given = {"train_dataset": RECORDS, "processing_class": word_tokenizer()}
    with pytest.raises(UserError, match="grkd compares no responses, so it asks no ranker"):
        GRKDTrainer(student, teacher, config(tmp_path), rankers=["verifier"], **given)
    with pytest.raises(UserError, match="two names of one argument"):
        GRKDTrainer(student, teacher, config(tmp_path), rankers=["verifier"], reward_funcs=len, **given)
    with pytest.raises(UserError, match="args must be a GRKDConfig"):
        GRKDTrainer(student, teacher, TrainingArguments(output_dir=str(tmp_path), use_cpu=True), **given)


def test_a_teacher_object_is_compared_by_its_own_tokenizer(tmp_path: Path, student: Any, teacher: Any) -> None:
    """As by name; a model without a name needs teacher_processing_class."""
    other = word_tokenizer()
    other.add_tokens(["w99"])
    teacher.resize_token_embeddings(41)
    teacher.save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="different vocabularies: token 'w99'"):
        trainer(tmp_path, student, loaded)
    loaded.config._name_or_path = ""
    with pytest.raises(UserError, match=r"teacher_model: it carries no name .* give teacher_processing_class"):
        trainer(tmp_path, student, loaded)
    loaded.config._name_or_path = str(tmp_path / "gone")
    with pytest.raises(UserError, match=r"cannot be loaded from .*gone.* give teacher_processing_class") as caught:
        trainer(tmp_path, student, loaded)
    assert len(str(caught.value)) < 400 + len(str(tmp_path)) * 2
    options = {"args": config(tmp_path), "train_dataset": RECORDS, "processing_class": word_tokenizer()}
    with pytest.raises(UserError, match="different vocabularies"):
        GRKDTrainer(student, loaded, **options, teacher_processing_class=other)
    GRKDTrainer(student, loaded, **options, teacher_processing_class=word_tokenizer()).train()


def test_records_fit_the_shorter_context_of_both(tmp_path: Path, student: Any, teacher: Any) -> None:
    teacher.config.max_position_embeddings = 16
    long = {"prompt": "w1", "completion": " ".join(["w2"] * 20)}
    assert len(trainer(tmp_path, student, teacher, [*RECORDS, long]).train_dataset) == len(RECORDS)


def test_a_student_may_teach_itself(tmp_path: Path, student: Any) -> None:
    """The teacher is the student as it was: one that is the same object, and one that shares the embedding alone."""
    start = truncated(student, [0, 1])
    again = truncated(student, [0, 1])
    made = trainer(tmp_path, student, student, method="kd", method_options={}, max_steps=4)
    made.train()
    trainer(tmp_path, again, start, method="kd", method_options={}, max_steps=4).train()
    assert torch.equal(weights(student), weights(again))
    assert not any(parameter.requires_grad for parameter in made.rows.teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())

    sharing = truncated(student, [1])
    sharing.model.embed_tokens.weight = student.model.embed_tokens.weight
    before = student.model.embed_tokens.weight.detach().clone()
    made = trainer(tmp_path, student, sharing)
    made.train()
    assert not torch.equal(student.model.embed_tokens.weight, before)
    assert torch.equal(made.rows.teacher.model.embed_tokens.weight, before)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_model_under_an_adapter_may_teach(tmp_path: Path, student: Any, *, wrapped: bool) -> None:
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    reference = truncated(student, [0, 1])
    batch = torch.tensor([[3, 7, 9]])
    options: dict[str, Any] = {"args": config(tmp_path), "train_dataset": RECORDS, "processing_class": word_tokenizer()}
    if wrapped:
        adapted = peft.get_peft_model(student, lora)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                torch.nn.init.normal_(parameter)
        made = GRKDTrainer(adapted, student, **options)
    else:
        made = GRKDTrainer(student, student, **options, peft_config=lora)
    made.train()
    with torch.no_grad():
        torch.testing.assert_close(made.rows.teacher(batch).logits, reference(batch).logits)
    trained = [name for name, parameter in made.model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora" in name or "lm_head.modules_to_save" in name for name in trained)


def test_the_plain_trainer_refuses_a_shared_weight(tmp_path: Path, student: Any) -> None:
    rows = LanguageRows(pad_token_id=0, vocabulary=40, teacher=student)
    with pytest.raises(UserError, match="the teacher shares weights with the student"):
        DistillationTrainer(student, config(tmp_path), objective=objectives.load("kd"), rows=rows, train_dataset=[])


@pytest.mark.parametrize(
    ("dtype", "rate", "optim", "said"),
    [
        (torch.bfloat16, 1e-6, "adamw_torch", True),
        (torch.bfloat16, 1e-2, "adamw_torch", False),
        (torch.float32, 1e-6, "adamw_torch", False),
        (torch.bfloat16, 1e-6, "sgd", False),
    ],
)
def test_steps_that_are_lost_in_rounding_are_said(
    tmp_path: Path, student: Any, teacher: Any, capsys: pytest.CaptureFixture[str], dtype: Any, rate: float,
    optim: str, *, said: bool,
) -> None:  # fmt: skip
    before = weights(student.to(dtype))
    trainer(tmp_path, student, teacher, learning_rate=rate, optim=optim, max_steps=2).train()
    assert ("will not move" in capsys.readouterr().err) == said
    if said:
        assert (weights(student) == before).double().mean() > 0.5


def test_a_tied_student_is_resumed_without_a_warning(tmp_path: Path, teacher: Any) -> None:
    tied = LlamaForCausalLM(type(teacher.config)(**{**teacher.config.to_dict(), "tie_word_embeddings": True}))
    options: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2.0}
    trainer(tmp_path, tied, teacher, **options).train()
    whole = weights(tied)
    tied = LlamaForCausalLM(tied.config)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers.trainer")
    logger.addHandler(handler)
    try:
        trainer(tmp_path, tied, teacher, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    finally:
        logger.removeHandler(handler)
    assert not [line for line in said if "missing keys" in line]
    assert torch.equal(weights(tied), whole)


def test_examples_of_like_length_can_share_batches(tmp_path: Path, student: Any, teacher: Any) -> None:
    made = trainer(tmp_path, student, teacher, train_sampling_strategy="group_by_length", max_steps=2)
    assert sorted(made._get_train_sampler()) == list(range(len(RECORDS)))
    made.train()
    made.evaluate(RECORDS)
    with pytest.raises(UserError, match="train_sampling_strategy: batch_rebalance is not for tokens"):
        trainer(tmp_path, student, teacher, train_sampling_strategy="batch_rebalance").train()


def test_predict_gives_the_loss_of_records(tmp_path: Path, student: Any, teacher: Any) -> None:
    made = trainer(tmp_path, student, teacher)
    found = made.predict(RECORDS[:3])
    assert found.metrics["test_loss"] == made.evaluate(RECORDS[:3])["eval_loss"]
    assert found.predictions is None


def test_the_loss_of_an_evaluation_does_not_depend_on_its_batches(tmp_path: Path, student: Any, teacher: Any) -> None:
    made = trainer(tmp_path, student, teacher, method_options={"pairs.group": "sample", "pairs.group_size": 4})
    losses = []
    for size in (1, 3, 8):
        made.args.per_device_eval_batch_size = size
        losses.append(made.evaluate(RECORDS)["eval_loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
