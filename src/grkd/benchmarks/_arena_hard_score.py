"""Arena-Hard v0.1: a judge's verdicts against a baseline to a weighted win rate and a Bradley-Terry score.

Source: Li et al., "From Crowdsourced Data to High-Quality Benchmarks", arXiv 2406.11939. A battle is a dictionary:
question_id, model_a, model_b, winner (model_a, model_b, tie; None if unparsable). Each question is judged in both
orders, and a verdict of "significantly better" makes three battles.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grkd.benchmarks._arena_hard_judge import BASELINE, VERDICTS
from grkd.benchmarks._data_files import read_rows, without_nan
from grkd.errors import UserError
from grkd.statistics import bootstrap_interval

_OUTCOMES = ("model_a", "model_b", "tie")


def battles_of(
    question_id: str, model: str, verdicts: Sequence[str | None], *, baseline: str = BASELINE
) -> list[dict[str, Any]]:
    """The battles of one question from the labels of its games (1: the baseline is A; 2: the model is A).

    A label that is None, or no verdict, gives one battle whose winner is None: counted as unparsable, nothing else.
    The other game of the question counts, as in the benchmark's leaderboards of 2024 (its later code drops both).
    """
    found = []
    for label, (side_a, side_b) in zip(verdicts, (_OUTCOMES[:2], _OUTCOMES[1::-1]), strict=False):
        side, times = VERDICTS.get(label or "", (None, 1))
        winner = {"A": side_a, "B": side_b, "tie": "tie", None: None}[side]
        found += [{"question_id": question_id, "model_a": baseline, "model_b": model, "winner": winner}] * times
    return found


def read_battles(path: Path) -> list[dict[str, Any]]:
    """The battles of a JSONL or JSON file, gzipped or not; rows with `games` (the benchmark's judgements) are turned
    into battles. Raises UserError that names the line or row.
    """
    found = []
    for row in read_rows(path, _mistake, kind="battles"):
        if "games" in row:
            verdicts = [None if game is None else game["score"] for game in row["games"]]
            found += battles_of(_question(row), row["model"], verdicts, baseline=row.get("baseline") or BASELINE)
        else:
            found.append({**row, "question_id": _question(row)})
    return found


def score(
    battles: Sequence[Mapping[str, Any]], *, bootstrap: int = 100, seed: int = 42, baseline: str = BASELINE
) -> dict[str, Any]:
    """Arena-Hard's metrics of the models in `battles`, in percent.

    win_rate = (wins + ties / 2) / battles against the baseline. score: the model's chance to beat the baseline by
    Bradley-Terry, P = 1 / (1 + exp(r_baseline - r_model)), r the maximum-likelihood logistic regression with a tie as
    half a win and half a loss. low, high: percentiles 2.5 and 97.5 of the score over `bootstrap` resamples of battles,
    drawn as the benchmark draws them. question_low, question_high: 95 % interval of win_rate with whole questions
    drawn: battles of one question are not independent, so this is the wider and sounder one.
    n, wins, ties, losses count battles, unparsable those without a winner, left out everywhere.
    Several models: {"models": {name: metrics}}. A metric of nothing is None.
    Raises UserError for a battle without the baseline; ValueError for bootstrap below 1.
    """
    if bootstrap < 1:
        raise ValueError(f"bootstrap must be 1 or more, got {bootstrap}")
    models, shares, sides = _shares(battles, baseline)
    known = ~np.isnan(shares)
    fitted = 100 * _bradley_terry(shares[known], sides[known], len(models))
    low, high = _resampled(shares[known], sides[known], len(models), bootstrap, seed)
    questions = np.array([_question(battle) for battle in battles])
    results = {}
    for number, model in enumerate(models):
        mine, all_mine = shares[known & (sides == number)], shares[sides == number]
        whole = bootstrap_interval(100 * all_mine, groups=questions[sides == number], seed=seed)
        results[model] = {
            "win_rate": whole.mean,
            "score": float(fitted[number]),
            "low": float(low[number]),
            "high": float(high[number]),
            "question_low": whole.low,
            "question_high": whole.high,
            "n": len(mine),
            "wins": int((mine == 1).sum()),
            "ties": int((mine == 0.5).sum()),
            "losses": int((mine == 0).sum()),
            "questions": len(set(questions[sides == number])),
            "unparsable": len(all_mine) - len(mine),
        }
    figures = {model: without_nan({"model": model, "baseline": baseline, **found}) for model, found in results.items()}
    return figures[models[0]] if len(models) == 1 else {"models": figures}


def question_items(battles: Sequence[Mapping[str, Any]], *, baseline: str = BASELINE) -> list[dict[str, Any]]:
    """One model's battles by question, for paired tests: id, win_percent and battles (how many have a winner).

    win_percent: (wins + ties / 2) / battles, None if no battle has a winner. Raises UserError as `score`.
    """
    models, shares, _ = _shares(battles, baseline)
    assert len(models) == 1, models
    by_question: dict[str, list[float]] = {}
    for battle, share in zip(battles, shares.tolist(), strict=True):
        found = by_question.setdefault(_question(battle), [])
        if not np.isnan(share):
            found.append(100 * share)
    return [
        {"id": name, "win_percent": sum(found) / len(found) if found else None, "battles": len(found)}
        for name, found in by_question.items()
    ]


def _shares(
    battles: Sequence[Mapping[str, Any]], baseline: str
) -> tuple[list[str], NDArray[np.float64], NDArray[np.int64]]:
    """The models; what each battle's model has of the win (1, 0.5, 0, NaN if unparsable); and which model it is."""
    shares, names = [], []
    for number, battle in enumerate(battles, start=1):
        pair = [battle["model_a"], battle["model_b"]]
        if pair.count(baseline) != 1:
            raise UserError(f"battle {number}: {pair[0]} against {pair[1]}; one must be the baseline {baseline}")
        side = 1 - pair.index(baseline)
        names.append(str(pair[side]))
        winner = battle["winner"]
        shares.append(np.nan if winner is None else 0.5 if winner == "tie" else float(winner == _OUTCOMES[side]))
    if not names:
        raise UserError("battles: there are none to score")
    models = sorted(set(names))
    return models, np.array(shares), np.array([models.index(name) for name in names])


def _bradley_terry(shares: NDArray[np.float64], sides: NDArray[np.int64], models: int) -> NDArray[np.float64]:
    """Each model's chance to beat the baseline; NaN for a model without battles.

    The baseline's rating is 0. Equal battles are one row of the regression, weighted by their number.
    """
    from sklearn.linear_model import LogisticRegression

    counts = np.bincount(sides, minlength=models)
    wins = np.bincount(sides, weights=shares, minlength=models)
    there = np.flatnonzero(counts)
    chances = np.full(models, np.nan)
    if there.size:
        features = np.eye(there.size)
        # C=inf is "no penalty" in every release of scikit-learn; `penalty=None` is not.
        regression = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-8, max_iter=1000)
        regression.fit(
            np.concatenate([features, features]),
            np.repeat([1, 0], there.size),
            sample_weight=np.concatenate([wins[there], counts[there] - wins[there]]),
        )
        chances[there] = 1 / (1 + np.exp(-regression.coef_[0]))
    return chances


