"""`grkd eval A B --prompts FILE`: a judge compares two models' answers to the user's own prompts, in both orders."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy import stats

from grkd.answers.question import Question
from grkd.benchmarks import Session, Settings, check_numbers
from grkd.console import Output, console
from grkd.data.sources import read_examples
from grkd.environment import command_line, environment
from grkd.errors import UserError
from grkd.files import write_json
from grkd.metrics.win_rate import controlled_interval
from grkd.rankers import Resources, load
from grkd.run.device import device, dtype
from grkd.run.folder import RunFolder
from grkd.statistics import bootstrap_interval

ANSWER_TOKENS = 1024
_AT_A_TIME = 64  # prompts that are judged between two looks at the budget
_FEWEST = 6  # prompts: of fewer, the sign test is not below 5 % even if one model wins all


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the judge said. wins: of the first model per prompt, 1, 1/2 or 0; NaN: an order could not be read.

    by_judge: prompts with a win that were asked about (equal answers are not). unreadable: how many of the judge's
    answers could not be read, and the first of them; empty if all could.
    """

    wins: list[float]
    tallies: dict[str, float]
    by_judge: int = 0
    unreadable: str = ""


def duel(settings: Settings, other: str, *, other_name: str | None = None) -> int:
    """Answer the prompts with both models, judge every pair of answers in both orders, print and keep the win rates.

    Written below settings.output: first/ and second/ (answers), judge.jsonl (judgements), duel.json. The same command
    again asks only for what is missing. Returns 0. Raises UserError for the user's mistakes, for a budget that is used
    up, and for judgements of which too few can be read; answers so far are kept.
    """
    questions = _questions(settings)
    where = device(settings.model.device)
    folder = RunFolder(settings.output)
    second = replace(settings, model=replace(settings.model, model=other, model_name=other_name))
    with folder.locked():
        sessions = [
            Session(one, folder.path / place, device=where, dtype=dtype(settings.model.dtype, where))
            for one, place in ((settings, "first"), (second, "second"))
        ]
        judge = _judge(settings, folder.path)  # before anything is generated
        for session in sessions:
            session.check(judged=False)
        answers = [session.answers(questions, task="duel", max_new_tokens=ANSWER_TOKENS) for session in sessions]
        texts = [[each[one.id][0].text for each in answers] for one in questions]
        judged = _judgements(judge, [one.turns[0] for one in questions], texts)
        check_readable(judged)
        found = result([session.generator for session in sessions], questions, texts, judged)
        more = {"judge": settings.judge.judge_model, "settings": settings.flat(), "other": other}
        write_json(folder.path / "duel.json", {**found, **more, "environment": environment(command_line())})
    Output().print(table(found))
    print(verdict(found), *([f"{judged.unreadable}."] if judged.unreadable else []))
    return 0


def check(settings: Settings, other: str | None) -> None:
    """Raises UserError for settings that do not fit a comparison of two models."""
    if settings.tasks:
        raise UserError(f"eval: two models are compared on --prompts, not on --tasks; remove {other} or --tasks")
    if settings.option("prompts") is None:
        raise UserError("eval: two models need --prompts FILE, a JSONL file of prompts")
    if settings.judge.judge is None or settings.judge.judge_model is None:
        raise UserError("eval: two models need a judge: --judge URL --judge-model NAME")
    check_numbers(settings)


def check_readable(judged: Judged) -> None:
    """Raises UserError if nothing was judged, or too little for the sign test although there are enough prompts."""
    prompts, known = len(judged.wins), int((~np.isnan(judged.wins)).sum())
    if not judged.unreadable or (judged.by_judge and not known < _FEWEST <= prompts):
        return
    what = f"only {known} of {prompts} prompts were judged" if judged.by_judge else "nothing was judged"
    raise UserError(
        f"eval: {what}: {judged.unreadable}; name another --judge-model, or give it more room with --judge-tokens"
    )


def result(
    names: Sequence[str], questions: Sequence[Question], texts: Sequence[Sequence[str]], judged: Judged
) -> dict[str, Any]:
    """Win rates of the first model with intervals, a sign test, and one item per prompt."""
    wins = np.array(judged.wins)
    lengths = np.array([float(len(one) - len(two)) for one, two in texts])
    known = ~np.isnan(wins)
    metrics: dict[str, Any] = {}
    if known.any():
        metrics["win_rate"] = bootstrap_interval(wins[known], share=True).as_json()
        metrics["length_controlled_win_rate"] = controlled_interval(wins[known], lengths[known]).as_json()
    won, lost = int((wins > 0.5).sum()), int((wins < 0.5).sum())
    shown = [None if np.isnan(win) else win for win in judged.wins]
    decided = won + lost
    return {
        "first": names[0],
        "second": names[1],
        "metrics": metrics,
        "won": won,
        "lost": lost,
        "tied": int(known.sum()) - decided,
        "unreadable": int((~known).sum()),
        "p": float(stats.binomtest(won, decided).pvalue) if decided else 1.0,
        "mean_characters": [float(np.mean([len(pair[side]) for pair in texts])) for side in (0, 1)],
        "tallies": judged.tallies,
        "items": [
            {"id": one.id, "prompt": one.turns[0], "first": pair[0], "second": pair[1], "win": win}
            for one, pair, win in zip(questions, texts, shown, strict=True)
        ],
    }


