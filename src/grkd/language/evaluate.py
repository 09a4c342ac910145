"""A language model's last stage: what a student learnt, measured on held-out prompts and questions."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from grkd.answers.kept import kept_answers
from grkd.console import console, track
from grkd.data.chat import answer_text, decode_response
from grkd.data.prompts import restored
from grkd.files import write_json
from grkd.language.context import LanguageContext
from grkd.language.cost import Pace, cost_of
from grkd.language.in_room import in_room
from grkd.language.rank_metrics import rank_metrics
from grkd.language.respond import by_group, read_records
from grkd.language.score import read_groups
from grkd.language.score_report import keep_groups
from grkd.language.shared_questions import prompts_of_questions, say_shared_questions
from grkd.metrics import exact_match
from grkd.models.generate import Response, generate_responses
from grkd.models.load import cast_weights, load_language_model
from grkd.models.shard import in_turns
from grkd.ranks import gathered
from grkd.recipe import LanguageRecipe, Model
from grkd.run.cost import begin_peak
from grkd.run.device import dtype
from grkd.run.folder import identity


def evaluate_student(context: LanguageContext, name: str, trained: str | None) -> Path:
    """Rank fidelity, exact match and sample answers of a trained student (None: before training)."""
    inputs = {
        "evaluation": _measured_by(context.recipe),
        "answers_in": str(_answers_in(context)),
        "score": context.run.key("score"),
        "trained": context.run.key(f"train/{trained}") if trained else None,
    }

    def make(work: Path) -> None:
        if trained is None:
            harm = "exact match counts answers learnt by heart"
            say_shared_questions(context, "evaluation", lambda: read_groups(context.run, "train"), harm=harm)
            student = context.models.student()
        else:
            student = load_language_model(str(context.run.path / "train" / trained / "student"), dtype=torch.float32)
        student = student.to(context.models.device).eval()
        by_group: dict[str, list[float]] = {}
        metrics = rank_metrics(
            context,
            to_rank(student),
            read_groups(context.run, "heldout"),
            description=f"evaluate {name}",
            by_group=by_group,
        )
        student = to_answer(context, student)
        begin_peak(context.models.device)
        pace, questions = Pace(), context.recipe.evaluation.questions
        metrics |= answered(context, student, questions, work / "exact_match.json", pace=pace)
        if trained is None and not metrics:
            console.print(
                "[yellow]no metric will be measured, because the teacher's signal gives none; add "
                "evaluation.questions[/yellow]",
                soft_wrap=True,
            )
        if context.run.ranks.is_main_process:
            keep_groups(work / "groups.parquet", context.run, by_group)
            write_json(work / "metrics.json", metrics)
            write_json(work / "answers.json", sample_answers(context, student, pace))
            write_json(work / "cost.json", cost_of(student, pace))

    return context.run.stage(f"evaluate/{name}", inputs, make)


def evaluate_teacher(context: LanguageContext) -> Path:
    """The teacher's own answers to the sample prompts, and its exact match."""
    inputs = {"evaluation": _measured_by(context.recipe), "score": context.run.key("score")}

    def make(work: Path) -> None:
        main = context.run.ranks.is_main_process
        # The prompts of another vocabulary are other token ids; other kinds of teachers are asked for what is learnt.
        if context.models.teacher_tokenizer is not None or not isinstance(context.recipe.teacher, Model):
            if main:
                write_json(work / "answers.json", [])
            return
        teacher = context.models.teacher()
        begin_peak(context.models.device)
        pace, questions = Pace(), context.recipe.evaluation.questions
        metrics = answered(context, teacher, questions, work / "exact_match.json", pace=pace)
        with in_turns(teacher):
            answers = sample_answers(context, teacher, pace) if main else []
        if main:
            write_json(work / "answers.json", answers)
            write_json(work / "cost.json", cost_of(teacher, pace))
        if main and metrics:
            write_json(work / "metrics.json", metrics)

    return context.run.stage("evaluate/teacher", inputs, make)


def to_rank(student: nn.Module) -> Any:
    """The student, in place, as its ranks are measured: in float32 everywhere."""
    return cast_weights(student, torch.float32)


def to_answer(context: LanguageContext, student: nn.Module) -> Any:
    """The student, in place, as it writes text, in trials and in final runs: as when responses are sampled from it.

    That is bfloat16 on a GPU and float32 on a CPU, or what student.dtype says. It is no longer fit for to_rank.
    """
    return cast_weights(student, _answers_in(context))


