"""Training from a cache of ranks: the live teacher's losses where it holds everything, their mean where it samples."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from grkd import objectives
from grkd.cli import main
from grkd.errors import UserError
from grkd.language import cache_of_ranks
from grkd.models.cut import truncated
from grkd.objectives import Batch, combine
from grkd.teacher.rank_build import fill
from grkd.teacher.rank_cache import Origin, RankCache, vocabulary_digest
from grkd.teacher.rank_codec import RankCodec
from grkd.teacher.rank_draws import candidates_of
from grkd.training import GRKDTrainer
from grkd.training.cached_ranks import cached_batch
from tests.conftest import word_tokenizer
from tests.training.test_grkd_trainer import RECORDS, config, weights

PAIRS = {"ranking": [{"part": "pairs", "group": "top", "group_size": 6}], "anchor": []}
BOTH: dict[str, Any] = {
    "ranking": [{"part": "pairs", "group": "top", "group_size": 6}],
    "anchor": [{"part": "soft_target", "temperature": 2.0}],
}


@pytest.fixture
def teacher(tiny_teacher: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_teacher).eval()


def cache_of(folder: Path, groups: Any, teacher: Any, *, temperature: float = 1.0, **options: Any) -> RankCache:
    codec = RankCodec(vocabulary=40, **{"entries": 6, "log_probs": True, **options})
    vocabulary = vocabulary_digest(word_tokenizer())
    origin = Origin(teacher="t", weights="w", vocabulary=vocabulary, template="c", prompts="p", temperature=temperature)
    cache = RankCache.begun(folder, codec, origin)
    fill(cache, teacher, groups, batch_size=4)
    cache.finish()
    return RankCache(folder)


def made(folder: Path, teacher: Any, method: str, given: dict[str, Any], **options: Any) -> GRKDTrainer:
    args = config(folder, method=method, method_options=given, logging_steps=1.0)
    return GRKDTrainer(
        truncated(options.pop("cut_from", teacher), [0, 2]), teacher, args, processing_class=word_tokenizer(),
        **{"train_dataset": RECORDS, **options},
    )  # fmt: skip


@pytest.mark.parametrize(("given", "log_probs"), [(PAIRS, False), (PAIRS, True), (BOTH, True)])
def test_the_order_trains_as_the_live_teacher_does(
    tmp_path: Path, teacher: Any, given: dict[str, Any], *, log_probs: bool
) -> None:
    """Pairs of the top six exactly; with soft targets to within 8 bits, from a cache of all candidates."""
    live = made(tmp_path / "live", teacher, "grkd", given)
    soft = bool(given["anchor"])
    entries, temperature = (40, 2.0) if soft else (6, 1.0)
    if soft:  # pairs over all 40 of the cache are those of the whole vocabulary
        live = made(tmp_path / "live", teacher, "grkd", {**given, "ranking": [{"part": "pairs", "group": "all"}]})
    cache = cache_of(
        tmp_path / "cache", live.train_dataset, teacher, entries=entries, temperature=temperature, log_probs=log_probs
    )
    cached = made(tmp_path / "cached", None, "grkd", given, teacher_cache=cache.folder, cut_from=teacher)
    live.train()
    cached.train()
    assert cached.rows.teacher is None
    if soft:
        ours, theirs = ([line["loss"] for line in made.state.log_history[:3]] for made in (cached, live))
        assert ours == pytest.approx(theirs, rel=2e-3)
    else:
        torch.testing.assert_close(weights(cached.model), weights(live.model), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("method", "given", "pairs"), [("kd", {"temperature": 2.0}, False), ("grkd", BOTH, True)])
def test_pairs_are_made_for_methods_that_compare_them(
    tmp_path: Path, teacher: Any, monkeypatch: pytest.MonkeyPatch, method: str, given: dict[str, Any], *, pairs: bool
) -> None:
    """Their memory grows as the square of the candidates; kd's loss is the same without them."""
    groups = made(tmp_path / "live", teacher, "sft", {}).train_dataset
    cache = cache_of(tmp_path / "cache", groups, teacher, temperature=2.0)
    trainer = made(tmp_path / "cached", None, method, given, teacher_cache=cache.folder, cut_from=teacher)
    asked: list[Batch] = []
    terms = type(trainer.objective).terms
    monkeypatch.setattr(
        type(trainer.objective), "terms", lambda objective, batch: (asked.append(batch), terms(objective, batch))[1]
    )
    trainer.train()
    assert asked
    assert all((batch.votes is not None) == pairs for batch in asked)