def table(found: dict[str, Any]) -> Table:
    """Win rates with intervals, and what they are made of."""
    made = Table(title=f"{found['first']} against {found['second']}")
    made.add_column("measure")
    made.add_column("value", justify="right")
    labels = {"win_rate": "win rate", "length_controlled_win_rate": "win rate at equal lengths"}
    for name, value in found["metrics"].items():
        bounds = "" if value["low"] is None else f" [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"
        made.add_row(labels[name], f"{100 * value['value']:.1f} %{bounds}")
    made.add_row("won / tied / lost", f"{found['won']} / {found['tied']} / {found['lost']}")
    made.add_row("not parsed in both orders", str(found["unreadable"]))
    made.add_row("mean characters", " / ".join(f"{one:,.0f}" for one in found["mean_characters"]))
    if (bias := found["tallies"].get("position_bias")) is not None:
        made.add_row("judge prefers the first position by", f"{100 * bias:+.1f} points")
    return made


def verdict(found: dict[str, Any]) -> str:
    """One sentence: who is ahead on these prompts by the sign test, or that nothing is shown."""
    if found["p"] >= 0.05 or found["won"] == found["lost"]:
        return f"No difference shown (sign test p = {found['p']:.2g})."
    ahead = found["first"] if found["won"] > found["lost"] else found["second"]
    return f"{ahead} is ahead on these prompts (sign test p = {found['p']:.2g})."


def _questions(settings: Settings) -> list[Question]:
    """Prompts of one user turn; others are counted in one line. Raises UserError if none is left."""
    path = Path(settings.option("prompts"))
    examples = read_examples(path, groups=False, turns="last")
    single = [one for one in examples if len(one.conversation) == 1][: settings.limit]
    if left := len(examples) - sum(len(one.conversation) == 1 for one in examples):
        console.print(f"[yellow]{path}: {left} prompts with earlier turns or a system message are skipped[/yellow]")
    if not single:
        raise UserError(f"{path}: no prompt of a single user turn; a judge is shown one question and two answers")
    return [Question(id=one.id, turns=(one.shown,)) for one in single]


def _judge(settings: Settings, folder: Path) -> Any:
    """The judge that orders pairs, opened: its answers are kept in the folder."""
    asked = settings.judge
    options = {
        "url": asked.judge,
        "model": asked.judge_model,
        "ask": "pairs",
        "max_requests": asked.max_requests,
        "max_tokens": asked.max_tokens,
        "concurrency": settings.concurrency,
        "timeout_seconds": settings.timeout_seconds,
        "key_env": asked.judge_key_env,
        **({"answer_tokens": asked.judge_tokens} if asked.judge_tokens is not None else {}),
    }
    made = load("judge", **options)
    made.open(Resources(folder=folder))
    return made


def _judgements(judge: Any, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> Judged:
    """Every pair judged; equal answers are a tie without a question."""
    wins = [0.5 if one == two else float("nan") for one, two in texts]
    open_ = [place for place, (one, two) in enumerate(texts) if one != two]
    for start in range(0, len(open_), _AT_A_TIME):
        part = open_[start : start + _AT_A_TIME]
        scores = judge([prompts[place] for place in part], [texts[place] for place in part], {})
        for place, score in zip(part, scores[:, 0].tolist(), strict=True):
            wins[place] = score
    tallies = {name: tally.value for name, tally in judge.tallies.items()}
    by_judge = sum(not np.isnan(wins[place]) for place in open_)
    return Judged(
        wins=wins, tallies=tallies, by_judge=by_judge, unreadable=_unreadable(tallies, judge.first_unreadable)
    )


def _unreadable(tallies: dict[str, float], example: str | None) -> str:
    """How many of the judge's answers are missing, with the first that could not be read."""
    refused, answers = int(tallies.get("refused", 0)), int(tallies.get("answers", 0))
    parts = []
    if unread := int(tallies.get("unreadable", 0)):
        text = " ".join((example or "").split())
        shown = f"{text[:80]} ..." if len(text) > 80 else text
        parts.append(f"{unread} of {answers} answers of the judge could not be parsed, such as {shown!r}")
    if refused:
        parts.append(f"the judge's server refused {refused} of {refused + answers} questions")
    return "; ".join(parts)
