"""Packed rows make the training that padded batches make: loss, gradients, steps, whatever the number of passes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32
from transformers import Gemma2Config, Gemma2ForCausalLM

from grkd import objectives
from grkd.data.language import Item
from grkd.data.packed import MULTIPLE, attention_of, bins, own_tokens, pack, part_of, unshared
from grkd.errors import UserError
from grkd.models import packed_attention
from grkd.models.packed_attention import registered
from grkd.models.packing_check import check_packing
from grkd.teacher.signal import HiddenCache, TeacherHead, final_hidden
from grkd.training import DistillationTrainer, LanguageRows, language_rows
from tests.training.test_trainer import PAD, arguments, echo, grouped, ragged, tiny

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "tokens": ("grkd", {"ranking": [{"part": "pairs", "group": "sample", "group_size": 6}]}),
    "responses": ("grkd", {"ranking": [{"part": "pairs", "level": "response", "tau": 0.1}]}),
    "kd": ("kd", {}),
    "dpo": ("dpo", {}),
    "coupled": ("dist", {}),
    "on policy": ("grkd", {"on_policy_fraction": 1.0}),
}


def gemma(seed: int) -> Any:
    """Soft caps, and a window of 4 tokens in every other layer."""
    torch.manual_seed(seed)
    return Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, sliding_window=4, attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0, initializer_range=0.5, pad_token_id=PAD, attn_implementation="eager",
        )
    )  # fmt: skip


def learnt(folder: Path, name: str, packed: int | None, **given: Any) -> dict[str, torch.Tensor]:
    """What float64 weights became in two steps of plain gradient descent, and the last loss."""
    method, options = METHODS[name]
    objective = objectives.load(method, **options)
    dtype, build = given.get("dtype", torch.float64), given.get("student", tiny)
    student = build(1).to(dtype)
    if given.get("lora"):
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(2)
        student = get_peft_model(student, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    signal = given.get("signal", {"teacher": build(0).to(dtype)})
    made = DistillationTrainer(
        student,
        arguments(folder, max_steps=2, per_device_train_batch_size=4),
        objective=objective,
        rows=LanguageRows(
            pad_token_id=PAD, vocabulary=30, trains_on=objective.trains_on, tokens_per_batch=packed,
            sampler=echo if objective.on_policy else None, **signal,
        ),
        train_dataset=grouped(ragged(8)),
        fused_head=given.get("fused_head"),
    )  # fmt: skip
    made.train()
    losses = torch.tensor([line["loss"] for line in made.state.log_history if "loss" in line], dtype=torch.float64)
    return {
        **made.model.state_dict(),
        "loss": losses,
        "evaluation": torch.tensor(made.evaluate(grouped(ragged(4)))["eval_loss"]),
    }


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], rounding: float | None = None) -> None:
    if rounding is None:
        rounding = 1e-8 if next(iter(one.values())).dtype == torch.float64 else 1e-5
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("name", METHODS)
def test_packed_steps_are_padded_steps(tmp_path: Path, name: str) -> None:
    padded = learnt(tmp_path, name, None)
    assert_same(padded, learnt(tmp_path, name, 10_000))
    if name != "coupled":  # its rows know each other, so a micro-batch stays one pass
        assert_same(padded, learnt(tmp_path, name, 40))


def sharing(monkeypatch: pytest.MonkeyPatch, *, sides: int = 2) -> list[int]:
    """As on a GPU whose kernel takes shared prompts, with plain attention in its place; tokens of every row it sees.

    sides: how many of student and teacher take it.
    """
    seen: list[int] = []
    taken: list[Any] = []

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row: Any) -> torch.Tensor:
        seen.append(query.shape[2] if row.key_starts is not None else -1)
        return packed_attention.reference(query, key, value, row)

    def take(model: Any, **_: Any) -> str:
        if len(taken) < sides:
            taken.append(model)
            before = attention_of(model)
            model.set_attn_implementation(registered(f"plain{id(seen)}", attend, before=before, shares=True))
        return "plain"

    monkeypatch.setattr(language_rows, "take_packed_attention", take)
    return seen


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("sides", [1, 2])
def test_steps_with_shared_prompts_are_padded_steps(
    tmp_path: Path, name: str, sides: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sides 1: the teacher's attention cannot share, so that it reads rows with all copies.

    Llama's norms round to float32, and the attention is another.
    """
    padded = learnt(tmp_path, name, None)
    seen = sharing(monkeypatch, sides=sides)
    assert_same(padded, learnt(tmp_path, name, 10_000 if name == "coupled" else 40), rounding=2e-6)
    assert any(tokens > 0 for tokens in seen)


