"""What a user should choose, by the newest on-policy experiment, and how far the older ones agree."""

from collections.abc import Mapping

from benchmarks._on_policy_prose import ORDINALS
from benchmarks._on_policy_tests import LEVEL_WITH, OURS, RIVALS, Found, compared, family, means_of, others
from grkd.statistics import PairedDifference, holm

_NUMBERS = ("no", "one", "two", "three", "four")


def conclusion(experiments: Mapping[str, Found]) -> list[str]:
    """The page's first section, from the experiments that have runs, newest first; nothing without any."""
    made = {name: found for name, found in experiments.items() if found["runs"]}
    if not made:
        return []
    name, newest = next(iter(made.items()))
    means = means_of(newest)
    best = next(iter(means))
    level = not_told_apart(newest, best)
    lines = [
        f"- **Choose `{best}`** for a task like this one: {means[best]:.1f} % exact match in the newest experiment."
    ]
    if level:
        lines.append(
            f"- No significant difference to it: {', '.join(f'`{label}` ({means[label]:.1f} %)' for label in level)}."
        )
    lines += [line for line in (_ours(newest), _first_rival(made)) if line]
    lines.append(
        "- Levels of different experiments cannot be compared: each made its own starts (student before training: "
        + "; ".join(f"{ORDINALS[each]} {_before(found):.1f} %" for each, found in made.items())
        + ")."
    )
    return [
        "## Conclusion",
        f"By the {ORDINALS[name]} experiment, the newest of {_NUMBERS[len(made)]}:",
        "\n".join(lines),
    ]


def not_told_apart(found: Found, best: str) -> list[str]:
    """Methods whose paired test against the best has p of .05 or more, after Holm's correction over all methods."""
    tests = {label: compared(found, best, label) for label in means_of(found) if label != best}
    known = {label: test for label, test in tests.items() if test is not None}
    adjusted = holm([test.p for test in known.values()])
    return [label for label, p in zip(known, adjusted, strict=True) if not p < 0.05]


def _ours(found: Found) -> str:
    """How the forms of grkd stand to each rival."""
    lines = []
    for rival in RIVALS:
        tests = {ours: test for (ours, against), test in family(found).items() if against == rival}
        if not tests:
            continue
        above = sum(p < 0.05 and test.difference > 0 for test, p in tests.values())
        below = sum(p < 0.05 and test.difference < 0 for test, p in tests.values())
        low, high = (function(100 * test.difference for test, _ in tests.values()) for function in (min, max))
        span = f"{low:+.1f}" if len(tests) == 1 else f"{low:+.1f} to {high:+.1f}"
        verdict = "better" if above else "worse" if below else "no significant difference"
        if len(tests) > 1:
            verdict = f"{above} of {len(tests)} forms better, {below} worse"
        goal = "level or better" if rival == LEVEL_WITH else "better"
        lines.append(f"`{rival}` {span} points ({verdict}; target: {goal})")
    return f"- `{OURS}` against {'; '.join(lines)}." if lines else ""


def _first_rival(experiments: Mapping[str, Found]) -> str:
    """In how many experiments the first rival is the best, and which methods are ever better than it."""
    rival = RIVALS[0]
    with_it = {name: found for name, found in experiments.items() if rival in means_of(found)}
    first = sum(next(iter(means_of(found))) == rival for found in with_it.values())
    better = {
        f"`{label}`"
        for found in with_it.values()
        for label, (test, p) in (*_against(found, rival).items(), *others(found).items())
        if p < 0.05 and test.difference > 0
    }
    ever = (
        f"significantly better than it: {', '.join(sorted(better))}" if better else "no method is significantly better"
    )
    return f"- `{rival}` on stored responses is first in {first} of {len(with_it)} experiments; {ever}."


def _against(found: Found, rival: str) -> dict[str, tuple[PairedDifference, float]]:
    return {ours: test for (ours, against), test in family(found).items() if against == rival}


def _before(found: Found) -> float:
    return 100 * float(found["sittings"][-1]["before"]["metrics"]["exact_match"]["value"])
