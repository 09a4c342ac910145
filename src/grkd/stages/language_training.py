"""A language model's later stages: train a student with each method and seed, and evaluate it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, set_seed

from grkd import objectives
from grkd.console import track
from grkd.evaluation._rank_measures import against_teacher
from grkd.evaluation.statistics import bootstrap_interval
from grkd.files import read_json, write_json, write_text
from grkd.recipe import LanguageRecipe, Method, Student, to_plain
from grkd.stages._card import model_card
from grkd.stages._folder import RunFolder, identity
from grkd.stages._models import LanguageModels
from grkd.stages._train import train
from grkd.stages.language_responses import read_items, read_records
from grkd.teachers.generate import generate_responses
from grkd.teachers.models import load_language_model, save_student
from grkd.teachers.signal import HiddenCache, TeacherHead
from grkd.training import LanguageRows


def train_student(recipe: LanguageRecipe, run: RunFolder, models: LanguageModels, method: Method, seed: int) -> Path:
    """One student: method and seed. Leaves student/ (a Hugging Face folder), metrics.jsonl, training.json."""
    name = f"{method.label}-seed{seed}"
    inputs = {
        "method": to_plain(method),
        "seed": seed,
        "student": identity(recipe.student),
        "training": to_plain(recipe.training),
        "score": run.key("score"),
        "device": models.device.type,
    }

    def make(work: Path) -> None:
        objective = objectives.load(method.name, **method.options)
        set_seed(seed)
        student = with_lora(models.student(), recipe.student)
        trained = train(
            student,
            read_items(run, "train"),
            objective=objective,
            rows=language_rows(recipe, run, models, teacher=objective.needs_teacher),
            training=recipe.training,
            folder=work,
            seed=seed,
            where=models.device,
            bf16=models.device.type == "cuda" and recipe.student.dtype == "auto",
            description=f"train {name}",
        )
        if run.ranks.is_main_process:
            _save(recipe, run, models, trained, method, seed, work)

    return run.stage(f"train/{name}", inputs, make)


def evaluate_student(
    recipe: LanguageRecipe, run: RunFolder, models: LanguageModels, name: str, trained: str | None
) -> Path:
    """Rank fidelity on the held-out responses, and sample answers, of a trained student (None: before training)."""
    inputs = {
        "evaluation": to_plain(recipe.evaluation),
        "score": run.key("score"),
        "trained": run.key(f"train/{trained}") if trained else None,
    }

    def make(work: Path) -> None:
        if not run.ranks.is_main_process:
            return
        if trained is None:
            student = models.student()
        else:
            student = load_language_model(str(run.path / "train" / trained / "student"), dtype=torch.float32)
        student = student.to(models.device).eval()
        write_json(work / "metrics.json", rank_metrics(recipe, run, models, student, name))
        write_json(work / "answers.json", sample_answers(recipe, run, models, student))

    return run.stage(f"evaluate/{name}", inputs, make)


def teacher_answers(recipe: LanguageRecipe, run: RunFolder, models: LanguageModels) -> Path:
    """The teacher's own answers to the sample prompts."""
    inputs = {"evaluation": to_plain(recipe.evaluation), "score": run.key("score")}

    def make(work: Path) -> None:
        if run.ranks.is_main_process:
            write_json(work / "answers.json", sample_answers(recipe, run, models, models.teacher()))

    return run.stage("evaluate/teacher", inputs, make)


def language_rows(recipe: LanguageRecipe, run: RunFolder, models: LanguageModels, *, teacher: bool) -> LanguageRows:
    """Rows of response tokens with the teacher's signal as the recipe has it (none where `teacher` is False)."""
    numbers = models.numbers
    common = {"pad_token_id": numbers["pad_token_id"], "vocabulary": numbers["vocabulary"]}
    if not teacher:
        return LanguageRows(**common)
    if recipe.score.signal == "live":
        return LanguageRows(**common, teacher=models.teacher())
    folder = run.path / "score"
    return LanguageRows(
        **common, cache=HiddenCache(folder / "hidden"), head=TeacherHead.load(folder / "head.safetensors")
    )


