"""What a language recipe gets wrong, as far as its files tell: transformers is not imported, which takes seconds."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from grkd import objectives
from grkd.data.prompts import Example
from grkd.errors import UserError
from grkd.files import NotJSON, parse_json
from grkd.language.examples import check_answers, check_choice, data_examples, from_data, shown_text
from grkd.language.search import check_metric
from grkd.metrics.exact_match import read_questions
from grkd.objectives.order_alone import cannot_use, leaves_level_open
from grkd.recipe import LanguageEvaluation, LanguageRecipe, Lora, SelfTeacher, weights_of


def check_files(recipe: LanguageRecipe) -> None:
    """Raises UserError for the first mistake in methods, data, questions, and in what config.json and weights name."""
    for method in recipe.methods:
        if objectives.load(method.name, **method.options).needs_features:
            raise UserError(f"{method.label}: the method reads a classifier's features, a language model has none")
    check_choice(recipe.responses)
    asked = [recipe.evaluation.questions, recipe.evaluation.curve_questions]
    if recipe.search is not None:
        check_metric(recipe.search)
        asked.append(recipe.search.questions)
    for questions in filter(None, asked):
        read_questions(Path(questions))
    _check_numbers(recipe)
    if recipe.data.train is not None:  # else a data set by name, which may have to be downloaded
        examples = data_examples(recipe, None)
        for split, example in examples:
            check_answers(recipe.responses, split, example)
            if isinstance(recipe.teacher, SelfTeacher) and recipe.teacher.context is not None:
                name, group = recipe.teacher.context, f"{split}/{example.id}"
                shown_text(example.columns, name, group=group, source=recipe.data.source)
        if from_data(recipe.responses):
            _check_order(recipe, [example for _, example in examples])


def _check_order(recipe: LanguageRecipe, examples: Sequence[Example]) -> None:
    """Raises UserError for a method that cannot use the data's order of responses, or leaves open whether it does."""
    alone, by_data = any(example.order_alone for example in examples), _ordered_by_data(recipe)
    scored = by_data and any(example.scores for example in examples)
    for method in recipe.methods:
        objective = objectives.load(method.name, **method.options)
        words = cannot_use(objective, ranked_by_data=by_data) if alone else ""
        if words := words or (leaves_level_open(objective, method.options) if scored else ""):
            raise UserError(f"{method.label}: {words}")


def _ordered_by_data(recipe: LanguageRecipe) -> bool:
    """Whether the data's word is the only one on the order of responses."""
    if recipe.score.rankers is None:
        return recipe.score.reward == "data"
    return all(one in ("data", {"name": "data"}) for one in recipe.score.rankers)


def _check_numbers(recipe: LanguageRecipe) -> None:
    """Layers, top_k and LoRA's numbers against the config.json of local folders; models of other forms come later."""
    weights, spec = weights_of(recipe), recipe.student
    teacher = {} if weights is None else _config(weights.model)
    for name, model in (("teacher", weights), ("student", spec)):
        if model is None or model.revision is None or model.model is None:
            continue
        if Path(model.model).is_dir():
            raise UserError(f"{name}.revision: {model.model} is a folder, which has no revisions; remove it")
    _check_lengths(recipe, teacher.get("max_position_embeddings"))
    vocabulary, depth = teacher.get("vocab_size"), teacher.get("num_hidden_layers")
    if isinstance(vocabulary, int) and recipe.evaluation.top_k > vocabulary:
        text = f"{recipe.evaluation.top_k} is above the teacher's vocabulary of {vocabulary} tokens"
        raise UserError(f"evaluation.top_k: {text}")
    if isinstance(depth, int) and spec.layers is not None and spec.layers[-1] >= depth:
        raise UserError(
            f"student.layers: the teacher has {depth} layers, numbers 0 to {depth - 1}, got {spec.layers[-1]}"
        )
    if spec.lora is not None:
        folder = spec.model or ("" if weights is None else weights.model)
        _check_lora(spec.lora, folder, _config(folder) if spec.config is None else {})


def _check_lengths(recipe: LanguageRecipe, context: Any) -> None:
    """Responses that fill the teacher's context; answers beyond it, if the student has the same."""
    if not isinstance(context, int):
        return
    spec, longest = recipe.evaluation, recipe.responses.max_new_tokens
    if longest >= context and not from_data(recipe.responses):
        raise UserError(f"responses.max_new_tokens: {longest} leave no room for a prompt in the context of {context}")
    if recipe.student.model is not None or recipe.student.config is not None:
        return
    answers, usual = spec.answer_tokens if spec.questions or spec.curve_questions else 0, LanguageEvaluation()
    for key, tokens in {"answer_tokens": answers, "sample_tokens": spec.sample_tokens if spec.samples else 0}.items():
        if tokens > max(context, getattr(usual, key)):
            raise UserError(f"evaluation.{key}: {tokens} are more than the model's context of {context} tokens")


def _check_lora(lora: Lora, folder: str, config: dict[str, Any]) -> None:
    width = config.get("hidden_size")
    if isinstance(width, int) and lora.r > width:
        raise UserError(f"student.lora.r: {lora.r} is above the model's width of {width}; a rank of 8 to 64 is usual")
    modules = _modules(Path(folder))
    wanted = lora.target_modules
    if not modules or wanted == "all-linear":
        return
    if isinstance(wanted, str):
        try:
            found = any(re.fullmatch(wanted, name) for name in modules)
        except re.error as error:
            raise UserError(f"student.lora.target_modules: {wanted!r} is not a regular expression ({error})") from None
    else:
        found = any(name == word or name.endswith(f".{word}") for name in modules for word in wanted)
    if not found:
        last = sorted({name.rpartition(".")[2] for name in modules if not name.rpartition(".")[2].isdigit()})
        listed = ", ".join(last[:12])
        raise UserError(f"student.lora.target_modules: no module of the model is named {wanted}; it has {listed}")


def _config(model: str) -> dict[str, Any]:
    """The text part of a local folder's config.json; empty if there is none, or it is damaged (said later)."""
    path = Path(model) / "config.json"
    try:
        found = parse_json(path.read_bytes()) if path.is_file() else {}
    except (NotJSON, OSError):
        return {}
    found = found if isinstance(found, dict) else {}
    text = found.get("text_config", found)
    return text if isinstance(text, dict) else {}


def _modules(folder: Path) -> set[str]:
    """Names of modules with weights, from the headers of safetensors files; empty if there are none."""
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="numpy") as stream:
                names |= {name.rpartition(".")[0] for name in stream.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return set()
    return names
