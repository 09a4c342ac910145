"""A language model's last stage: what a student learnt, measured on held-out prompts and questions.

Over 300 lines: what is measured of ranks, of answers and of samples shares one student in one precision.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from grkd.answers.kept import kept_answers
from grkd.console import track
from grkd.data.chat import answer_text, decode_response, encode_prompt
from grkd.data.prompts import Example
from grkd.files import write_json
from grkd.language.context import LanguageContext
from grkd.language.kept_groups import keep_groups
from grkd.language.rank_metrics import rank_metrics
from grkd.language.respond import read_records
from grkd.language.score import read_groups
from grkd.metrics import exact_match
from grkd.models.generate import generate_responses
from grkd.models.load import cast_weights, load_language_model
from grkd.models.shard import in_turns
from grkd.ranks import gathered
from grkd.recipe import LanguageRecipe, Model
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
        metrics |= answered(context, student, context.recipe.evaluation.questions, work / "exact_match.json")
        if context.run.ranks.is_main_process:
            keep_groups(work / "groups.parquet", context.run, by_group)
            write_json(work / "metrics.json", metrics)
            write_json(work / "answers.json", sample_answers(context, student))

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
        metrics = answered(context, teacher, context.recipe.evaluation.questions, work / "exact_match.json")
        with in_turns(teacher):
            answers = sample_answers(context, teacher) if main else []
        if main:
            write_json(work / "answers.json", answers)
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
    return cast_weights(
        student,
        _answers_in(context),
    )


def _measured_by(recipe: LanguageRecipe) -> dict[str, Any]:
    """The evaluation's settings without those of the curve, which the train stage draws."""
    return {name: value for name, value in identity(recipe.evaluation).items() if not name.startswith("curve_")}


def _answers_in(context: LanguageContext) -> torch.dtype:
    return dtype(context.recipe.student.dtype, context.models.device)


def answered(
    context: LanguageContext, model: PreTrainedModel, path: str | None, items: Path, *, shown: bool = True
) -> dict[str, Any]:
    """Exact match on a file's questions, greedily; each question's outcome goes to `items`. Nothing without a file.

    shown: with a progress bar.
    """
    if path is None:
        return {}
    spec = context.recipe.evaluation
    questions = exact_match.read_questions(Path(path))
    prompt_ids = [
        encode_prompt(
            context.models.tokenizer,
            Example(
                id=each.id, prompt=each.question, template_options=context.recipe.data.chat_template_kwargs or None
            ),
            system=context.recipe.data.system,
        )
        for each in questions
    ]
    ranks = context.run.ranks
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
            journal=journal,
            shown=shown,
        )
    answers = dict(gathered(list(zip(mine, texts, strict=True)), "answers to the questions"))
    result = exact_match.score(questions, [answers[place] for place in range(len(questions))])
    if ranks.is_main_process:
        write_json(items, result["items"])
        for kept in items.parent.glob(f"{items.stem}*.jsonl"):
            kept.unlink(missing_ok=True)
    found: dict[str, Any] = result["metrics"]
    return {"exact_match": found["exact_match"]}


def sample_answers(context: LanguageContext, model: PreTrainedModel) -> list[dict[str, str]]:
    """Greedy answers to the first held-out prompts."""
    first = {record["group"]: record for record in reversed(read_records(context.run, "heldout"))}
    records = list(reversed(first.values()))[: context.recipe.evaluation.samples]
    if not records:
        return []
    texts = _greedy(
        context,
        model,
        [record["prompt_ids"] for record in records],
        max_new_tokens=context.recipe.evaluation.sample_tokens,
        batch_size=len(records),
    )
    return [{"prompt": record["prompt"], "answer": text} for record, text in zip(records, texts, strict=True)]


def _greedy(
    context: LanguageContext,
    model: PreTrainedModel,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    journal: Path | None = None,
    shown: bool = True,
) -> list[str]:
    sample = partial(
        generate_responses,
        model,
        max_new_tokens=max_new_tokens,
        temperature=0.0,
        top_p=1.0,
        stop_ids=context.models.numbers["stop_ids"],
        pad_token_id=context.models.numbers["pad_token_id"],
        seed=0,
        batch_size=batch_size,
        vocabulary=context.models.numbers["vocabulary"],
    )
    texts = [""] * len(prompts)
    stop_ids = context.models.numbers["stop_ids"]
    answers = (answer for some in kept_answers(journal, prompts, sample) for answer in some.responses)
    for answer in track(answers, "answer", unit="answers", total=len(prompts)) if shown else answers:
        texts[answer.index] = answer_text(decode_response(context.models.tokenizer, answer.response_ids, stop_ids))
    return texts
