"""The comparison on lists: towers trained together are those trained alone, NDCG is ir-measures', the page is made."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import random as random_sparse

from benchmarks import lists, lists_table
from benchmarks._lists_data import KINDS, ListSet, said
from benchmarks._lists_search import TRIALS, beside, first_points, next_points, settled
from benchmarks._lists_towers import Teacher, _ndcg, _words, dense, trained
from grkd import objectives
from grkd.files import read_json
from grkd.metrics.retrieval import retrieval_measures
from grkd.objectives import Batch


def a_set(queries: int = 36, documents: int = 30, words: int = 25) -> ListSet:
    generator = np.random.default_rng(0)

    def texts(count: int) -> object:
        return random_sparse(count, words, density=0.4, format="csr", random_state=generator, dtype=np.float32)

    candidates = np.stack([generator.permutation(documents)[:8] for _ in range(queries)])
    return ListSet(
        queries=texts(queries),  # type: ignore[arg-type]
        documents=texts(documents),  # type: ignore[arg-type]
        rarity=np.ones(words, dtype=np.float32),
        candidates=candidates,
        scores=generator.normal(size=candidates.shape).astype(np.float32),
        bm25=generator.normal(size=candidates.shape).astype(np.float32) * 9,
        pool=np.empty((queries, 0), dtype=np.int32),
        grades=generator.integers(-1, 3, size=(queries, documents)).astype(np.int8),
        part=np.repeat([0, 1, 2], queries // 3).astype(np.int8),
    )


def test_towers_trained_together_are_those_trained_alone() -> None:
    found = a_set()
    heard = lists.teachers(found)
    towers = [
        lists.tower(("grkd", "top5"), (3, 7)),
        lists.tower(("grkd", "scores"), (4, 8)),  # the same call of the objective
        lists.tower(("kd", "scores"), (3, 8)),
        lists.tower(("grkd", "votes"), (3, 7)),
    ]
    options = {"queries": np.arange(12), "steps": 3, "device": torch.device("cpu")}
    together = trained(found, towers, heard, seeds=[1, 2], **options)
    for number, tower in enumerate(towers):
        for place, seed in enumerate((1, 2)):
            alone = trained(found, [tower], heard, seeds=[seed], **options)
            torch.testing.assert_close(together[[place]][:, :, [number]], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[:, :, 0], together[:, :, 1])
    assert not torch.allclose(together[0], together[1])


def test_the_words_of_a_gpu_are_those_of_a_cpu() -> None:
    words = a_set().documents
    np.testing.assert_array_equal(dense(words, torch.device("cpu")).numpy(), words.toarray())
    np.testing.assert_array_equal(_words(words, torch.device("cpu")).to_dense().numpy(), words.toarray())


@pytest.mark.parametrize("label", [label for label, entry in lists.METHODS.items() if entry.scale])
def test_an_option_that_scales_the_scores_is_taken_out_of_the_loss(label: str) -> None:
    entry, value = lists.METHODS[label], 2.0
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 6, generator=generator) for _ in range(2))
    batches = Batch(student=student, teacher=teacher), Batch(student=student * value**entry.scale, teacher=teacher)
    options = entry.options(value), entry.fixed
    rows = [
        objectives.load(entry.method, **own).terms(batch)[0].rows for own, batch in zip(options, batches, strict=True)
    ]
    torch.testing.assert_close(*rows)


@given(st.tuples(st.integers(2, 7), st.integers(4, 12)), st.floats(0.1, 3))
def test_the_search_spends_its_trials_around_the_best(peak: tuple[int, int], slope: float) -> None:
    def value(point: tuple[int, int]) -> float:
        return -abs(point[0] - peak[0]) - slope * abs(point[1] - peak[1])

    done: dict[tuple[int, int], float] = {}
    first = first_points((1.0, 4.0))
    while asked := next_points(done, first):
        assert not set(asked) & set(done)
        done |= {point: value(point) for point in asked}
    assert len(done) == TRIALS
    assert set(first) <= set(done)
    longer = dict(done)
    while asked := next_points(longer, first, 60):
        longer |= {point: value(point) for point in asked}
    assert settled(longer)  # no best at an edge, however far off
    assert max(longer, key=longer.__getitem__) == peak
    assert (longer == done) == settled(done)
    best = max(done, key=done.__getitem__)
    assert settled(done) == (set(beside(best)) <= set(done))
    if peak in ((4, 8), (3, 8), (4, 9)):  # within two steps of a coarse point: found
        assert best == peak
    if peak in ((4, 8), (4, 9)):  # within one: with all that is beside it
        assert settled(done)


def test_ndcg_is_that_of_ir_measures() -> None:
    found = a_set()
    scores = torch.randn(1, 36, 30, generator=torch.Generator().manual_seed(0))
    ours = _ndcg(scores, torch.from_numpy(found.grades).float())[0]
    ranked, judged = {}, {}
    for query in range(36):
        there = np.flatnonzero(found.grades[query] >= 0)
        ranked[str(query)] = {str(one): float(scores[0, query, one]) for one in there}
        judged[str(query)] = {str(one): float(found.grades[query, one]) for one in there}
    theirs = retrieval_measures(ranked, judged, over="list")["list_ndcg10"]
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_each_kind_of_teacher_says(kind: str) -> None:
    found = a_set()
    order, scores = said(found, kind)
    tiers = {"top5": 6, "top1": 2, "tiers": 4, "order": 8}
    for row in range(len(order)):
        if kind in tiers:
            assert len(order[row].unique()) == tiers[kind]
            torch.testing.assert_close(scores[row], -torch.log1p(-order[row]))
        if kind in ("warped", "order"):  # no pair is turned round
            assert torch.equal(order[row].argsort(), torch.from_numpy(found.scores[row]).argsort())
    assert isinstance(Teacher(order=order, scores=scores), Teacher)


def test_a_run_is_kept_and_its_page_has_every_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "METHODS", {name: lists.METHODS[name] for name in ("grkd", "kd", "plackett_luce")})
    monkeypatch.setattr(lists, "load", lambda _: a_set())
    options = {"steps": 1, "seeds": 2, "device": torch.device("cpu"), "kinds": ("scores", "top5")}
    options["labels"] = tuple(lists.METHODS)
    lists.run_set(tmp_path / "tiny.npz", tmp_path, **options)
    found = read_json(tmp_path / "tiny.json")
    assert all(len(one["trials"]) == TRIALS for one in found["search"])
    assert found["environment"]["torch"] == version("torch")
    assert {(row["method"], row["kind"]) for row in found["rows"]} == {
        (method, kind) for method in lists.METHODS for kind in ("scores", "top5")
    }
    # A longer search goes on from there, and trains those anew whose pick changes.
    (tmp_path / "longer").mkdir()
    lists.keep(tmp_path, tmp_path / "kept")
    lists.run_set(tmp_path / "tiny.npz", tmp_path / "longer", **options, most=TRIALS + 3, earlier=tmp_path / "kept")
    longer, kept = read_json(tmp_path / "longer" / "tiny.json"), read_json(tmp_path / "kept" / "tiny.json")
    for one, before in zip(longer["search"], kept["search"], strict=True):
        assert one["trials"][:TRIALS] == before["trials"]
        assert (len(one["trials"]) == TRIALS) == before["settled"]
    for row, before in zip(longer["rows"], kept["rows"], strict=True):
        same = all(row[name] == before[name] for name in ("options", "rate"))
        assert (row.get("by_seed") == before["by_seed"]) == same
        assert same or len(row["ndcg10"]) == 2
    lists.keep(tmp_path / "longer", tmp_path / "kept")
    assert all(len(row["by_seed"]) == 2 for row in read_json(tmp_path / "kept" / "tiny.json")["rows"])

    lists_table.write_page(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "## tiny" in page
    assert page.count("`plackett_luce` |") >= 2
