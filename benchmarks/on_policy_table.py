"""docs/results-on-policy.md and its figure from the kept runs: the targets first, paired tests, curves, the search."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._on_policy_curves import flattening, write_curves
from benchmarks._on_policy_looks import LOOKS
from benchmarks._on_policy_prose import ABOUT, HEADINGS, PILOT_KINDS, SIDE_BY_SIDE
from benchmarks._on_policy_tests import Found, best_of, by_label, effects, paired_table, shares, table, targets
from benchmarks._on_policy_tests import not_comparable as looks_apart
from grkd.files import read_json, write_text
from grkd.statistics import bootstrap_interval, seed_interval


def write_page(results: Path, page: Path) -> None:
    """Write the page and the figures beside it; the same results give the same bytes."""
    looks = {name: read_json(results / look.file) for name, look in LOOKS.items() if (results / look.file).exists()}
    parts = ["# Groups sampled from the student: results"]
    tested = {name: found for name, found in looks.items() if name != "pilot"}
    if len(tested) > 1:
        parts.append(looks_apart(tested))
    for name, found in looks.items():
        figure = page.with_name(f"{page.stem}{'' if name == 'first' else '-' + name}.svg")
        if found["runs"] and name != "pilot":
            write_curves(found, figure)
        parts += sections_of(found, name, figure.name)
    write_text(page, "\n\n".join(parts) + "\n")


def sections_of(found: Found, look: str, figure: str) -> list[str]:
    """A look's part of the page."""
    heading, about = HEADINGS[look], ABOUT[look]
    processes = found["sittings"][-1].get("processes")
    parts = [taken(found), main_table(found)] if look == "pilot" else final_sections(found, figure)
    if look in SIDE_BY_SIDE and found["runs"]:
        parts.insert(1, "### Are the curves flat?\n\n" + flattening(found))
    if look == "first":
        parts += ["### Pace\n\n" + pace_table(found), "### Learning rates that were tried\n\n" + trials_table(found)]
    made = [f"## {heading}", _made(found, look), _task(found, look) + "\n" + about.format(processes=processes)]
    return [*made, *parts, "### Starts\n\n" + starts_table(found)]


def _made(found: Found, look: str) -> str:
    sitting = found["sittings"][-1]
    torch, commit, command = sitting["versions"]["torch"], str(sitting["commit"])[:12], sitting["command"]
    made = f"{sitting['date']}, {sitting['hardware']}, PyTorch {torch}, commit {commit}"
    return (
        f"Made by `python -m benchmarks.on_policy table` from benchmarks/results/on-policy/{LOOKS[look].file}\n"
        f"({made}; `{command}`)."
    )


def _task(found: Found, look: str) -> str:
    questions, seeds = len(found["questions"]), max(map(len, by_label(found).values()), default=0)
    kind = LOOKS[look].questions.removesuffix(".jsonl")
    return (
        f"Arithmetic word problems, SmolLM2-135M to 12 of its layers; exact match on {questions} {kind} questions.\n"
        f"A final run trains {found['sittings'][-1]['budget_seconds']:g} s on one GPU, whatever its steps take: its\n"
        "schedules and end go by the clock, which leaves out the models' loading, the first step (it compiles\n"
        f"kernels) and answers to questions. {seeds} seeds. A step: {LOOKS[look].prompts} prompts x 8 responses."
    )


def final_sections(found: Found, figure: str) -> list[str]:
    """What the final runs say; where there are none, that."""
    if not found["runs"]:
        return ["**The final runs are not made yet.** Nothing below says which method is better."]
    rewarded = any(run.get("rewards") for run in found["runs"].values())
    compared = effects(found)
    return [
        "### Targets\n\n" + best_of(found) + "\n\n" + "\n".join(targets(found)),
        "### Table\n\n" + main_table(found),
        *(["### What each part adds\n\n" + compared] if compared else []),
        "### Paired tests\n\n" + paired_table(found),
        *(["### Rewards\n\n" + rewards_table(found)] if rewarded else []),
        "### Over GPU time\n\nExact match on validation questions while the students are trained, means over seeds.\n\n"
        f"![exact match over seconds of training]({figure})",
    ]


def taken(found: Found) -> str:
    """The forms that the pilot chooses: of each kind the one with the highest exact match, the first of several."""
    means = {label: float(np.mean(shares(runs))) for label, runs in by_label(found).items()}
    kinds = [[label for label in kind if label in means] for kind in PILOT_KINDS]
    return f"**Taken: {', '.join(f'`{max(kind, key=means.__getitem__)}`' for kind in kinds if kind)}.**"


def pace_table(found: Found) -> str:
    """What a step takes in the trials, by its parts."""
    rows = [["", "ms per step", "sample", "rank and teacher", "train"], ["---", *["---:"] * 4]]
    for label in dict.fromkeys(trial["method"] for trial in found["trials"].values()):
        trials = [one for one in found["trials"].values() if one["method"] == label and one.get("ms")]
        if not trials:
            continue
        ms = [f"{np.mean([trial['ms'][part] for trial in trials]):.0f}" for part in ("sample", "rank", "train")]
        whole = f"{1000 * np.mean([trial['seconds_per_step'] for trial in trials]):.0f}"
        rows.append([label, whole, *ms])
    note = (
        "32 prompts x 8 responses; means over the trials, without the first steps. Where groups are ranked and the\n"
        "method needs the teacher, its forward pass is in `rank and teacher`, as is that of the student before\n"
        "training for `dpo`; for `opd` and `gkd` the teacher is in `train`.\n"
        "`kd` learns from stored responses and hidden states of the teacher."
    )
    return f"{note}\n\n{table(rows)}"