@pytest.mark.parametrize("share", [None, 0.1])
def test_a_samples_loss_is_the_full_one_on_average(share: float | None) -> None:
    """kd at its temperature: the mean over 4,000 records, 8 bits included, of loss and gradient; z-tests at 4.5."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = (2 * torch.randn(1, 30, generator=generator) for _ in range(2))
    kd = objectives.load("kd", temperature=2.0, t_squared=False)
    codec = RankCodec(vocabulary=30, entries=6, choose="sample", log_probs=True, share=share)
    count = 4000
    leaf = student.expand(count, 30).double().requires_grad_()
    records = codec.encode(
        candidates_of(teacher.expand(count, 30), codec, temperature=2.0, generator=generator), generator=generator
    )
    (term,) = kd.terms(cached_batch(leaf, records, codec, temperature=2.0))
    (gradient,) = torch.autograd.grad(term.rows.sum(), leaf)
    whole = student.double().requires_grad_()
    (full,) = kd.terms(Batch(student=whole, teacher=teacher.double()))
    (expected,) = torch.autograd.grad(full.rows.sum(), whole)
    for found, wanted in ((term.rows.detach()[:, None], full.rows.detach()[:, None]), (gradient, expected)):
        error = found.std(0) / count**0.5
        assert float(((found.mean(0) - wanted[0]) / error).abs().max()) < 4.5


@pytest.mark.parametrize("temperature", [1.0, 1e5])
def test_entries_that_a_token_does_not_have_change_nothing(temperature: float) -> None:
    """kd and pairs of samples of several sizes: by plain loops in float64 over those that exist."""
    generator = torch.Generator().manual_seed(0)
    teacher = 5 * torch.rand(12, 1, generator=generator) * torch.randn(12, 50, generator=generator)
    student = torch.randn(12, 50, generator=generator).double()
    codec = RankCodec(vocabulary=50, entries=6, choose="sample", log_probs=True, share=0.1)
    drawn = candidates_of(teacher, codec, generator=generator)
    records = codec.encode(drawn, generator=generator)
    found, batch = codec.decode(records), cached_batch(student, records, codec, temperature=temperature)
    assert found.counts is not None
    assert found.log_weights is not None
    assert len(set(found.counts.tolist())) > 4
    kd = objectives.load("kd", temperature=temperature, t_squared=False)
    pairs = objectives.load("grkd", **{**PAIRS, "ranking": [{"part": "pairs", "group": "all"}]}, alpha_shape="constant")
    (soft,), (ranked,) = kd.terms(batch), pairs.terms(batch)
    for row, count in enumerate(found.counts.tolist()):
        ids, weights = found.ids[row, :count], found.log_weights[row, :count].double().exp()
        logs = (student[row] / temperature).log_softmax(-1)[ids]
        assert float(soft.rows[row]) == pytest.approx(-float((weights * logs).sum()), rel=1e-5)
        margins = [
            student[row, first] - student[row, second]
            for place, first in enumerate(ids)
            for second in ids[place + 1 :]
            if teacher[row, first] != teacher[row, second]
        ]
        wanted = torch.nn.functional.softplus(-torch.stack(margins)).mean()
        assert float(ranked.rows[row]) == pytest.approx(float(wanted), rel=1e-5)


def test_the_mass_of_all_others_is_not_rounded_to_the_students_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(20, 200, generator=generator), 30 + torch.randn(20, 200, generator=generator)
    codec = RankCodec(vocabulary=200, entries=6, log_probs=True)
    records = codec.encode(candidates_of(teacher, codec, temperature=1.0))
    half = student.bfloat16()
    found, exact = (cached_batch(each, records, codec, temperature=1.0).student for each in (half, half.double()))
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)


def test_top_candidates_bound_the_divergence() -> None:
    """KL over the top and all others as one is at most the KL over the vocabulary, and the tail keeps it close."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = (2 * torch.randn(50, 30, generator=generator) for _ in range(2))
    forward = objectives.load("grkd", ranking=[], anchor=[{"part": "soft_target", "divergence": "forward_kl"}])
    codec = RankCodec(vocabulary=30, entries=6, log_probs=True)
    records = codec.encode(candidates_of(teacher, codec))
    batch = cached_batch(student, records, codec, temperature=1.0)
    coarse, full = (combine(forward.terms(each)) for each in (batch, Batch(student=student, teacher=teacher)))
    assert 0.5 * float(full) < float(coarse) < float(full)


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("gkd", {}, "gkd cannot learn from a cache of ranks; use kd, or grkd"),
        ("kd", {"temperature": 3.0}, "temperature is 3, and .* was built with --temperature 2; set temperature: 2, or"),
        ("kd", {"temperature": 2.0, "label_weight": 0.5}, "label_weight cannot be used with a cache"),
        ("grkd", {"pairs.target": "soft"}, "part pairs cannot be computed from a cache of ranks"),
        ("grkd", {"ranking": [{"part": "pairs", "level": "response"}], "anchor": []}, "reads no teacher's scores"),
    ],
)
def test_methods_that_need_more_are_refused(
    tmp_path: Path, teacher: Any, method: str, given: dict[str, Any], message: str
) -> None:
    groups = made(tmp_path, teacher, "sft", {}).train_dataset
    cache = cache_of(tmp_path / "cache", groups, teacher, temperature=2.0)
    with pytest.raises(UserError, match=message):
        made(tmp_path, None, method, given, teacher_cache=cache, cut_from=teacher)


