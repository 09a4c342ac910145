"""The stages of a language model's distillation, each from files to files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from grkd import objectives
from grkd.console import console, track
from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.language import Item, collate, response_logits, within_context
from grkd.data.prompts import Example, read_examples, split_heldout
from grkd.errors import UserError
from grkd.files import read_json, whole_file, whole_folder, write_json
from grkd.recipe import LanguageRecipe, Method, to_plain
from grkd.stages._folder import RunFolder, model_digest, path_digest
from grkd.stages._models import LoadedModels
from grkd.stages._train import train
from grkd.teachers.generate import generate_responses
from grkd.teachers.models import save_student
from grkd.teachers.signal import HiddenCache, TeacherHead, check_head, final_hidden, mean_log_probs
from grkd.training import LanguageRows

SPLITS = ("train", "heldout")


def prepare(recipe: LanguageRecipe, run: RunFolder, models: LoadedModels) -> Path:
    """Models that must be made (GGUF, truncated, fresh), and the prompts as token ids."""
    data = recipe.data
    inputs = {
        "data": to_plain(data),
        "files": [path_digest(Path(path)) for path in (data.train, data.heldout) if path and Path(path).is_file()],
        "teacher": [to_plain(recipe.teacher), model_digest(recipe.teacher.model)],
        "student": [to_plain(recipe.student), model_digest(recipe.student.model or "")],
        "max_new_tokens": recipe.responses.max_new_tokens,
        "completions": recipe.responses.source == "data",
        "seed": recipe.seeds[0],
    }

    def make(work: Path) -> None:
        if not run.ranks.is_main_process:
            return
        examples = _examples(recipe)
        models.make(work)
        tokenizer = models.tokenizer
        records, counts = _encoded(recipe, examples, tokenizer, models.stop_ids(), models.context())
        for split in SPLITS:
            if not any(record["split"] == split for record in records):
                raise UserError(f"data: no {split} prompt is left after dropping {counts['prompts_dropped_too_long']}")
        with whole_file(work / "prompts.parquet") as aside:
            pq.write_table(pa.Table.from_pylist(records, schema=_PROMPTS), aside)
        write_json(work / "counts.json", counts)
        dropped = counts["prompts_dropped_too_long"]
        if dropped:
            console.print(f"[yellow]{dropped} prompts are longer than the context allows and were dropped[/yellow]")

    return run.stage("prepare", inputs, make)


def respond(recipe: LanguageRecipe, run: RunFolder, models: LoadedModels) -> Path:
    """Responses to every prompt, in shards that survive a kill."""
    settings = recipe.responses
    inputs = {"responses": to_plain(settings), "prepare": run.key("prepare"), "seed": recipe.seeds[0]}

    def make(work: Path) -> None:
        prompts = pq.read_table(run.path / "prepare" / "prompts.parquet").to_pylist()
        size = settings.shard_size
        shards = [(number, prompts[at : at + size]) for number, at in enumerate(range(0, len(prompts), size))]
        missing = [
            (number, shard)
            for number, shard in shards[run.ranks.process_index :: run.ranks.num_processes]
            if not (work / _shard(number)).exists()
        ]
        for number, records in track(missing, f"respond ({settings.source})", unit="shard"):
            answers = _answers(recipe, models, records, seed=recipe.seeds[0] * 1_000_003 + number)
            with whole_file(work / _shard(number)) as aside:
                pq.write_table(pa.Table.from_pylist(answers, schema=_RESPONSES), aside)

    return run.stage("respond", inputs, make)


def score(recipe: LanguageRecipe, run: RunFolder, models: LoadedModels) -> Path:
    """The teacher's mean log-probability of every response and, for signal "cache", its hidden states and head."""
    settings = recipe.score
    inputs = {"score": to_plain(settings), "respond": run.key("respond")}

    def make(work: Path) -> None:
        if not run.ranks.is_main_process:
            return
        items = [item for split in SPLITS for item in read_items(run, split)]
        teacher, where = models.teacher(), models.device
        cache = HiddenCache(work / "hidden", dtype=next(teacher.parameters()).dtype)
        scored: list[dict[str, Any]] = []
        for number, batch in enumerate(_batches(items, settings.batch_size, models.pad_token_id)):
            batch.to_device(where)
            if settings.signal == "cache" and number == 0:
                check_head(teacher, batch.tensors)
            scored += _score_batch(teacher, batch, cache if settings.signal == "cache" else None)
        if settings.signal == "cache":
            cache.close()
            TeacherHead.from_model(teacher).save(work / "head.safetensors")
        with whole_file(work / "scores.parquet") as aside:
            pq.write_table(pa.Table.from_pylist(scored), aside)

    return run.stage("score", inputs, make)
