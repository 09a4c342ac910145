"""A task of lm-eval by its name: its own prompts and metrics, on a model that grkd loads."""

import importlib.util
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from grkd.benchmarks._gsm8k_harness import harness_of, silence
from grkd.benchmarks._results import asked
from grkd.benchmarks.lm_eval import MAIN
from grkd.errors import UserError
from grkd.statistics import bootstrap_interval, wilson_interval


def run(
    model: str,
    task: str,
    *,
    folder: Path | None,
    limit: int | None,
    batch_size: int,
    device: str,
    chat: bool = False,
    seed: int = 1234,
) -> dict[str, Any]:
    """A model (folder or hub name) on one task: {"metrics", "items", "settings"}.

    folder: task files (YAML) of one's own, which come before lm-eval's. metrics: every metric that has one number per
    item, with a 95 % interval (Wilson's for right or wrong, else resampled items). items: id, a digest of what was
    asked, every such metric, and `value`, that of the main one. Raises UserError if lm-eval is missing, there is no
    such task, its data cannot be loaded, or it has no metric per item.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(f"lm_eval:{task} needs lm-eval: pip install 'grkd[eval]'")
    terminal = sys.stderr
    with silence():
        loaded = _loaded(task, folder, seed)
        harness = harness_of(model, batch_size=batch_size, device=device, terminal=terminal, task=task)
        if chat and harness.tokenizer.chat_template is None:
            raise UserError(f"{model}: its tokenizer has no chat template; evaluate it without --chat")
        from lm_eval.evaluator import evaluate

        found = evaluate(
            harness, loaded, limit=limit, log_samples=True, apply_chat_template=chat, fewshot_as_multiturn=chat
        )
    samples = [(name, sample) for name, each in found["samples"].items() for sample in each]
    items, main = _items(samples)
    if main is None:
        raise UserError(f"lm_eval:{task}: none of its metrics is a number per question; it cannot be compared")
    return {
        "metrics": {name: _interval([item[name] for item in items if name in item]) for name in _names(items)},
        "items": items,
        "main": main,
        "settings": {"library": f"lm-eval {version('lm-eval')}", "limit": limit, "seed": seed, "chat": chat},
    }


def _loaded(task: str, folder: Path | None, seed: int) -> Any:
    """The task, or the tasks of a group. Raises UserError for an unknown name and for data that cannot be had."""
    from lm_eval.tasks import TaskManager

    try:
        # The user's own first: to read the thousands of files of lm-eval takes seconds.
        manager = None if folder is None else TaskManager(include_path=str(folder), include_defaults=False)
        if manager is None or task not in manager.all_tasks:
            manager = TaskManager(include_path=None if folder is None else str(folder))
        if task not in manager.all_tasks:
            where = "" if folder is None else f" nor in {folder}"
            raise UserError(f"--tasks: no task {task!r} in lm-eval{where}; `lm_eval ls tasks` lists its tasks")
        loaded = manager.load([task])
        for each in loaded["tasks"].values():
            each.set_fewshot_seed(seed=seed)
    except UserError:
        raise
    except Exception as error:  # data sets are downloaded by readers that raise anything
        words = " ".join(str(error).split())[:150]
        raise UserError(f"lm_eval:{task}: its data cannot be loaded ({words}); check the network") from None
    return loaded


def _items(samples: list[tuple[str, Mapping[str, Any]]]) -> tuple[list[dict[str, Any]], str | None]:
    """A record per question, of each question's first filter; and the name of the main metric."""
    seen: dict[str, dict[str, Any]] = {}
    for name, sample in samples:
        key = f"{name}/{sample['doc_id']}"
        if key in seen:
            continue
        metrics = {metric: sample.get(metric) for metric in sample.get("metrics", ())}
        known = {metric: float(value) for metric, value in metrics.items() if isinstance(value, bool | int | float)}
        digest = asked(str(sample.get("doc_hash", "")), str(sample.get("prompt_hash", "")))
        seen[key] = {"id": key, "asked": digest, **known}
    items = list(seen.values())
    names = _names(items)
    main = next((metric for metric in MAIN if metric in names), names[0] if names else None)
    kept = [{**item, "value": item[main]} for item in items if main in item] if main is not None else []
    return kept, main


def _names(items: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for item in items for name in item if name not in ("id", "asked", "value")))


def _interval(values: list[float]) -> dict[str, float | None]:
    right_or_wrong = all(value in (0.0, 1.0) for value in values)
    return (wilson_interval(int(sum(values)), len(values)) if right_or_wrong else bootstrap_interval(values)).as_json()
