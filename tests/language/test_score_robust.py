"""The score stage where things go wrong: teachers and data that cannot be used, kills, several ranks at once."""

from pathlib import Path
from typing import Any

import pytest
import torch

from grkd.errors import UserError
from grkd.language import score as language_scores
from grkd.language.context import LanguageContext
from grkd.language.score import score
from grkd.run.folder import RunFolder
from grkd.teacher.signal import HiddenCache
from tests._forked import on_ranks
from tests.language._score_runs import END, WORDS, Prepared, agree, made, records, save_llama, table, tokenizer


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("teacher"), tokenizer())


class TestMistakes:
    def refused(self, folder: Path, teacher: Path, *words: str, responses: list[dict[str, Any]]) -> str:
        with pytest.raises(UserError) as raised:
            made(folder, teacher, *words, responses=responses)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    @pytest.mark.parametrize("signal", ["cache", "live"])
    @pytest.mark.parametrize("place", [0, 5])
    def test_a_teacher_that_gives_nan(self, tmp_path: Path, signal: str, place: int) -> None:
        broken = save_llama(tmp_path / "teacher", tokenizer(), broken="w31")
        responses = [record for record in records(8, 2) if "w31" not in record["prompt"] + record["response"]]
        responses[place]["response_ids"] = [WORDS.index("w31"), END]
        text = self.refused(tmp_path, broken, f"score.signal={signal}", responses=responses)
        name, prompt = responses[place]["id"], responses[place]["prompt"]
        assert text.startswith(f"the teacher's mean log-probability of the response {name} is nan (prompt: {prompt!r})")

    def test_data_without_scores(self, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(language_scores, "Scorer", None)  # it is said before the teacher is loaded
        responses = records(4, 2, scores=True)
        responses[3]["data_score"] = None
        text = self.refused(tmp_path, teacher, "score.reward=data", responses=responses)
        assert text.startswith("score.reward is data, but the response p1#1 (from the data) has no score; give teacher")

    def test_a_response_without_tokens(self, tmp_path: Path, teacher: Path) -> None:
        responses = records(4, 2)
        responses[2]["response_ids"] = []
        assert "the response p1#0 has no tokens" in self.refused(tmp_path, teacher, responses=responses)


class TestKilled:
    @pytest.mark.parametrize("before_hidden_states", [True, False])
    def test_finished_chunks_are_kept(
        self, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, before_hidden_states: bool
    ) -> None:
        (tmp_path / "whole").mkdir()
        (tmp_path / "cut").mkdir()
        whole = made(tmp_path / "whole", teacher)
        with monkeypatch.context() as patch:
            name = "write_shard" if before_hidden_states else "write_table"
            owner: Any = HiddenCache if before_hidden_states else language_scores
            real, calls = getattr(owner, name), []

            def third(*parts: Any, **options: Any) -> Any:
                calls.append(1)
                if len(calls) == 3:
                    raise KeyboardInterrupt
                return real(*parts, **options)

            patch.setattr(owner, name, third)
            with pytest.raises(KeyboardInterrupt):
                made(tmp_path / "cut", teacher)
        partial = tmp_path / "cut" / "run" / "score.partial"
        stamps = {path.name: path.stat().st_mtime_ns for path in partial.glob("scores-*")}
        assert sorted(stamps) == ["scores-00000.parquet", "scores-00001.parquet"]
        assert len(list((partial / "hidden").iterdir())) == (2 if before_hidden_states else 3)
        cut = made(tmp_path / "cut", teacher)
        assert table(cut) == table(whole)
        for name, stamp in stamps.items():
            assert (cut.run.path / "score" / name).stat().st_mtime_ns == stamp
        caches = [HiddenCache(run.run.path / "score" / "hidden") for run in (whole, cut)]
        assert set(caches[0]) == set(caches[1])
        assert all(torch.equal(caches[0][name], caches[1][name]) for name in caches[0])


def test_two_ranks_share_the_chunks(tmp_path: Path, teacher: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    alone = made(tmp_path / "one", teacher, "score.reward=calibrated")
    shared = Prepared(tmp_path / "two", teacher, records(7, 3), "score.reward=calibrated")

    def rank() -> None:
        run = RunFolder(Path(shared.recipe.output))
        assert run.ranks.num_processes == 2
        score(LanguageContext.open(shared.recipe, run))

    on_ranks(rank, tmp_path / "ranks")
    agree(table(shared), table(alone))
    hidden = [run.run.path / "score" / "hidden" for run in (alone, shared)]
    files = [sorted(path.name for path in folder.iterdir()) for folder in hidden]
    assert files[0] == files[1] == [f"hidden-{number:06d}.safetensors" for number in range(4)]
    caches = [HiddenCache(folder) for folder in hidden]
    assert set(caches[0]) == set(caches[1])
    for name in caches[0]:
        torch.testing.assert_close(caches[0][name], caches[1][name])
