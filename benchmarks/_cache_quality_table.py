"""The students of benchmarks.cache_quality, tested against the live teacher's: the result file and its table."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._cache_forms import FORMS
from grkd.files import read_json
from grkd.statistics import paired_bootstrap, paired_t

_KL = "forward_kl_nats"


def kept(folder: Path, date: str | None) -> dict[str, Any]:
    """What is found; a form is tested on the seeds that the one it is compared with has as well."""
    about = read_json(folder / "about.json")
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in FORMS}
    for path in sorted(folder.glob("*-*.json")):
        one = read_json(path)
        found[one["form"]][one["seed"]] = one
    found = {name: runs for name, runs in found.items() if runs}
    if date is not None:
        about["date"] = date
    case = f"SmolLM2-135M-Instruct to {about['layers']} of its 30 layers, its answers to the demo's prompts"
    rows = [_row(name, found, about) for name in found]
    return {**about, "case": case, "rows": rows}


def _row(name: str, found: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    form = FORMS[name]
    seeds = sorted(set(found[name]) & set(found[form.compared]))
    own = np.array([found[name][seed][_KL] for seed in seeds])
    row: dict[str, Any] = {
        "form": name,
        "bytes_per_token": about.get("sample_bytes", {}).get(name, form.bytes_per_token(about["vocabulary"])),
        "seeds": len(seeds),
    }
    for measure in (_KL, "top1_agreement", "pair_accuracy"):
        each = [float(np.mean(found[name][seed][measure])) for seed in seeds]
        row[measure], row[f"{measure}_per_seed"] = round(float(np.mean(each)), 5), [round(value, 5) for value in each]
    if name == form.compared or (form.entries is None and "again" not in name):
        return row
    live = np.array([found[form.compared][seed][_KL] for seed in seeds])
    prompts = np.arange(own.shape[1]) % about["heldout_prompts"]
    texts = paired_bootstrap(own.mean(0), live.mean(0), groups=prompts)
    over_seeds = paired_t(own.mean(1), live.mean(1))
    for kind, tested in (("over_prompts", texts), ("over_seeds", over_seeds)):
        values = {key: float(getattr(tested, key)) for key in ("difference", "low", "high", "p")}
        row[kind] = {key: None if math.isnan(value) else round(value, 5) for key, value in values.items()}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown, as docs/guide/rank-cache.md has them."""
    lines = [
        "| signal | bytes per token | forward KL, nats | top-1 | pairs | difference in KL (95 % over prompts) "
        "| p over prompts | p over seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        tested = ["-", "-", "-"]
        if "over_prompts" in row:
            texts, seeds = row["over_prompts"], row["over_seeds"]
            interval = f"{texts['difference']:+.4f} [{texts['low']:+.4f}, {texts['high']:+.4f}]"
            tested = [interval, *("-" if p is None else f"{p:.3f}" for p in (texts["p"], seeds["p"]))]
        shares = [f"{row[name]:.4f}" for name in ("top1_agreement", "pair_accuracy")]
        cells = [row["form"], f"{row['bytes_per_token']:,}", f"{row['forward_kl_nats']:.4f}", *shares, *tested]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
