"""What the project set out to reach for classes, and whether it did, from the same tests as the rest of the page."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks._classification_results import (
    COLUMNS,
    DASH,
    OURS,
    SPOKEN,
    Column,
    Experiment,
    markdown,
    shown_difference,
)
from grkd.files import read_json
from grkd.statistics import PairedDifference

Judge = Callable[[PairedDifference, int], bool]
Found = Mapping[str, tuple[str, PairedDifference]]  # experiment -> (best baseline, the test against it)

_COLUMN = {column.metric: column for column in COLUMNS}
TINY = ("tiny-small", "tiny-large")
WORST = (
    "cifar10-worst-small",
    "cifar10-worst-large",
)  # labels of people at their worst, a teacher that learnt from them
TEXTS = ("banking77", "clinc150")
NOISY = (*WORST, "cifar10-worst-clean-teacher", "cifar10-random1", "cifar10-aggregate")
SPEED, FASTEST = "grkd, the form for classes", 1.1


def section(
    experiments: Sequence[Experiment], compare: Callable[[Sequence[Experiment], Column], Found], results: Path
) -> list[str]:
    """The Markdown of the targets. compare: `classification_table.comparisons`; results: holds the speed's file."""
    tests = {metric: compare(experiments, _COLUMN[metric]) for metric in SPOKEN}
    every = [experiment.name for experiment in experiments]

    def judged(
        names: Sequence[str], metric: str, judge: Judge, enough: Callable[[list[bool]], bool] = all
    ) -> list[str]:
        # People's votes are there for one data set alone.
        asked = names if names is not every else [name for name in names if name in tests[metric]]
        return _judged(tests[metric], asked, _COLUMN[metric], judge, enough)

    rows = [
        ("better in top-1 on Tiny ImageNet, both students", judged(TINY, "accuracy", better)),
        ("better in top-1 on CIFAR-10N worst, noisy teacher, both students", judged(WORST, "accuracy", better)),
        ("better in top-1 on one of the two sets of texts", judged(TEXTS, "accuracy", better, any)),
        ("worse in top-1 nowhere", judged(every, "accuracy", not_worse)),
        ("no worse in NLL where labels are wrong", judged(NOISY, "nll_nats", not_worse)),
        ("no worse in tau with the teacher anywhere", judged(every, "kendall_tau", not_worse)),
        ("no worse in tau with people anywhere", judged(every, "votes_kendall_tau", not_worse)),
        (
            f"a step at most {FASTEST} times that of `kd`, 200 classes, on a GPU, 8 students in lock-step",
            _speed(results),
        ),
    ]
    table = [["target", "", "in figures"], ["---"] * 3, *([target, *outcome] for target, outcome in rows)]
    return [
        "## Targets",
        "",
        f"The targets were set before the experiments. They compare `{OURS}` with the best baseline of each",
        "experiment, at 5 % after Holm's correction over the experiments, as in the table above.",
        "",
        *markdown(table),
        "",
    ]


def better(test: PairedDifference, direction: int) -> bool:
    """Significantly better, at 5 %."""
    return test.p < 0.05 and test.difference * direction > 0


def not_worse(test: PairedDifference, direction: int) -> bool:
    """Not significantly worse, at 5 %."""
    return not (test.p < 0.05 and test.difference * direction < 0)


def _judged(
    found: Found, names: Sequence[str], column: Column, judge: Judge, enough: Callable[[list[bool]], bool]
) -> list[str]:
    """The outcome, and the differences of a few experiments; of many, in how many it holds and where it does not.

    Experiments without results leave it open, unless the others decide it.
    """
    here = [name for name in names if name in found]
    kept = [judge(found[name][1], column.direction) for name in here]
    if not here:
        return [_outcome(None), DASH]
    missing = len(names) - len(here)
    outcomes = {enough([*kept, *[unknown] * missing]) for unknown in (False, True)}
    outcome = _outcome(outcomes.pop() if len(outcomes) == 1 else None)
    if len(names) <= len(TINY):
        figures = (f"{name} {shown_difference(found[name][1], column)} ({found[name][0]})" for name in here)
        return [outcome, "; ".join(figures)]
    missed = [name for name, holds in zip(here, kept, strict=True) if not holds]
    return [outcome, f"{sum(kept)} of {len(here)}" + (f"; not on {', '.join(missed)}" if missed else "")]


def _outcome(met: bool | None) -> str:
    return "not measured" if met is None else "met" if met else "**not met**"


def _speed(results: Path) -> list[str]:
    """Of the newest file that measures the form: 8 students and CUDA graphs, as the experiments ran; and the others."""
    for path in sorted(results.glob("*-classification-speed.json"), reverse=True):
        rows = [row for row in read_json(path)["rows"] if row["method"] == SPEED]
        for row in rows:
            if (row["students"], row["graphs"]) == (8, True):
                ratio = row["ratio_to_kd"]
                others = [
                    f"{one['ratio_to_kd']:.2f} for {one['students']} student{'s' * (one['students'] > 1)} "
                    f"{'with' if one['graphs'] else 'without'} graphs"
                    for one in rows
                    if one is not row
                ]
                return [_outcome(ratio <= FASTEST), "; ".join([f"{ratio:.3f} ({path.name})", *others])]
    return [_outcome(None), DASH]