def test_shared_prompts_with_caps_and_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"student": gemma, "dtype": torch.float32}
    padded = learnt(tmp_path, "responses", None, **given)
    sharing(monkeypatch)
    assert_same(padded, learnt(tmp_path, "responses", 40, **given))


def test_a_row_with_shared_prompts() -> None:
    items = [Item("a", [5, 6, 7], [8, 9]), Item("b", [5, 6, 7], [10, 11, 12]), Item("c", [14, 15], [16])]
    batch = pack(items, pad_token_id=0, multiple=4, shared=[False, True, False])
    assert batch["input_ids"][0].tolist() == [5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16, 0]
    assert batch["position_ids"][0].tolist() == [0, 1, 2, 3, 4, 3, 4, 5, 0, 1, 2, 0]
    assert batch["cu_seq_lens"].unique().tolist() == [0, 5, 8, 11, 12]
    assert batch["cu_seq_lens_k"].unique().tolist() == [0, 5, 11, 14, 15]
    assert batch["key_places"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 0]
    assert batch["predicts"].tolist() == [2, 3, 2, 5, 6, 9]
    alone = pack(items, pad_token_id=0)
    for name, value in unshared(batch).items():
        torch.testing.assert_close(value, alone[name]) if isinstance(value, torch.Tensor) else None
    sized = {**batch, "group_sizes": [2, 1]}
    part, own = (
        part_of(sized, [0], pad_token_id=0, multiple=4),
        pack(items[:2], pad_token_id=0, multiple=4, shared=[False, True]),
    )
    for name in ("input_ids", "position_ids", "cu_seq_lens", "cu_seq_lens_k", "key_places", "predicts", "response_ids"):
        torch.testing.assert_close(part[name], own[name])


def test_prompts_are_shared_within_a_group_alone() -> None:
    """The next group may have the same prompt; a micro-batch is then still split between them."""
    rows = LanguageRows(pad_token_id=PAD, vocabulary=30, tokens_per_batch=10)
    rows.shares_prompts = True
    group = grouped(ragged(1))[0]
    batch = rows.collate([group, group])
    assert batch["shared"] == [False, True, True, False, True, True]
    assert batch["input_ids"].numel() == MULTIPLE
    parts = rows.passes(batch)
    assert [part["shared"] for part in parts] == [[False, True, True]] * 2
    assert sum(own_tokens(batch)) == 2 * (1 + sum(len(item.response_ids) for item in group.items))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name
@pytest.mark.parametrize(
    "given",
    [{"lora": True}, {"student": gemma, "dtype": torch.float32}, {"fused_head": True}],
    ids=["lora", "caps and windows", "fused head"],
)
def test_packed_models(tmp_path: Path, given: dict[str, Any]) -> None:
    assert_same(learnt(tmp_path, "tokens", None, **given), learnt(tmp_path, "tokens", 40, **given))