def test_a_cache_of_a_recipe_trains_without_the_teacher(
    tmp_path: Path,
    tiny_recipe: Path,
    teacher: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """grkd cache build, info, verify; training and evaluation on the cache's own responses; other records refused.

    Of a sample: its share is found once, and the same command again takes the one that it finds.
    """
    folder = tmp_path / "cache"
    build, few = ["cache", "build", str(tiny_recipe), str(folder)], ["--entries", "6", "--choose", "sample"]
    assert main([*build, *few]) == 2
    assert "theirs are kd 2 and grkd 1; set them alike" in capsys.readouterr().err
    assert main([*build, "methods=[kd]", *few]) == 0
    share = RankCache(folder).codec.share
    monkeypatch.setattr(cache_of_ranks, "with_share", lambda *_, **__: pytest.fail("the share is known"))
    assert main([*build, *few, "--temperature", "2"]) == 0
    assert RankCache(folder).codec.share == share
    assert main(["cache", "verify", str(folder)]) == 0
    capsys.readouterr()
    assert main(["cache", "info", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert f"6 sampled candidates on average, at most 24, one for at most {share:.2%} of the mass" in shown
    trainer = made(
        tmp_path, None, "kd", {"temperature": 2.0}, teacher_cache=str(folder), train_dataset=None, cut_from=teacher
    )
    assert len(trainer.train_dataset) == 18
    assert len(trainer.eval_dataset) == 6
    before = trainer.evaluate(trainer.train_dataset)["eval_loss"]
    trainer.args.max_steps = 12
    trainer.train()
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] < before
    assert trainer.evaluate()["eval_loss"] > 0
    with pytest.raises(UserError, match=r"8 of 8 responses are not in .*; the cache knows other prompts"):
        trainer.evaluate(RECORDS)
    path = next(folder.glob("ranks-*"))
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["cache", "verify", str(folder)]) in (1, 2)
    assert main(["cache", "info", str(tmp_path)]) == 2