def with_lora(student: PreTrainedModel, spec: Student) -> Any:
    """The student, wrapped by peft where the recipe asks for LoRA."""
    if spec.lora is None:
        return student
    from grkd.stages._lora import adapted

    return adapted(student, spec.lora)


def rank_metrics(
    recipe: LanguageRecipe, run: RunFolder, models: LanguageModels, student: PreTrainedModel, name: str
) -> dict[str, Any]:
    """metric -> {value, low, high}: means over held-out response tokens, intervals by resampling prompts.

    ndcg is over the teacher's top k tokens in the student's order, its gains the teacher's probabilities.
    """
    rows = language_rows(recipe, run, models, teacher=True)
    rows.to(models.device)
    columns: dict[str, list[torch.Tensor]] = {}
    prompts: list[torch.Tensor] = []
    items = read_items(run, "heldout")
    size = recipe.evaluation.batch_size
    seen = 0
    with torch.no_grad():
        for at in track(range(0, len(items), size), f"evaluate {name}", unit="batch"):
            part = items[at : at + size]
            batch = {key: value.to(models.device) for key, value in rows.collate(part).items()}
            found = rows.rows(student, batch)
            assert found.teacher is not None
            for metric, values in against_teacher(found.student, found.teacher, top_k=recipe.evaluation.top_k).items():
                columns.setdefault(metric, []).append(values.cpu())
            lengths = torch.tensor([len(item.response_ids) for item in part])
            prompts.append(torch.arange(seen, seen + len(part)).repeat_interleave(lengths))
            seen += len(part)
    groups = torch.cat(prompts).numpy()
    return {
        metric: bootstrap_interval(torch.cat(parts).double().numpy(), groups=groups).as_json()
        for metric, parts in columns.items()
    }


def sample_answers(
    recipe: LanguageRecipe, run: RunFolder, models: LanguageModels, model: PreTrainedModel
) -> list[dict[str, str]]:
    """Greedy answers to the first held-out prompts."""
    records = read_records(run, "heldout")[: recipe.evaluation.samples]
    if not records:
        return []
    numbers = models.numbers
    answers: Iterator[list[Any]] = generate_responses(
        model,
        [record["prompt_ids"] for record in records],
        max_new_tokens=recipe.evaluation.sample_tokens,
        temperature=0.0,
        top_p=1.0,
        stop_ids=numbers["stop_ids"],
        pad_token_id=numbers["pad_token_id"],
        seed=0,
        batch_size=len(records),
    )
    texts = {
        answer.index: models.tokenizer.decode(answer.response_ids, skip_special_tokens=True)
        for batch in answers
        for answer in batch
    }
    return [{"prompt": record["prompt"], "answer": texts[number]} for number, record in enumerate(records)]


def _save(
    recipe: LanguageRecipe,
    run: RunFolder,
    models: LanguageModels,
    trained: Any,
    method: Method,
    seed: int,
    work: Path,
) -> None:
    if recipe.student.lora is not None:
        trained = trained.merge_and_unload()
    environment = read_json(run.path / "environment.json")
    facts = {
        "teacher": recipe.teacher.model,
        "student before": to_plain(recipe.student),
        "method": {"name": method.name, **method.options},
        "seed": seed,
        "responses": to_plain(recipe.responses),
        "training": {**to_plain(recipe.training), **read_json(work / "training.json")},
        "made with": {name: environment[name] for name in ("grkd", "torch", "transformers")},
        "date": environment["date"],
    }
    base = recipe.student.model if recipe.student.model and not Path(recipe.student.model).exists() else None
    card = model_card(title=recipe.title or "Distilled student", method=method.name, base_model=base, facts=facts)
    save_student(trained, models.tokenizer, work / "student", card=card)
    write_text(work / "student" / "grkd_recipe.json", _json(to_plain(recipe)))


def _json(value: Any) -> str:
    import json

    return json.dumps(value, indent=2) + "\n"
