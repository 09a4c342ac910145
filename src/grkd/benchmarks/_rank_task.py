"""The rank task: how well a student folder has learnt an order, with bootstrap intervals over prompts.

Three prefixes say what is compared:
token_     rows are held-out response tokens, candidates the vocabulary, the order is the teacher's logits;
response_  rows are prompts, candidates several responses to each, the order is the teacher's reward or, where there is
           none, its mean log-probability;
grade_     the same rows, the order is a grade that came with the responses (a judge's, a person's).
The student's score of a response is always its mean log-probability, nats per token.
"""

from pathlib import Path
from typing import Any

from grkd.benchmarks._rank_measured import RankMeasurement
from grkd.benchmarks._rank_models import Student
from grkd.benchmarks._rank_sources import read_graded, read_prompts, read_run
from grkd.errors import UserError


def run(
    model: str,
    source: Path,
    *,
    teacher: str | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    device: str = "cpu",
    top_k: int = 50,
    seed: int = 0,
    store: Path | None = None,
) -> dict[str, Any]:
    """Rank fidelity of a student (folder or hub name): {"metrics": {name: {value, low, high}}, "items", "settings"}.

    source: a run folder of grkd (its held-out responses; the teacher is the run's, as stored, unless `teacher` names
    another); a JSONL file of prompts with "completion" (token level; `teacher` is needed) or with "responses" and
    "grades" (response level); or a Parquet file of graded responses.
    teacher: a folder or hub name; with groups it also gives response_ measures, against its own log-probabilities.
    limit: the first so many prompts. top_k: the teacher's candidates within which the order of tokens is measured.
    seed: of the bootstrap. store: JSON lines, what was measured of each response as it comes; after a kill only
    responses without a line are measured, and the metrics are the same.
    items: for paired tests, one record per response at token level (with its prompt as `group` where that has several)
    and one per prompt at response level; `asked` is a digest of the tokens.
    settings.responses_cut counts responses cut to the model's context; prompts that leave no room are dropped.
    settings.teacher_identity is the teacher's content (model_digest); for what a run has stored, that of the teacher
    which it was scored by. settings.teacher_score says what orders the responses of a run folder; tokens_left_out why
    it has no token level (a teacher with another vocabulary, whose scores of responses are stored), and so does note.
    Raises UserError for sources and models that cannot be read, vocabularies that differ, a teacher that is missing, or
    scores that are not finite.
    """
    if top_k < 2:
        raise UserError(f"rank: top_k must be 2 or more, got {top_k}")
    student = Student(model, device=device, batch_size=batch_size, store=store)
    task = RankMeasurement(student, teacher, top_k=top_k, seed=seed)
    if source.is_dir():
        task.run_folder(read_run(source, limit=limit))
    elif source.suffix == ".parquet":
        task.groups(read_graded(source, limit=limit))
    else:
        examples, found = read_prompts(source, limit=limit)
        if examples:
            task.examples(examples)
        else:
            task.groups(found)
    return {
        "metrics": task.metrics,
        "items": [{"id": name, **record} for name, record in task.items.items()],
        "settings": {
            "source": str(source),
            "teacher": task.teacher_name,
            "teacher_identity": task.teacher_identity,
            "limit": limit,
            "top_k": top_k,
            "seed": seed,
            "teacher_score": task.teacher_score,
            "tokens_left_out": task.tokens_left_out,
            "responses_cut": student.cut,
            "prompts_dropped": student.dropped,
        },
        "note": f"no token metrics: {task.tokens_left_out}" if task.tokens_left_out else None,
    }
