"""`grkd plan`: numbers worked out by hand, and the command on a tiny run of every task."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats

from grkd import cli, recipe
from grkd.data.language import Group, Item
from grkd.models.load import load_tokenizer
from grkd.planning import measure as measuring
from grkd.planning.batches import expected_batches, scored_sizes
from grkd.planning.counts import Counts, count
from grkd.planning.language import planned_memory, stages
from grkd.planning.make import asks_endpoint, make_plan
from grkd.planning.measure import Measured
from grkd.planning.memory import memory_of, sizes_of
from grkd.planning.money import Usage, usage
from grkd.planning.peak import peak_from_now
from grkd.planning.plan import Plan, Stage, amount, duration, tables
from grkd.planning.power import assumed, sentences
from grkd.recipe import LanguageRecipe, Method, Model, ServedModel


def language(path: Path, *words: str) -> LanguageRecipe:
    found = recipe.read(path, words)
    assert isinstance(found, LanguageRecipe)
    return found


def group(lengths: tuple[int, int]) -> Group:
    item = Item(id="a", prompt_ids=[1] * lengths[0], response_ids=[1] * lengths[1])
    return Group(id="a", items=(item,), teacher_scores=(0.0,), sources=("data",))


def test_times_are_those_of_the_miniature_scaled(tiny_recipe: Path) -> None:
    """10 times as many prompts; loading, first uses and first steps count once."""
    spec = language(tiny_recipe, "seeds=[0,1]", "training.epochs=3", "training.save_every=1000", "methods=[kd]")
    names = ("prepare", "respond", "score", "evaluate before", "evaluate teacher", "evaluate")
    found = Measured(
        work=dict.fromkeys(names, 2.0),
        loading=dict.fromkeys(names, 1.0),
        each={"respond": 0.2, "score": 0.0},
        checks=0.5,
        step={"kd": 0.5},
        first={"kd": 3.0},
        saving={"kd": 4.0},
        report=7.0,
        sampling=0.5,
        groups=[group((4, 4))],
        prompts={"train": 8, "heldout": 2},
    )
    found.work["evaluate before"] = 5.0
    whole = Counts(train=80, heldout=20, prompt_tokens=4.0, answer_tokens=4.0, items=[], seconds=0.1)
    times = {one.name: (one.seconds, one.times) for one in stages(spec, whole, found, 0)}
    assert times["prepare"] == (0.5 + 3.0 + 90 * 0.1, 1)
    assert times["respond"] == (1 + 2.0 + 90 * 0.2, 1)
    assert times["score"] == (1 + 2.0, 1)
    assert times["evaluate before"] == (1 + 3 + 10 * 1.5 + 0.5, 1)
    assert times["first steps of each method"] == (3.0, 1)
    assert times["evaluate"] == (1 + 10 * 1.5 + 0.5, 2)
    assert times["train kd"] == (4.0 + 0.5 * 3 * 20, 2)  # batches of 4: 20 steps per epoch
    assert times["report"] == (7.0, 1)
    plan = Plan(stages=[Stage(name="a", seconds=2.0, times=3)], trials=[Stage(name="b", seconds=1.0, times=4)])
    assert (plan.seconds, plan.seconds_with_search) == (6.0, 10.0)


def test_longer_data_take_longer_steps(tiny_recipe: Path) -> None:
    spec = language(tiny_recipe, "responses={source: data}", "methods=[kd]", "training={steps: 10, save_every: 1000}")
    names = ("prepare", "respond", "score", "evaluate before", "evaluate teacher", "evaluate")
    zero = dict.fromkeys(names, 0.0)
    found = Measured(work=zero, loading=zero, each=zero, step={"kd": 1.0}, saving={"kd": 0.0}, groups=[group((4, 4))])
    found.prompts = {"train": 8, "heldout": 2}
    items = [Item(id="b", prompt_ids=[1] * 12, response_ids=[1] * 4)]
    whole = Counts(train=8, heldout=2, prompt_tokens=12.0, answer_tokens=4.0, items=items)
    train = next(one for one in stages(spec, whole, found, 0) if one.name == "train kd")
    assert train.seconds == 10 * 16 / 8


def test_batches_are_drawn_as_training_draws_them(tiny_recipe: Path) -> None:
    """Pairs of three items: every batch of two is as long as its longest prompt and response."""
    items = [Item(id=str(n), prompt_ids=[1] * n, response_ids=[1] * (5 - n)) for n in (1, 2, 4)]
    spec = language(tiny_recipe, "training={batch_size: 2}")
    every = {(max(a, b) + max(5 - a, 5 - b)) * 2 for a, b in ((1, 2), (1, 4), (2, 4))}
    found = expected_batches(spec, items)
    assert found.most_tokens == max(every)
    assert found.most_response_tokens == 4 + 3
    assert min(every) < found.mean_tokens < max(every)
    alone = expected_batches(spec, items[:2])  # each batch holds both
    assert (alone.mean_tokens, alone.most_tokens) == (12.0, 12)
    packed = expected_batches(language(tiny_recipe, "training={batch_size: 3, tokens_per_batch: 8}"), items)
    assert (packed.mean_tokens, packed.most_tokens, packed.most_response_tokens) == (7.0, 7, 4)  # 15 tokens in 2 rows
    assert expected_batches(spec, []).most_tokens == 0


def test_sizes_of_scored_batches_are_counted_once_each(tiny_recipe: Path) -> None:
    """Two shards of four, in batches of two by length: (4, 1) twice, and what is drawn is counted, not the prompts."""
    spec = language(tiny_recipe, "score={batch_size: 2}", "responses={source: data, shard_size: 4}")
    one = Item(id="a", prompt_ids=[1] * 4, response_ids=[1])
    assert scored_sizes(spec, [one], prompts=8) == 1
    assert scored_sizes(spec, [one], prompts=7) == 2  # the last batch has one
    longer = [Item(id=str(n), prompt_ids=[1] * n, response_ids=[1]) for n in range(1, 40)]
    few, many = (scored_sizes(spec, longer, prompts=number) for number in (8, 400))
    assert 1 < few <= 4 < many <= 39
    assert scored_sizes(spec, [], prompts=8) == 0


def test_a_gpu_prepares_every_size_of_a_batch_once(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of 8 prompts had 1 new size, for 0.5 s: 24 prompts of 3 lengths have 3, the miniature's own had 1."""
    monkeypatch.setattr("grkd.planning.language.device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(
        "grkd.planning.language.scored_sizes", lambda spec, groups, *, prompts: {2: 1, 8: 1, 24: 3}[prompts]
    )
    spec = language(tiny_recipe, "methods=[kd]", "training={steps: 1, save_every: 1000}")
    names = ("prepare", "respond", "score", "evaluate before", "evaluate teacher", "evaluate")
    zero = dict.fromkeys(names, 0.0)
    found = Measured(work=zero, loading=zero, each=zero, step={"kd": 1.0}, saving={"kd": 0.0}, groups=[group((4, 4))])
    found.prompts, found.quarter = {"train": 6, "heldout": 2}, {"score": 0.5}
    whole = Counts(train=18, heldout=6, prompt_tokens=4.0, answer_tokens=4.0, items=[])
    times = {one.name: one.seconds for one in stages(spec, whole, found, 0)}
    assert times["score"] == 2 * 0.5


