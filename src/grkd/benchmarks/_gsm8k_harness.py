"""GSM8K by lm-eval's own task (prompt, stop strings, both matches), from local files and without the network.

Strict match: the number behind "#### ", the form of the worked examples. Flexible: the last number of the response.
"""

import importlib.util
import io
import json
import logging
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from grkd.benchmarks._results import without_interval
from grkd.console import track
from grkd.data.chat import stop_token_ids
from grkd.errors import UserError
from grkd.files import parse_json
from grkd.metrics.exact_match import read_questions
from grkd.models.load import load_language_model, load_tokenizer
from grkd.statistics import wilson_interval

_MATCHES = {"strict": "strict-match", "flexible": "flexible-extract"}
_NAME = "gsm8k"
_SQLITE = b"SQLite format 3\0"
_CHUNK = 4  # batches between two steps of the progress bar


def run(
    model: str,
    data_dir: Path,
    *,
    limit: int | None = None,
    batch_size: int = 8,
    device: str = "cpu",
    fewshot: int = 5,
    chat: bool = False,
    seed: int = 1234,
    max_new_tokens: int | None = None,
    store: Path | None = None,
) -> dict[str, Any]:
    """Accuracy of a model (folder or hub name) on GSM8K's test set, answers greedy: {"metrics", "items", "settings"}.

    data_dir: holds gsm8k/train.jsonl (the worked examples) and gsm8k/test.jsonl, or the two files themselves.
    fewshot: worked examples before each question; 5 without `chat` is lm-eval's standard setting.
    chat: through the model's chat template, each worked example a turn of its own; fewshot 0 with it is the zero-shot
    setting. Nothing is added to lm-eval's prompt, so a model that was shown no "#### " fails the strict match there.
    seed: of the choice of worked examples (lm-eval's default). max_new_tokens: None is 256 (lm-eval's default), and
    1024 for fewshot 0, where responses are as long as the model likes.
    store: lm-eval's own cache of responses (SQLite), written answer by answer: after a kill only the questions without
    one are asked. It knows prompts and settings but not the model: give every model its own file.
    metrics, shares with Wilson's 95 % interval: accuracy_strict, accuracy_flexible, and accuracy, which is the strict
    one with worked examples and the flexible one without; lm-eval's standard error of each, as standard_error_*.
    items: id, question, answer, prompt, response, found_* and correct_* (0 or 1) for both matches, and `correct`, that
    of accuracy, in the file's order (for statistics.mcnemar).
    settings also count prompts_truncated: those longer than the context allows, cut by lm-eval on the left.
    Raises UserError if lm-eval, data, model or chat template are missing, or the context is too short.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("GSM8K needs lm-eval: pip install 'grkd[eval]'")
    if fewshot < 0 or batch_size < 1 or (limit is not None and limit < 1):
        raise UserError(f"gsm8k: fewshot {fewshot}, batch_size {batch_size} or limit {limit} is out of range")
    room = max_new_tokens or (256 if fewshot else 1024)
    folder = _folder(data_dir)
    splits = {"test": read_questions(folder / "test.jsonl")}
    splits["train"] = read_questions(folder / "train.jsonl") if fewshot else splits["test"][:1]
    rows = {
        name: [{"question": item.question, "answer": item.answer} for item in part] for name, part in splits.items()
    }
    terminal = sys.stderr
    with silence():
        harness = harness_of(model, batch_size=batch_size, device=device, terminal=terminal)
        if chat and harness.tokenizer.chat_template is None:
            raise UserError(f"{model}: its tokenizer has no chat template; evaluate it without chat")
        if harness.max_length <= room:
            raise UserError(
                f"{model}: its context of {harness.max_length} tokens leaves no room for {room} new ones; "
                "lower max_new_tokens"
            )
        with _cached(harness, store) as model_or_store:
            found = _evaluated(model_or_store, rows, limit=limit, fewshot=fewshot, chat=chat, seed=seed, room=room)
    items = _items(found["samples"][_NAME], [item.id for item in splits["test"]], "strict" if fewshot else "flexible")
    longest = harness.max_length - room
    return {
        "metrics": _metrics(items, found["results"][_NAME], "strict" if fewshot else "flexible"),
        "items": items,
        "settings": {
            "library": f"lm-eval {version('lm-eval')}",
            "fewshot": fewshot,
            "chat": chat,
            "seed": seed,
            "limit": limit,
            "max_new_tokens": room,
            "prompts_truncated": sum(len(harness.tok_encode(item["prompt"])) > longest for item in items),
        },
    }


def _folder(data_dir: Path) -> Path:
    for folder in (data_dir / "gsm8k", data_dir):
        if (folder / "test.jsonl").is_file():
            return folder
    raise UserError(
        f"{data_dir}: no gsm8k/test.jsonl in it; put train.jsonl and test.jsonl of github.com/openai/grade-school-math "
        "(grade_school_math/data) there"
    )


def harness_of(model: str, *, batch_size: int, device: str, terminal: Any, task: str = _NAME) -> Any:
    """lm-eval's model around ours, its own progress bar and log output replaced by one bar."""
    from lm_eval.models.huggingface import HFLM

    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    tokenizer = load_tokenizer(model)
    language_model = load_language_model(model, dtype=dtype).to(device)

    # An answer ends where every other benchmark's ends.
    language_model.generation_config.eos_token_id = stop_token_ids(tokenizer, language_model.generation_config)

    class Harness(HFLM):  # type: ignore[misc,unused-ignore]
        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
            """Responses in the order of the requests; longest prompts first, so that a lack of memory shows at once."""
            order = sorted(range(len(requests)), key=lambda index: -len(requests[index].args[0]))
            size = batch_size * _CHUNK
            chunks = [order[at : at + size] for at in range(0, len(order), size)]
            responses = [""] * len(requests)
            with redirect_stderr(terminal):
                for chunk in track(chunks, task, unit="chunk"):
                    with redirect_stderr(io.StringIO()):
                        texts = super().generate_until([requests[index] for index in chunk], disable_tqdm=True)
                    for index, text in zip(chunk, texts, strict=True):
                        responses[index] = text
            return responses

    return Harness(pretrained=language_model, tokenizer=tokenizer, batch_size=batch_size)


