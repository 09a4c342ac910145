"""What a reader must know before believing the numbers: responses cut, prompts dropped, groups without an order."""

from grkd.metrics.registry import Metric
from grkd.reports.results import BEFORE, TEACHER, Run
from grkd.reports.summary import Summary
from grkd.reports.tables import number
from grkd.reports.verdict import deciding_metric

_SHARE = 0.05  # below it a loss is no warning


def notices(run: Run, summary: Summary) -> list[str]:
    """Warnings of a run, each with what to change."""
    counts = run.counts
    responses = sum(count for name, count in counts.items() if name.startswith("responses_from_"))
    groups = counts.get("groups_train", 0) + counts.get("groups_heldout", 0) + counts.get("groups_dropped", 0)
    prompts = sum(counts.get(name, 0) for name in ("prompts_train", "prompts_heldout", "prompts_dropped_too_long"))
    found = [
        _share(
            counts.get("responses_cut", 0), responses, "responses were truncated at responses.max_new_tokens",
            "they teach the student not to stop; raise the limit",
        ),
        _share(
            counts.get("groups_dropped", 0), groups, "prompts have fewer than two different responses and were skipped",
            "raise responses.temperature or responses.candidates",
        ),
        _share(
            counts.get("groups_all_scores_equal", 0), counts.get("groups_scored", 0),
            "groups have only equal scores, so they have no order", "another ranker may distinguish their responses",
        ),
        _share(
            counts.get("prompts_dropped_too_long", 0), prompts, "prompts were too long and were skipped",
            "raise data.max_prompt_tokens if the context allows it",
        ),
        _teacher(summary, deciding_metric(summary)),
    ]  # fmt: skip
    return [notice for notice in found if notice is not None]


def _share(count: int, total: int, what: str, mend: str) -> str | None:
    if not total or count / total < _SHARE:
        return None
    return f"{count:,} of {total:,} {what} ({100 * count / total:.0f} %): {mend}."


def _teacher(summary: Summary, metric: Metric | None) -> str | None:
    """That the teacher is no better than the student was before."""
    teacher, before = summary.line(TEACHER), summary.line(BEFORE)
    if metric is None or metric.against_teacher or teacher is None or before is None:
        return None
    own, start = teacher.cells[metric.name].mean, before.cells[metric.name].mean
    if own is None or start is None or (own - start) * metric.direction > 0:
        return None
    return (
        f"The teacher is no better than the student before distillation ({metric.label} {number(own, metric)} and "
        f"{number(start, metric)}): there may be nothing to learn from it."
    )