def test_packed_cached_signal(tmp_path: Path) -> None:
    teacher = tiny(0).double()
    cache = HiddenCache(tmp_path)
    items = [item for group in grouped(ragged(8)) for item in group.items]
    padded = LanguageRows(pad_token_id=PAD, vocabulary=30).collate(items)
    with torch.no_grad():
        hidden = final_hidden(teacher, padded)
    cache.write_shard({item.id: rows[: len(item.response_ids)] for item, rows in zip(items, hidden, strict=True)})
    signal = {"cache": cache, "head": TeacherHead.of(teacher)}
    stored = learnt(tmp_path, "kd", None, signal=signal)
    assert_same(stored, learnt(tmp_path, "kd", 40, signal=signal))
    assert_same(stored, learnt(tmp_path, "kd", None))  # hidden states that a thread reads are the live teacher's


def test_a_row_holds_what_the_padded_batch_holds() -> None:
    items = [Item("a", [5, 6, 7], [8, 9]), Item("b", [10], [11, 12, 13]), Item("c", [14, 15], [16])]
    batch = pack(items, pad_token_id=0, multiple=8)
    assert batch["input_ids"][0].tolist() == [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0, 0, 0, 0]
    assert batch["position_ids"][0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3]
    assert batch["cu_seq_lens"].unique().tolist() == [0, 5, 9, 12, 16]
    predicted = batch["input_ids"][0][batch["predicts"] + 1]
    torch.testing.assert_close(predicted, batch["response_ids"][batch["response_mask"]])
    # A part is what packing its items alone gives.
    sized = {**batch, "group_sizes": [1, 1, 1], "sampled_log_probs": torch.arange(6.0)}
    part, own = (
        part_of(sized, [2, 0], pad_token_id=0, multiple=8),
        pack([items[2], items[0]], pad_token_id=0, multiple=8),
    )
    assert part["sampled_log_probs"].tolist() == [5.0, 0.0, 1.0]
    signal = {**sized, "a signal": torch.arange(6.0)}
    assert part_of(signal, [2, 0], pad_token_id=0)["a signal"].tolist() == [5.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="unknown has no row per response token"):
        part_of({**sized, "unknown": torch.zeros(7)}, [2, 0], pad_token_id=0)
    for name in ("input_ids", "position_ids", "cu_seq_lens", "predicts"):
        torch.testing.assert_close(part[name], own[name])


def test_bins_hold_everything_once_within_the_budget() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        sizes = torch.randint(1, 50, (17,), generator=generator).tolist()
        found = bins(sizes, 60)
        assert sorted(number for bin in found for number in bin) == list(range(17))
        assert all(sum(sizes[number] for number in bin) <= 60 for bin in found)
        assert len(found) <= -(-sum(sizes) // 60) + 2
    assert bins([100, 3, 4], 60) == [[0], [1, 2]]


def test_a_model_that_mixes_sequences_is_refused() -> None:
    class Mixing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny(0)
            self.config = self.inner.config

        def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, **options: Any) -> Any:
            given = {**options, "position_ids": torch.arange(input_ids.shape[1])[None]}
            return self.inner(input_ids=input_ids, **given)

    def rounding(model: Any) -> Any:
        """As accelerate has it: autocast inside of the model, which gives float32."""
        model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))
        return model

    for made in (lambda model: model, rounding):
        check_packing(made(tiny(0)), vocabulary=30, device=torch.device("cpu"))
        with pytest.raises(UserError, match="tokens_per_batch: a llama model gives other logits"):
            check_packing(made(Mixing()), vocabulary=30, device=torch.device("cpu"))


def test_seeds_of_a_part_are_those_of_the_batch() -> None:
    """Groups are drawn by an example's number in the step, not by its place in the part."""
    from grkd.training.rows import DRAW_SEED
    from grkd.training.token_rows import token_seeds

    groups = grouped(ragged(6))
    rows = LanguageRows(pad_token_id=PAD, vocabulary=30, tokens_per_batch=40)
    batch = {**rows.collate(groups), DRAW_SEED: 7}
    whole = token_seeds(batch)
    assert whole is not None
    parts = rows.passes(batch)
    assert len(parts) > 2
    found = torch.cat([seeds for part in parts if (seeds := token_seeds(part)) is not None])
    assert sorted(found.tolist()) == sorted(whole.tolist())