def _resampled(
    shares: NDArray[np.float64], sides: NDArray[np.int64], models: int, bootstrap: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentiles 2.5 and 97.5 of the score, in percent; ratings are what is interpolated, as in the benchmark."""
    if not shares.size:
        return np.full(models, np.nan), np.full(models, np.nan)
    draw = np.random.RandomState(seed)  # the generator of the benchmark's published intervals
    chances = []
    for _ in range(bootstrap):
        drawn = draw.choice(shares.size, size=shares.size, replace=True)
        chances.append(_bradley_terry(shares[drawn], sides[drawn], models))
    with np.errstate(divide="ignore"):
        ratings = np.log(chances) - np.log1p(-np.array(chances))
    bounds = []
    for percent in (2.5, 97.5):
        # A model that a resample has no battle of is NaN there.
        rows = [column[~np.isnan(column)] for column in ratings.T]
        bounds.append(np.array([np.percentile(row, percent) if row.size else np.nan for row in rows]))
    low, high = (100 / (1 + np.exp(-bound)) for bound in bounds)
    return low, high


def _question(row: Mapping[str, Any]) -> str:
    return str(row.get("question_id", row.get("uid")))


def _mistake(row: dict[str, Any]) -> str | None:
    """What is wrong with a battle or a judgement."""
    if "question_id" not in row and "uid" not in row:
        return "no 'question_id' in it"
    if "games" in row:
        games = row["games"]
        sound = isinstance(games, list) and len(games) in (1, 2) and isinstance(row.get("model"), str)
        sound = sound and all(game is None or _has_verdict(game) for game in games)
        return None if sound else "a judgement has 'model' and 'games', a list of one or two objects with a 'score'"
    for key in ("model_a", "model_b"):
        if not isinstance(row.get(key), str):
            return f"{key!r} must be a model's name, got {row.get(key)!r}"
    if "winner" not in row:
        return "no 'winner' in it"
    if row["winner"] == "tie (bothbad)":
        row["winner"] = "tie"
    if row["winner"] is not None and row["winner"] not in _OUTCOMES:
        return f"'winner' must be model_a, model_b, tie or null, got {row['winner']!r}"
    return None


def _has_verdict(game: Any) -> bool:
    return isinstance(game, dict) and isinstance(game.get("score", 0), str | None)