def main_table(found: Found) -> str:
    """A row per method, best first, the student before and the teacher around them."""
    sitting = found["sittings"][-1]
    head = ["", "seeds", "exact match %", "over questions", "over seeds", "seconds", "steps", "tokens/s"]
    head += ["sample ms", "rank ms", "train ms", "reverse KL", "order of responses (tau)"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    labels = by_label(found)
    for label in sorted(labels, key=lambda name: -float(np.mean(shares(labels[name])))):
        runs = labels[label]
        interval = seed_interval([run["metrics"]["exact_match"]["value"] for run in runs])
        half = "-" if np.isnan(interval.high) else f"± {100 * (interval.high - interval.mean):.1f}"
        asked = bootstrap_interval(shares(runs))
        cells = [
            label,
            str(len(runs)),
            f"{100 * interval.mean:.1f}",
            f"[{100 * asked.low:.1f}, {100 * asked.high:.1f}]",
            half,
        ]
        cells += [f"{_mean(runs, 'seconds'):.0f}", f"{_mean(runs, 'steps'):.0f}"]
        cells.append(f"{np.mean([run['tokens'] / run['seconds'] for run in runs]):,.0f}")
        for part in ("sample", "rank", "train"):
            known = [run["ms"][part] for run in runs if part in run["ms"]]
            cells.append(f"{np.mean(known):.0f}" if known else "-")
        for metric, digits in (("reverse_kl_nats", 3), ("response_kendall_tau", 3)):
            values = [run["metrics"][metric]["value"] for run in runs if metric in run["metrics"]]
            cells.append(f"{np.mean(values):.{digits}f}" if values else "-")
        rows.append(cells)
    for name, side in (("student before", "before"), ("teacher", "teacher")):
        value = sitting[side]["metrics"]["exact_match"]["value"]
        rows.append([name, "", f"{100 * value:.1f}", *[""] * (len(head) - 3)])
    return table(rows)


def rewards_table(found: Found) -> str:
    """What the rankers said of the groups in the first and the last tenth of the steps."""
    rows = [["", "ranker", "first tenth", "last tenth"], ["---", "---", "---:", "---:"]]
    for label, runs in by_label(found).items():
        known = [run["rewards"] for run in runs if run.get("rewards")]
        for ranker in known[0][0] if known else ():
            first, last = (np.mean([rewards[at].get(ranker, np.nan) for rewards in known]) for at in (0, -1))
            rows.append([label, ranker, f"{first:.3f}", f"{last:.3f}"])
    note = (
        "Mean scores of the groups that were sampled in training: of the verifier the share of right responses,\n"
        "of the teacher the mean log-probability per token, in nats."
    )
    return f"{note}\n\n{table(rows)}"


def trials_table(found: Found) -> str:
    """Every trial: rate, exact match on the validation questions, pace; and what was chosen."""
    rows = [["", "learning rate", "exact match %", "ms per step", "chosen"], ["---", "---:", "---:", "---:", "---"]]
    for trial in found["trials"].values():
        value = "failed" if trial["value"] is None else f"{100 * trial['value']:.1f}"
        pace = f"{1000 * trial['seconds_per_step']:.0f}" if trial.get("seconds_per_step") else "-"
        chosen = "yes" if trial["learning_rate"] == found["plan"].get(trial["method"]) else ""
        rows.append([trial["method"], f"{trial['learning_rate']:g}", value, pace, chosen])
    note = (
        "The same rates and the same number of short trials for every method, measured on the validation questions.\n"
        "Methods that differ in the ranker alone take the rate of `grkd-verifier`.\n"
        "They were made in a sitting before that of the final runs, on another start by the same recipe."
    )
    return f"{note}\n\n{table(rows)}"


def starts_table(found: Found) -> str:
    """Where and from which starts each sitting's runs were made."""
    rows = [["", "date", "hardware", "start of the student", "exact match before %", "runs"], ["---"] * 6]
    for number, one in enumerate(found["sittings"]):
        runs = sum(run["sitting"] == number for run in found["runs"].values())
        before = 100 * one["before"]["metrics"]["exact_match"]["value"]
        hardware = f"{one['gpus']} x {one['hardware']}" if one["gpus"] else one["hardware"]
        rows.append([str(number + 1), one["date"], hardware, one["starts"]["student"], f"{before:.1f}", str(runs)])
    return table(rows)


def short_table(found: Found) -> str:
    """What a terminal shows at the end of a sitting."""
    lines = []
    for label, runs in by_label(found).items():
        values = [run["metrics"]["exact_match"]["value"] for run in runs]
        ms = "/".join(
            f"{np.mean([run['ms'].get(part, 0) for run in runs]):.0f}" for part in ("sample", "rank", "train")
        )
        pace = f"{_mean(runs, 'steps'):.0f} steps, {_mean(runs, 'seconds'):.0f} s, ms {ms}"
        lines.append(f"{label:28} seeds {len(runs)}  test {100 * np.mean(values):5.1f} %  {pace}")
    return "\n".join(lines)


def _mean(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(np.mean([run[key] for run in runs]))
