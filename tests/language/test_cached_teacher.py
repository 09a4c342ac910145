"""Runs whose teacher is a cache of ranks: as with the teacher itself, and no weight of it on the machine."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from grkd.cli import main
from grkd.errors import UserError
from grkd.files import read_json, write_json
from grkd.language import respond as respond_stage
from grkd.language.context import LanguageContext
from grkd.language.respond import read_records
from grkd.models.load import load_language_model
from grkd.pipeline.check import check_recipe
from grkd.pipeline.run import run
from grkd.recipe import LanguageRecipe, read
from grkd.run.folder import RunFolder
from grkd.teacher.rank_cache import HEADER, RankCache

PAIRS = "methods=[{name: grkd, ranking: [{part: pairs, group: top, group_size: 6}], anchor: []}]"
COMMON = ["data.limit=12", "training.epochs=2", "evaluation.samples=0"]


@pytest.fixture
def built(tiny_recipe: Path) -> tuple[Path, Path]:
    """A recipe and the cache of its teacher, of top 6 with log-probabilities; prepare/student is its student."""
    folder = tiny_recipe.parent
    words = [*COMMON, PAIRS, f"output={folder / 'build'}"]
    assert main(["cache", "build", str(tiny_recipe), str(folder / "cache"), *words, "--entries", "6"]) == 0
    return tiny_recipe, folder / "cache"


def recipe_of(path: Path, cache: Path, *words: str, output: str = "cached") -> LanguageRecipe:
    student = path.parent / "build" / "prepare" / "student"
    given = [*COMMON, PAIRS, f"teacher={{cache: {cache}}}", f"student={{model: {student}}}", *words]
    found = read(path, [*given, f"output={path.parent / output}"])
    assert isinstance(found, LanguageRecipe)
    return found


def student_of(recipe: LanguageRecipe, name: str = "grkd-seed0") -> dict[str, torch.Tensor]:
    return load_file(Path(recipe.output) / "train" / name / "student" / "model.safetensors")


def test_a_student_is_the_live_teachers(built: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of the top six: the same weights, metrics of the order and of responses, killed after the respond stage."""
    path, cache = built
    live = read(path, [*COMMON, PAIRS, f"output={path.parent / 'build'}"])
    assert isinstance(live, LanguageRecipe)
    assert run(live) == 0
    recipe = recipe_of(path, cache)
    check_recipe(recipe)
    loaded: list[str] = []

    def watched(model: str, **options: object) -> object:
        loaded.append(model)
        return load_language_model(model, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("grkd.language.models.load_language_model", watched)
    with monkeypatch.context() as killed:
        killed.setattr("grkd.language.stages.score", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(recipe)
    monkeypatch.setattr(respond_stage, "_make_shards", lambda *_: pytest.fail("responses are kept"))
    assert run(recipe) == 0
    assert loaded
    assert not any(name.startswith(str(Path(live.teacher.model))) for name in loaded)  # type: ignore[union-attr]
    torch.testing.assert_close(student_of(recipe), student_of(live), rtol=1e-5, atol=1e-7)
    ours, theirs = (
        read_json(Path(each.output) / "evaluate" / "grkd-seed0" / "metrics.json") for each in (recipe, live)
    )
    for metric in ("pair_accuracy", "kendall_tau", "top1_agreement"):
        assert ours[metric]["value"] == pytest.approx(theirs[metric]["value"], abs=1e-6)
    for split in ("train", "heldout"):
        records, own = (read_records(RunFolder(Path(each.output)), split) for each in (live, recipe))
        assert records == own
    means = [
        torch.tensor([record["teacher_mean_log_prob_nats"] for record in _scores(each)]) for each in (live, recipe)
    ]
    torch.testing.assert_close(*means, rtol=1e-4, atol=1e-4)


def _scores(recipe: LanguageRecipe) -> list[dict[str, float]]:
    from grkd.data.tables import read_table

    return [each for path in sorted((Path(recipe.output) / "score").glob("*.parquet")) for each in read_table(path)]


def test_responses_are_compared_by_the_caches_word(tiny_recipe: Path) -> None:
    """Two responses per prompt, of an order alone: dpo needs no more than their log-probabilities."""
    folder, groups = tiny_recipe.parent, ["responses.n=2", "responses.source=student"]
    words = [*COMMON, "methods=[dpo]", *groups, f"output={folder / 'build'}"]
    assert main(["cache", "build", str(tiny_recipe), str(folder / "c"), *words, "--entries", "6", "--order-only"]) == 0
    recipe = recipe_of(tiny_recipe, folder / "c", "methods=[dpo]", *groups)
    assert run(recipe) == 0
    metrics = read_json(Path(recipe.output) / "evaluate" / "dpo-seed0" / "metrics.json")
    assert {"pair_accuracy", "response_pair_accuracy"} <= metrics.keys()
    assert "forward_kl_nats" not in metrics


def test_a_sample_without_questions_measures_nothing(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said before the training, and again in place of the table."""
    folder, words = tiny_recipe.parent, ["methods=[{name: kd, temperature: 1}]", "evaluation.questions=null"]
    build = [*COMMON, *words, f"output={folder / 'build'}", "--choose", "sample", "--entries", "6"]
    assert main(["cache", "build", str(tiny_recipe), str(folder / "c"), *build]) == 0
    assert run(recipe_of(tiny_recipe, folder / "c", *words)) == 0
    written = capsys.readouterr()
    told = " ".join((written.out + written.err).split())
    assert "no metric will be measured" in told
    assert "Nothing was measured: the teacher's signal gives no metric." in told


REFUSED = {
    "methods=[opd]": "opd learns from responses sampled in training",
    "methods=[dist]": "dist cannot learn from a cache of ranks; use kd",
    "methods=[{name: kd, temperature: 3.0}]": r"temperature is 3, and .* set temperature: 1, or build it",
    "student={layers: [0, 2]}": "a cache of ranks has no layers to keep",
    "score.signal=live": "live belongs to a teacher",
    "score.reward=choice": "a cache of ranks is not asked for choices",
    "responses.when=in_training": "knows stored responses alone",
    "evaluation.top_k=7": "above the 6 candidates per token",
    "teacher={cache: /nowhere}": "no cache.json in it",
}


def test_refused_before_anything_is_loaded(built: tuple[Path, Path]) -> None:
    path, cache = built
    for word, message in REFUSED.items():
        with pytest.raises(UserError, match=message) as caught:
            check_recipe(recipe_of(path, cache, word))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_another_tokenizer_template_or_data_and_damage(built: tuple[Path, Path]) -> None:
    path, cache = built

    def refused(message: str, *words: str, output: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            run(recipe_of(path, cache, *words, output=output))
        assert len(str(caught.value)) < 400

    for what in ("vocabulary", "template"):
        header = read_json(cache / HEADER)
        write_json(cache / HEADER, {**header, "origin": {**header["origin"], what: "other"}})
        refused(f"made with another (chat )?{what}", output="a")
        write_json(cache / HEADER, header)
    refused("has no response from the teacher to any of the 12 prompts", "data.system=Be brief.", output="b")
    refused("max_new_tokens: 2, and .* responses of up to", "responses.max_new_tokens=2", output="c")
    shard = next(iter(RankCache(cache).records.files()))
    shutil.copy(shard, cache / "kept")
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x07")
    refused(r"the cache is damaged: ranks-\d+.safetensors \(altered\)", output="d")
    shard.unlink()
    refused("the cache is damaged: .* \\(missing\\)", output="e")
    shutil.move(cache / "kept", shard)
    context = LanguageContext.open(recipe_of(path, cache), RunFolder(path.parent / "f"))
    assert context.models.cached is not None
