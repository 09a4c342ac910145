"""A language model's fourth stage: a student for each method and seed."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, set_seed

from grkd import objectives
from grkd.compare.student_job import with_code
from grkd.data.language import Group
from grkd.files import read_json, write_json
from grkd.language.context import LanguageContext
from grkd.language.curve import ExactMatchCurve
from grkd.language.evaluate import answered
from grkd.language.fresh import method_panel, samples_groups, with_columns
from grkd.language.lora import adapted
from grkd.language.reference import with_reference
from grkd.language.rows import language_rows, rows_of_fresh_groups, training_groups
from grkd.language.score import read_groups
from grkd.language.served import named
from grkd.language.several import is_routed, with_routes
from grkd.language.stored_order import in_own_order, own_order
from grkd.models.save import save_student
from grkd.objectives import Objective
from grkd.recipe import Method, to_plain
from grkd.run.folder import identity
from grkd.run.model_card import model_card
from grkd.run.training import drop_checkpoints, train
from grkd.training import LanguageRows
from grkd.training.fresh_groups import orders
from grkd.training.groups_file import KeepGroups

_LIMITS = (
    "It imitates its teacher on responses to the prompts that it was trained on, and inherits the teacher's mistakes.\n"
    "The run's report says how close it came on held-out prompts; nothing else was tested."
)


def train_student(context: LanguageContext, method: Method, seed: int) -> Path:
    """One student: method and seed. Leaves student/ (a Hugging Face folder), metrics.jsonl, training.json."""
    name = f"{method.label}-seed{seed}"
    inputs = training_inputs(context, method, seed)

    def make(work: Path) -> None:
        trained = trained_student(
            context, method, seed, read_groups(context.run, "train"), work, description=f"train {name}"
        )
        if context.run.ranks.is_main_process:
            _save(context, trained, method, seed, work)
            drop_checkpoints(work)

    return context.run.stage(f"train/{name}", inputs, make)


def training_inputs(context: LanguageContext, method: Method, seed: int) -> dict[str, Any]:
    """What a trained student depends on."""
    training = to_plain(context.recipe.training)
    for name in ("tokens_per_batch", "compile", "gradient_checkpointing"):  # the same training, up to rounding
        training.pop(name, None)  # a key without a value is left out
    if not training["float32_masters"]:
        del training["float32_masters"]  # as in runs before there was such a key
    objective = objectives.load(method.name, **method.options)
    sampled: dict[str, Any] = {}
    if samples_groups(context.recipe, objective):
        names = ("n", "max_new_tokens", "stored_share")
        sampled = {name: getattr(context.recipe.responses, name) for name in names}
        if orders(objective):
            sampled["rankers"] = method_panel(context.recipe, method).identity()
            if own_order(context.recipe, method):
                sampled["stored_order"] = "own"  # earlier versions: that of score.rankers
    elif not objective.on_policy:
        del training["steps_per_generation"]  # of sampling in training alone
    if context.recipe.responses.use_vllm and (sampled or objective.on_policy):
        sampled["use_vllm"] = True  # which draws other responses
    if context.recipe.score.token_order != "log_probs":
        sampled["token_order"] = context.recipe.score.token_order
    return {
        **({"sampled": sampled} if sampled else {}),
        "method": with_code(to_plain(method)),
        "seed": seed,
        "student": identity(context.recipe.student),
        "training": training,
        "score": context.run.key("score"),
        "device": context.models.device.type,
    }


def trained_student(
    context: LanguageContext,
    method: Method,
    seed: int,
    groups: Sequence[Group],
    work: Path,
    *,
    description: str,
    trial: bool = False,
) -> Any:
    """The student, trained on these groups; checkpoints and logs go to `work`.

    trial: every process gets the whole student, and none of the recipe's questions is asked while it is trained. Else a
    student whose weights are sharded is the main process's alone.
    """
    objective = objectives.load(method.name, **method.options)
    set_seed(seed)
    rows, groups, callbacks = _learnt_from(context, method, objective, groups, work)
    spec = context.recipe.evaluation
    if not trial and spec.curve_questions is not None:
        items = work / "curve-questions.json"
        ask = partial(answered, context, path=spec.curve_questions, items=items, shown=False, resumed=False)
        callbacks.append(ExactMatchCurve(work / "curve.jsonl", ask, every=spec.curve_every, points=spec.curve_points))
    student, lora = context.models.student(), context.recipe.student.lora
    return train(
        student if lora is None else adapted(student, lora),
        groups,
        objective=objective,
        rows=rows,
        training=context.recipe.training,
        folder=work,
        seed=seed,
        where=context.models.device,
        bf16=context.models.device.type == "cuda" and context.recipe.student.dtype == "auto",
        description=description,
        callbacks=callbacks,
        everywhere=trial,
    )


def _learnt_from(
    context: LanguageContext, method: Method, objective: Objective, groups: Sequence[Group], work: Path
) -> tuple[LanguageRows, list[Group], list[TrainerCallback]]:
    """Rows and groups of a training: stored groups, or prompts whose groups are sampled in training."""
    if samples_groups(context.recipe, objective):
        rows = rows_of_fresh_groups(context, method, objective, work, groups)
        if not orders(objective):
            return rows, with_routes(context, groups) if is_routed(context.recipe) else list(groups), []
        assert rows.fresh is not None
        assert rows.fresh.file is not None
        groups = in_own_order(context, method, groups)
        return rows, with_columns(context, method, groups), [KeepGroups(rows.fresh.file)]
    groups = training_groups(context.run, method, objective, groups)
    if is_routed(context.recipe) and objective.on_policy:
        groups = with_routes(context, groups)
    if objective.needs_reference:
        groups = with_reference(context.run, groups)
    teacher = objective.needs_teacher and "row" in objective.levels
    return language_rows(context, groups, teacher=teacher, objective=objective), groups, []


def _save(context: LanguageContext, trained: Any, method: Method, seed: int, work: Path) -> None:
    if context.recipe.student.lora is not None:
        trained = trained.merge_and_unload()
    environment = read_json(context.run.path / "environment.json")
    facts = {
        "teacher": named(context.recipe.teacher),
        "student before": to_plain(context.recipe.student),
        "method": {"name": method.name, **method.options},
        "seed": seed,
        "responses": to_plain(context.recipe.responses),
        "training": {**to_plain(context.recipe.training), **read_json(work / "training.json")},
        "made with": {name: environment[name] for name in ("grkd", "torch", "transformers")},
        "date": environment["date"],
    }
    model = context.recipe.student.model
    base = model if model and not Path(model).exists() else None
    card = model_card(
        title=context.recipe.title or "Distilled student",
        about=f"A language model distilled with `grkd` by the method `{method.name}`: it was trained to answer as its "
        "teacher does.",
        facts=facts,
        limits=_LIMITS,
        method=method.name,
        library="transformers",
        task="text-generation",
        base_model=base,
    )
    save_student(trained, context.models.tokenizer, work / "student", card=card)
    write_json(work / "student" / "grkd_recipe.json", to_plain(context.recipe))
