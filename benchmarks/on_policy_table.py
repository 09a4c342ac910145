"""docs/results-on-policy.md and its figures from the kept runs: the conclusion, then the experiments, newest first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._on_policy_conclusion import conclusion
from benchmarks._on_policy_curves import flattening, write_curves
from benchmarks._on_policy_experiments import EXPERIMENTS
from benchmarks._on_policy_prose import ABOUT, HEADINGS, PACE
from benchmarks._on_policy_tests import Found, best_of, by_label, effects, paired_table, shares, table, targets
from grkd.files import read_json, write_text
from grkd.statistics import bootstrap_interval, seed_interval

# Experiments that were made to reach a number of steps.
AT_LENGTH = ("long", "full")


def write_page(results: Path, page: Path) -> None:
    """Write the page and the figures beside it; the same results give the same bytes."""
    kept = {name: results / EXPERIMENTS[name].file for name in HEADINGS}
    found = {name: read_json(path) for name, path in kept.items() if path.exists()}
    parts = ["# Groups sampled from the student: results", *conclusion(found)]
    for number, (name, one) in enumerate(found.items()):
        figure = page.with_name(f"{page.stem}{'' if name == 'first' else '-' + name}.svg")
        if one["runs"]:
            write_curves(one, figure)
        parts += sections_of(one, name, figure.name, newest=number == 0)
    write_text(page, "\n\n".join(parts) + "\n")


def sections_of(found: Found, experiment: str, figure: str, *, newest: bool) -> list[str]:
    """An experiment's part of the page; older ones without targets, rewards and pace, which the newest repeats."""
    heading = f"## {HEADINGS[experiment]}"
    setting = [_setting(found, experiment), _about(found, experiment), _made(found, experiment)]
    if not found["runs"]:
        return [heading, "**The final runs are not made yet.** Nothing says which method is better.", *setting]
    compared, rewarded = effects(found), any(run.get("rewards") for run in found["runs"].values())
    curve = "Exact match on validation questions while the students are trained, means over seeds."
    return [
        heading,
        best_of(found) + ("\n\n" + "\n".join(targets(found)) if newest else _not_run(found)),
        *setting,
        "### Results\n\n" + main_table(found),
        f"![exact match over seconds of training]({figure})\n\n{curve}",
        *(["### Are the curves flat?\n\n" + flattening(found)] if experiment in AT_LENGTH else []),
        *(["### What each part adds\n\n" + compared] if compared else []),
        "### Paired tests\n\n" + paired_table(found),
        *(["### Rewards\n\n" + rewards_table(found)] if newest and rewarded else []),
        *(["### Learning rates\n\n" + trials_table(found)] if found["trials"] else []),
        "### GPU sessions\n\n" + starts_table(found),
    ]


def _not_run(found: Found) -> str:
    lines = [line for line in targets(found) if line.startswith("- Not run") or " failed: " in line]
    return "\n\n" + "\n".join(lines) if lines else ""


def _made(found: Found, experiment: str) -> str:
    sitting = found["sittings"][-1]
    torch, commit, command = sitting["versions"]["torch"], str(sitting["commit"])[:12], sitting["command"]
    made = f"{sitting['date']}, {sitting['hardware']}, PyTorch {torch}, commit {commit}"
    return (
        "Made by `python -m benchmarks.on_policy table` from\n"
        f"benchmarks/results/on-policy/{EXPERIMENTS[experiment].file} ({made}; `{command}`)."
    )


def _setting(found: Found, experiment: str) -> str:
    questions, seeds = len(found["questions"]), max(map(len, by_label(found).values()), default=0)
    return (
        f"Task: arithmetic word problems, SmolLM2-135M to 12 of its layers; exact match on {questions} test\n"
        f"questions. Each run trains {found['sittings'][-1]['budget_seconds']:g} s on one GPU, {seeds} seeds per\n"
        f"method. A step has {EXPERIMENTS[experiment].prompts} prompts with 8 responses each. Schedules follow the\n"
        "clock. Not counted: loading the models, the first step (it compiles kernels), and answering questions."
    )


def _about(found: Found, experiment: str) -> str:
    pace, text = found.get("pace"), ""
    if pace:
        paces = {label: each["seconds_per_step"] for label, each in pace["by_method"].items()}
        slowest = max(paces, key=paces.__getitem__)
        steps = pace["budget_seconds"] / paces[slowest]
        text = PACE.format(seconds=pace["seconds"], slowest=slowest, ms=1000 * paces[slowest], steps=steps)
    sitting = found["sittings"][-1]
    gpus = "two GPUs" if sitting["gpus"] == 2 else "one GPU"
    return ABOUT[experiment].format(processes=sitting.get("processes"), gpus=gpus, pace=text)


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
    note = (
        '"Over questions": 95 % interval over test questions; "over seeds": half of the 95 % interval over seeds. ms\n'
        "per step: sampling responses, ranking them, and the rest. Where rankers order a method's groups and it needs\n"
        'the teacher, the teacher\'s pass is in "rank ms"; for `opd` and `gkd` it is in "train ms". Reverse KL to the\n'
        "teacher in nats and Kendall's tau of the order of responses: on held-out groups."
    )
    return f"{table(rows)}\n\n{note}"


def rewards_table(found: Found) -> str:
    """Mean scores that the rankers gave in the first and the last tenth of the steps."""
    rows = [["", "ranker", "first tenth", "last tenth"], ["---", "---", "---:", "---:"]]
    for label, runs in by_label(found).items():
        known = [run["rewards"] for run in runs if run.get("rewards")]
        for ranker in known[0][0] if known else ():
            first, last = (np.mean([rewards[at].get(ranker, np.nan) for rewards in known]) for at in (0, -1))
            rows.append([label, ranker, f"{first:.3f}", f"{last:.3f}"])
    note = (
        "Mean scores of the responses sampled in training. `verifier`: share of right responses; `log_prob`: the\n"
        "teacher's mean log-probability per token, in nats."
    )
    return f"{note}\n\n{table(rows)}"


def trials_table(found: Found) -> str:
    """Exact match of every trial by method and learning rate; the chosen rate in bold."""
    trials = list(found["trials"].values())
    tried = sorted({trial["learning_rate"] for trial in trials})
    rows = [["", *(f"{rate:g}" for rate in tried)], ["---", *["---:"] * len(tried)]]
    for label in dict.fromkeys(trial["method"] for trial in trials):
        cells = [label]
        for rate in tried:
            values = [each["value"] for each in trials if (each["method"], each["learning_rate"]) == (label, rate)]
            shown = "-" if not values else "failed" if values[0] is None else f"{100 * values[0]:.1f}"
            cells.append(f"**{shown}**" if rate == found["plan"].get(label) else shown)
        rows.append(cells)
    note = (
        "Exact match in % on validation questions after a short trial with each learning rate; bold: chosen, the\n"
        "lowest of the best. Methods that differ in the ranker alone take the rate of `grkd-verifier`. The trials\n"
        "were made in a sitting before the final runs, on another start made by the same recipe."
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
