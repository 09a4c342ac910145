"""What was learnt from a teacher of another vocabulary: how many tokens had a teacher, and what of it was left out."""

from statistics import fmean

from grkd.reports.results import Run
from grkd.reports.tables import percent

_NAMES = ("tokens_with_a_teacher", "teacher_mass_left_out")


def crossing_view(run: Run) -> list[dict[str, str]]:
    """A line per student, with means over the steps of its training; empty if no teacher has another vocabulary."""
    found = []
    for curve in run.curves:
        logged = [step.crossing for step in curve.steps if step.crossing]
        if logged:
            shares = {name: [share for each in logged if (share := each.get(name)) is not None] for name in _NAMES}
            means = {name: percent(fmean(values) if values else None) for name, values in shares.items()}
            found.append({"name": f"{curve.label}, seed {curve.seed}", **means})
    return found