def _measured_by(recipe: LanguageRecipe) -> dict[str, Any]:
    """The evaluation's settings without those of the curve, which the train stage draws, and without prices."""
    own = identity(recipe.evaluation)
    return {name: value for name, value in own.items() if not (name.startswith("curve_") or "price" in name)}


def _answers_in(context: LanguageContext) -> torch.dtype:
    return dtype(context.recipe.student.dtype, context.models.device)


def answered(
    context: LanguageContext,
    model: PreTrainedModel,
    path: str | None,
    items: Path,
    *,
    pace: Pace | None = None,
    shown: bool = True,
    resumed: bool = True,
) -> dict[str, Any]:
    """Exact match on a file's questions, greedily; each question's outcome goes to `items`. Nothing without a file.

    pace: to which tokens and time are added. shown: with a progress bar. resumed: answers that a kill left are used;
    not those of a student in training, which is another one after a kill.
    """
    if path is None:
        return {}
    spec = context.recipe.evaluation
    questions = exact_match.read_questions(Path(path))
    prompt_ids = prompts_of_questions(context, questions)
    ranks, most = context.run.ranks, context.models.numbers["context"]
    if shown and ranks.is_main_process and (full := sum(len(ids) >= most for ids in prompt_ids)):
        console.print(
            f"[yellow]{full} of {len(questions)} questions fill the context of {most} tokens: no answer[/yellow]"
        )
    mine = range(ranks.process_index, len(questions), ranks.num_processes)
    name = items.stem if ranks.num_processes == 1 else f"{items.stem}-{ranks.process_index}-of-{ranks.num_processes}"
    journal = items.with_name(f"{name}.jsonl")  # answers as they come, until all are there
    with in_turns(model):
        texts = _greedy(
            context,
            model,
            [prompt_ids[place] for place in mine],
            max_new_tokens=spec.answer_tokens,
            batch_size=spec.answer_batch_size,
            pace=pace,
            journal=journal if resumed else None,
            shown=shown,
        )
    written = [(place, text) for place, (text, _) in zip(mine, texts, strict=True)]
    answers = dict(gathered(written, "answers to the questions"))
    result = exact_match.score(questions, [answers[place] for place in range(len(questions))])
    if ranks.is_main_process:
        write_json(items, result["items"])
        for kept in items.parent.glob(f"{items.stem}*.jsonl"):
            kept.unlink(missing_ok=True)
    return {"exact_match": result["metrics"]["exact_match"]}


def sample_answers(context: LanguageContext, model: PreTrainedModel, pace: Pace | None = None) -> list[dict[str, Any]]:
    """Greedy answers to the first held-out prompts, with the whole conversation; cut: by the limit of length."""
    spec = context.recipe.evaluation
    groups = by_group(read_records(context.run, "heldout"))
    records = [records[0] for records in groups.values()][: spec.samples]
    if not records:
        return []
    prompts = [record["prompt_ids"] for record in records]
    written = _greedy(context, model, prompts, max_new_tokens=spec.sample_tokens, batch_size=len(records), pace=pace)
    asked = [restored(record).asked(context.recipe.data.system) for record in records]
    messages = [[{"role": "user", "content": each}] if isinstance(each, str) else each for each in asked]
    return [
        {"prompt": record["prompt"], "messages": conversation, "answer": text, "cut": cut}
        for record, conversation, (text, cut) in zip(records, messages, written, strict=True)
    ]


def _greedy(
    context: LanguageContext,
    model: PreTrainedModel,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    pace: Pace | None = None,
    journal: Path | None = None,
    shown: bool = True,
) -> list[tuple[str, bool]]:
    """Per prompt the answer's text, and whether the limit of length cut it."""
    sample = partial(
        generate_responses,
        model,
        temperature=0.0,
        top_p=1.0,
        stop_ids=context.models.numbers["stop_ids"],
        pad_token_id=context.models.numbers["pad_token_id"],
        seed=0,
        batch_size=batch_size,
        vocabulary=context.models.numbers["vocabulary"],
    )
    asked = partial(in_room, sample, max_new_tokens=max_new_tokens, context=context.models.numbers["context"])
    written = [("", False)] * len(prompts)
    stop_ids, spent = context.models.numbers["stop_ids"], Pace() if pace is None else pace

    def answers() -> Iterator[Response]:
        for some in kept_answers(journal, prompts, asked):
            spent.add(some)
            yield from some.responses

    for answer in track(answers(), "answer", unit="answers", total=len(prompts)) if shown else answers():
        text = answer_text(decode_response(context.models.tokenizer, answer.response_ids, stop_ids))
        written[answer.index] = (text, not answer.finished)
    return written