def test_the_peak_leaves_out_what_was_freed_before() -> None:
    peak = peak_from_now(torch.device("cpu"))
    before = peak()
    taken = torch.ones(50_000_000)
    assert peak() - before == pytest.approx(2e8, rel=0.1)
    del taken
    if peak_from_now(torch.device("cpu"))() > before + 1e8:
        pytest.skip("this system does not count the peak anew")


def test_steps_and_tokens_come_from_the_data(tiny_recipe: Path) -> None:
    spec = language(tiny_recipe)
    found = count(spec)
    assert (found.train, found.heldout) == (18, 6)
    assert spec.training.steps_for(found.train) == 4 * 5  # 18 prompts in batches of 4
    assert language(tiny_recipe, "training={steps: 7}").training.steps_for(18) == 7
    # <turn> user, the prompt's words, <end>, <turn> assistant: 24 prompts of 2 to 5 words.
    assert found.prompt_tokens == 5 + sum(2 + n % 4 for n in range(24)) / 24


def test_the_tokenizer_is_that_of_the_students_file(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut student's is its teacher's: inside a GGUF file, or of a revision."""
    asked: list[dict[str, object]] = []

    def noted(model: str, **options: object) -> object:
        asked.append(options)
        return load_tokenizer(model)

    monkeypatch.setattr("grkd.language.models.load_tokenizer", noted)
    spec = language(tiny_recipe)
    assert isinstance(spec.teacher, Model)
    count(replace(spec, teacher=replace(spec.teacher, gguf_file="a.gguf", revision="b")))
    assert asked == [{"gguf_file": "a.gguf", "revision": "b", "trust_remote_code": False}]


def test_a_peak_is_shown_where_no_sizes_are_known(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a teacher and student in a GGUF file, whose config says nothing before it is read."""
    monkeypatch.setattr("grkd.planning.language.memory_of", lambda *_, **__: None)
    spec = language(tiny_recipe)
    counts = Counts(train=8, heldout=2, prompt_tokens=4.0, answer_tokens=4.0, items=[])
    found = Measured(peak={"kd": 2**30, "grkd": 2**31}, groups=[group((4, 4))])
    assert planned_memory(spec, counts, found) == ({}, 2**31)
    assert planned_memory(spec, counts, None) == ({}, None)
    shown = tables(Plan(stages=[], peak=2.0**31))
    assert "peak, of the measured steps: 2.00 GiB; " in shown


def test_the_memory_of_weights_is_their_number(tiny_recipe: Path) -> None:
    """A decoder of two layers: float32 weights, gradients, and two moments of AdamW."""
    spec = language(tiny_recipe)
    teacher, student = sizes_of(spec)
    assert teacher is not None
    assert student is not None
    per_layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32
    assert teacher.parameters - student.parameters == per_layer
    memory = memory_of(spec, tokens=100, response_tokens=50)
    assert memory is not None
    assert (memory.weights, memory.optimizer) == (4 * student.parameters, 8 * student.parameters)
    assert memory.teacher == 0  # its hidden states are cached
    live = memory_of(replace(spec, score=replace(spec.score, signal="live")), tokens=100, response_tokens=50)
    assert live is not None
    assert live.teacher == 4 * teacher.parameters  # float32 on a CPU


def test_the_power_is_that_of_the_paired_test() -> None:
    """Against a simulation-free bound: the noncentral t distribution at the difference that is named has 80 %."""
    spread, deviation = assumed(questions=500, unit="questions"), math.sqrt(2e-4 + 4e-4)
    assert spread.deviation == pytest.approx(deviation)
    (first, second) = sentences(spread, seeds=5, questions=500, unit="questions")
    points = float(first.split("you can detect ")[1].split(" points")[0]) / 100
    bound = stats.t.ppf(0.975, 4)
    assert stats.nct.sf(bound, 4, points * math.sqrt(5) / deviation) == pytest.approx(0.8, abs=0.02)
    assert "with 5 seeds and 500 questions" in first
    assert "assuming 1.0 points between seeds and 20% of questions answered differently; --from RUN" in first
    assert "3 points" in second
    for few in (1, 2):  # the report tests three or more
        (first, second) = sentences(spread, seeds=few, questions=10, unit="questions")
        assert first.endswith("no method can be called better")
        assert "assuming" in second


def test_a_served_teacher_and_a_judge_cost_their_tokens(tiny_recipe: Path) -> None:
    spec = language(tiny_recipe, "responses={source: teacher, n: 3, max_new_tokens: 6}")
    served = ServedModel(url="http://x/v1", served_model="m", log_probs=True)
    judge = {"name": "judge", "label": "j", "url": "http://y/v1", "model": "m", "ask": "pairs"}
    spec = replace(spec, teacher=served, score=replace(spec.score, rankers=[judge]))
    found = usage(spec, prompts=10, prompt_tokens=5.0, response_tokens=4.0)
    assert found["responses of the teacher"] == Usage(requests=30, read=150.0, written=120.0)
    assert found["log-probabilities of the teacher"] == Usage(requests=30, read=270.0, written=30.0)
    assert found["judge j"].requests == 10 * 6  # three pairs in both orders
    assert found["judge j"].read == 60 * (250 + 5 + 8)
    sampled = replace(
        spec,
        responses=replace(spec.responses, when="in_training", stored_share=0.25),
        training=replace(spec.training, batch_size=4, gradient_accumulation=2),
        methods=[Method(name="grkd", label="grkd", options={"preset": "responses"}), Method(name="kd", label="kd")],
        seeds=[0, 1],
    )
    found = usage(sampled, prompts=10, prompt_tokens=5.0, response_tokens=4.0, steps=100)
    assert found["judge j"].requests == 10 * 6
    assert found["judge j, in training of grkd"].requests == 100 * 4 * 2 * 3 // 4 * 2 * 6
    assert len([name for name in found if "in training" in name]) == 1  # kd compares no responses
    assert Usage(read=2e6, written=1e6).cost(0.5, 3.0) == 4.0
    assert usage(language(tiny_recipe), prompts=10, prompt_tokens=5.0, response_tokens=4.0) == {}


def test_no_endpoint_is_asked_unasked(tiny_recipe: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    asked: list[bool] = []

    def noted(spec: LanguageRecipe, *, measured: bool, prices: object, earlier: object) -> Plan:
        asked.append(measured)
        return Plan(stages=[], notes=["first"])

    monkeypatch.setattr("grkd.planning.language.plan_language", noted)
    served = f"teacher={{url: 'http://x/v1', served_model: m, tokenizer: {tiny_teacher}}}"
    spec = language(tiny_recipe, served, f"student={{model: {tiny_teacher}}}")
    plan = make_plan(spec, measured=True)
    assert "may cost money (--ask measures)" in plan.notes[0]
    make_plan(spec, measured=True, ask=True)
    make_plan(language(tiny_recipe), measured=True)
    assert asked == [False, True, True]
    judge = "score={rankers: [{name: judge, url: 'http://y/v1', model: m}]}"
    assert asks_endpoint(language(tiny_recipe, judge))
    assert not asks_endpoint(language(tiny_recipe))


def test_amounts_are_for_people() -> None:
    assert [duration(one) for one in (1.23, 75.0, 600.0, 7200.0)] == ["1.2 s", "75 s", "10 min", "2.0 h"]
    assert [amount(one) for one in (1.5 * 2**30, 2.0**20)] == ["1.50 GiB", "1.0 MiB"]


def test_the_command_measures_a_language_run(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_EVERY", 1)
    words = [str(tiny_recipe), "seeds=[0,1,2]", "search={trials: 2}", "--json", "--gpu-price", "3600"]
    assert cli.main(["plan", *words]) == 0
    said = capsys.readouterr()
    assert "measuring: score" in said.err
    plan = json.loads(said.out)
    names = [one["name"] for one in plan["stages"]]
    assert names == [
        *("prepare", "respond", "score", "evaluate before", "evaluate teacher"),
        *("train kd", "train grkd", "first steps of each method", "evaluate", "report"),
    ]
    beyond = "first steps of each method"  # what they took beyond the median step: 0 where none took longer
    assert all(one["seconds"] > 0 or one["name"] == beyond for one in plan["stages"])
    assert plan["trials"][0]["times"] == 4
    assert plan["money"]["machine"] == pytest.approx(plan["seconds"])
    assert plan["counts"]["students"] == 6
    assert plan["peak"] > sum(plan["memory"].values())  # of the process, with Python and its libraries
    assert sorted(one.name for one in tiny_recipe.parent.iterdir()) == ["tiny.yaml"]


def test_a_quick_plan_loads_nothing(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", str(tiny_recipe), "--quick"]) == 0
    shown = capsys.readouterr().out
    for part in ("memory of a training step", "optimizer", "disk", "with 1 seed no method", "times were not measured"):
        assert part in " ".join(shown.split()), part
    assert "grkd run" not in shown  # of which nothing is known