@contextmanager
def _cached(harness: Any, store: Path | None) -> Iterator[Any]:
    """The model behind lm-eval's cache of its responses; the model itself where there is no file for one."""
    if store is None:
        yield harness
        return
    from lm_eval.api.model import CachingLM

    store.parent.mkdir(parents=True, exist_ok=True)
    if store.is_file() and store.stat().st_size and not store.read_bytes().startswith(_SQLITE):
        raise UserError(f"{store}: not a cache of responses; delete it; the responses are generated again")
    caching = CachingLM(harness, str(store))
    # Text in place of pickles, which could run code out of a folder that came from elsewhere.
    caching.dbdict.encode, caching.dbdict.decode = json.dumps, parse_json
    try:
        yield caching
    finally:
        caching.dbdict.close()  # which waits for what is still to be written


def _evaluated(
    harness: Any,
    rows: dict[str, list[dict[str, str]]],
    *,
    limit: int | None,
    fewshot: int,
    chat: bool,
    seed: int,
    room: int,
) -> dict[str, Any]:
    """lm-eval's results and samples of its gsm8k task on these rows."""
    import lm_eval
    from datasets import Dataset
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    config = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks" / _NAME / f"{_NAME}.yaml").read_text())
    config |= {
        "task": _NAME,
        "num_fewshot": fewshot,
        # Given in memory: nothing is asked of the hub and nothing is left in a cache.
        "custom_dataset": lambda **_: {name: Dataset.from_list(part) for name, part in rows.items()},
    }
    config["generation_kwargs"] |= {"max_gen_toks": room}
    loaded = TaskManager(include_defaults=False).load([config])
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seed=seed)
    found: dict[str, Any] = evaluate(
        harness, loaded, limit=limit, log_samples=True, apply_chat_template=chat, fewshot_as_multiturn=chat
    )
    return found


def _items(samples: list[dict[str, Any]], ids: list[str], main: str) -> list[dict[str, Any]]:
    """One record an item from lm-eval's one record an item and match."""
    by_match = {
        name: {sample["doc_id"]: sample for sample in samples if sample["filter"] == full}
        for name, full in _MATCHES.items()
    }
    items = []
    for index in sorted(by_match[main]):
        sample = by_match[main][index]
        item = {
            "id": ids[index],
            **sample["doc"],
            "prompt": sample["arguments"][0][0],
            "response": sample["resps"][0][0],
        }
        for name, records in by_match.items():
            item[f"found_{name}"] = records[index]["filtered_resps"][0]
            item[f"correct_{name}"] = int(records[index]["exact_match"])
        items.append({**item, "correct": item[f"correct_{main}"]})
    return items


def _metrics(items: list[dict[str, Any]], results: dict[str, Any], main: str) -> dict[str, dict[str, float | None]]:
    metrics: dict[str, dict[str, float | None]] = {}
    for name, key in (("accuracy", main), ("accuracy_strict", "strict"), ("accuracy_flexible", "flexible")):
        metrics[name] = wilson_interval(sum(item[f"correct_{key}"] for item in items), len(items)).as_json()
    for name, full in _MATCHES.items():
        error = results.get(f"exact_match_stderr,{full}")
        if not isinstance(error, int | float) or not math.isfinite(error):  # "N/A" or NaN for a single item
            error = None
        metrics[f"standard_error_{name}"] = without_interval(error)
    return metrics


@contextmanager
def silence() -> Iterator[None]:
    """No log output, bars or warnings of lm-eval and what it imports."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
