"""What types cannot say: keys that exclude or need each other."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from grkd import objectives
from grkd.data.conversation import SET_BY_US
from grkd.errors import UserError
from grkd.recipe._classifier import ClassifierRecipe, RankedLabels
from grkd.recipe._language import LanguageRecipe, Prompts, Responses, Score, Student
from grkd.recipe._managed import managed
from grkd.recipe._paths import path_mistakes
from grkd.recipe._rank import RankData, RankRecipe
from grkd.recipe._recipe import Recipe
from grkd.recipe._teachers import asked_of_teacher, rankers_of, teacher_mistakes, url_mistakes
from grkd.recipe._words import KeyPath, Problem


def cross_checks(recipe: Recipe, raw: dict[str, Any]) -> Iterator[Problem]:
    """Mistakes in a recipe whose keys and types are right, its methods aside; `raw` says which keys were given."""
    yield from path_mistakes(recipe)
    yield from _training(raw, ())
    yield from _float32_masters(recipe)
    if not recipe.seeds:
        yield Problem(("seeds",), "expected at least one seed, got an empty list")
    if len(set(recipe.seeds)) < len(recipe.seeds):
        yield Problem(("seeds",), f"expected different seeds, got {recipe.seeds}")
    if isinstance(recipe, LanguageRecipe):
        yield from _student(recipe.student)
        yield from teacher_mistakes(recipe)
        yield from _prompts(recipe.data)
        yield from _responses(recipe.responses)
        yield from _score(recipe.score, several=isinstance(recipe.teacher, list))
    elif isinstance(recipe, RankRecipe):
        yield from _rank(recipe)
    else:
        yield from _training(raw["teacher"], ("teacher",))
        for section, path in ((raw, ()), (raw["teacher"], ("teacher",))):
            if (section.get("training") or {}).get("minutes") is not None:
                yield Problem((*path, "training", "minutes"), "is not for classifiers; set epochs or steps")
            for name in ("tokens_per_batch", "compile"):
                if (section.get("training") or {}).get(name) not in (None, "auto"):
                    yield Problem((*path, "training", name), "is for language models; remove it")
        yield from _classifier(recipe)


def checks_of_methods(recipe: Recipe) -> Iterator[Problem]:
    """Methods that do not fit the rest of the recipe, and rankers. Imports them, and torch with them."""
    if isinstance(recipe, LanguageRecipe):
        yield from _asked_of_responses(recipe)
        yield from _rankers(("score", "rankers"), _filled(recipe, recipe.score.rankers), recipe.score.combine)
        yield from _in_training(recipe)
        yield from asked_of_teacher(recipe)


def _training(raw: dict[str, Any], path: KeyPath) -> Iterator[Problem]:
    section = raw.get("training") or {}
    for name, other in (("steps", "epochs"), ("minutes", "epochs"), ("minutes", "steps")):
        if section.get(name) is not None and section.get(other) is not None:
            yield Problem((*path, "training", name), f"given together with {other}; keep one of the two")
    for name in section.get("extra") or {}:
        if instead := managed(name):
            yield Problem((*path, "training", "extra", name), instead)


def _float32_masters(recipe: Recipe) -> Iterator[Problem]:
    path = ("training", "float32_masters")
    if not recipe.training.float32_masters:
        return
    if not isinstance(recipe, LanguageRecipe):
        yield Problem(path, "is for language models; remove it")
    elif recipe.student.lora is not None:
        yield Problem(path, "LoRA's own weights are in float32; remove it")
    elif recipe.student.dtype not in ("bfloat16", "float16"):
        yield Problem(
            path, f"needs student.dtype: bfloat16; with {recipe.student.dtype} weights are in float32 already"
        )


def _one_of(path: KeyPath, section: object, names: tuple[str, ...]) -> Iterator[Problem]:
    given = [name for name in names if getattr(section, name) is not None]
    if len(given) != 1:
        yield Problem(path, f"needs exactly one of {', '.join(names)}; it has {' and '.join(given) or 'none'}")


def _needs(section: object, at: str, owner: str, names: tuple[str, ...]) -> Iterator[Problem]:
    """Keys of a section that mean nothing without another one of it."""
    for name in names if getattr(section, owner) is None else ():
        if getattr(section, name) not in (None, False):
            yield Problem((at, name), f"belongs to {at}.{owner}, which is not given")


def _of_dataset(data: Prompts | RankData, names: tuple[str, ...]) -> Iterator[Problem]:
    yield from _needs(data, "data", "dataset", names)
    if data.dataset is not None and data.heldout_split == data.train_split:
        yield Problem(("data", "heldout_split"), f"is the split that is trained on, {data.train_split}; choose another")


def _student(student: Student) -> Iterator[Problem]:
    yield from _one_of(("student",), student, ("model", "layers", "config"))
    layers = student.layers
    if layers is not None and (not layers or layers != sorted(set(layers))):
        yield Problem(("student", "layers"), f"expected rising numbers of layers, each once, got {layers}")
    yield from _needs(student, "student", "model", ("gguf_file", "revision"))


def _prompts(data: Prompts) -> Iterator[Problem]:
    yield from _one_of(("data",), data, ("train", "dataset"))
    yield from _of_dataset(data, ("name", "split", "heldout_split", "streaming"))
    for name in sorted(data.chat_template_kwargs.keys() & SET_BY_US):
        yield Problem(("data", "chat_template_kwargs", name), "is set by grkd; remove it")
    if data.heldout is not None and data.heldout_split is not None:
        yield Problem(("data", "heldout_split"), "given together with heldout; keep one of the two")


def _responses(responses: Responses) -> Iterator[Problem]:
    path, mixture, n = ("responses",), responses.mixture, responses.n
    if mixture is None and responses.source == "mixture":
        yield Problem(
            (*path, "mixture"), "source is mixture; say how many come from each, as in {teacher: 2, student: 2}"
        )
    if mixture is not None and responses.source != "mixture":
        yield Problem((*path, "mixture"), f"belongs to source: mixture, but source is {responses.source}")
    if mixture is not None and (total := mixture.teacher + mixture.student + mixture.data) != n:
        yield Problem((*path, "mixture"), f"its numbers add up to {total}, but n is {n}")
    if responses.candidates is not None and responses.candidates < n:
        yield Problem((*path, "candidates"), f"expected n ({n}) or more, got {responses.candidates}")


def _score(score: Score, *, several: bool) -> Iterator[Problem]:
    """several: teachers, each of which orders responses without being named as a ranker."""
    if score.rankers is None:
        if score.combine is not None and not several:
            yield Problem(("score", "combine"), "belongs to score.rankers, which is not given")
        if score.calibration is not None and score.reward != "calibrated":
            yield Problem(("score", "calibration"), "belongs to score.reward: calibrated")
        return
    for name in ("reward", "calibration"):
        if getattr(score, name) is not None:
            instead = "rankers: [{name: calibrated, ratio: 0.8}]" if name == "calibration" else "name it among them"
            yield Problem(("score", name), f"given together with rankers; {instead}")
    if not score.rankers:
        yield Problem(("score", "rankers"), "expected at least one ranker, such as log_prob, got an empty list")


def _filled(recipe: LanguageRecipe, entries: Sequence[Any] | None) -> list[Any] | None:
    return None if entries is None else rankers_of(entries, recipe.teacher)


def _rankers(path: KeyPath, entries: Sequence[Any] | None, combine: str | None) -> Iterator[Problem]:
    """What is wrong with a list of rankers; none is opened."""
    if not entries:
        return
    from grkd import rankers

    seen: list[Problem] = []
    for index, entry in enumerate(entries):
        try:
            rankers.member(entry)
        except UserError as error:
            seen.append(Problem((*path, index), str(error)))
    yield from seen
    if not seen:
        try:
            rankers.panel(entries, combine=combine or "weights")
        except UserError as error:
            yield Problem(path, str(error))


def _in_training(recipe: LanguageRecipe) -> Iterator[Problem]:
    """Methods whose responses are sampled in training, and rankers of a method's own."""
    sampled = recipe.responses.when == "in_training"
    for name, fine in (("temperature", (1.0,)), ("top_p", (0.95, 1.0))):  # 0.95: the default, of the responses before
        if sampled and getattr(recipe.responses, name) not in fine:
            text = "responses sampled in training are drawn at temperature 1 with top_p 1, and methods rely on it"
            yield Problem(("responses", name), f"{text}; remove it")
    for index, method in enumerate(recipe.methods):
        path: KeyPath = ("methods", index)
        objective = objectives.load(method.name, **method.options)
        compares = "response" in objective.levels
        if compares and objective.on_policy and not sampled:
            text = f"{method.label} learns from responses that are sampled in training; set responses.when: in_training"
            yield Problem(path, text)
        own = [name for name in ("rankers", "combine") if getattr(method, name) is not None]
        if own and not compares:
            yield Problem((*path, own[0]), f"{method.label} compares no responses; remove it")
        elif own and not sampled:
            text = "a method's own rankers order what it samples in training; set responses.when: in_training"
            yield Problem((*path, own[0]), text)
        else:
            yield from _rankers((*path, "rankers"), _filled(recipe, method.rankers), method.combine)


def _asked_of_responses(recipe: LanguageRecipe) -> Iterator[Problem]:
    """Methods that the recipe's responses leave with nothing to learn from."""
    responses = recipe.responses
    for index, method in enumerate(recipe.methods):
        objective = objectives.load(method.name, **method.options)
        if "response" in objective.levels and responses.n < 2:
            text = f"{method.label} compares the responses of a prompt; set responses.n to 2 or more"
            yield Problem(("methods", index), text)
        source = objective.trains_on
        if source in ("teacher", "data") and responses.source != source:
            mixed = responses.mixture is not None and getattr(responses.mixture, source) > 0
            if not mixed:
                text = f"{method.label} is trained on responses from the {source}; set responses.source to {source}"
                yield Problem(("methods", index), f"{text}, or to a mixture with it")


def _classifier(recipe: ClassifierRecipe) -> Iterator[Problem]:
    data = recipe.data
    yield from _one_of(("data",), data, ("dataset", "train", "image_folder"))
    known = data.dataset is not None and data.dataset != "digits"
    if known != (data.folder is not None):
        text = f"dataset {data.dataset} needs the folder of its files" if known else "belongs to a dataset with files"
        yield Problem(("data", "folder"), text)
    for name in ("labels", "teacher_labels"):
        if getattr(data, name) not in ("clean", None) and data.dataset != "cifar10":
            yield Problem(("data", name), "only cifar10 has other labels than its own")
    yield from _needs(data, "data", "train", ("heldout", "image"))
    if (data.image is None) != (data.image_root is None):
        missing, given = ("image", "image_root") if data.image is None else ("image_root", "image")
        yield Problem(("data", given), f"needs data.{missing} beside it")
    if recipe.search is not None and recipe.search.steps_share != 1:
        yield Problem(("search", "steps_share"), "of language models; for classifiers set lockstep.search_epochs")
    if recipe.student.training is not None:
        yield Problem(
            ("student", "training"), "the student is trained as the recipe's own training says; move it there"
        )
    if isinstance(recipe.teacher, RankedLabels):
        yield from _ranked(recipe.teacher, data.train)
    for name, model in (("teacher", recipe.teacher), ("student", recipe.student)):
        if model.weights is not None and not model.has_factory:
            yield Problem((name, "weights"), f"only for built-in networks and factories; {model.model!r} has its own")


def _ranked(teacher: RankedLabels, train: str | None) -> Iterator[Problem]:
    """A teacher that orders classes: by the records, or a served model."""
    if (teacher.ranking is None) == (teacher.url is None):
        yield Problem(("teacher",), "needs ranking (a column of the records), or url and served_model")
    if (teacher.url is None) != (teacher.served_model is None):
        yield Problem(("teacher", "served_model"), "url and served_model belong together")
    if teacher.ranking is not None and not (train or "").endswith(".jsonl"):
        yield Problem(("teacher", "ranking"), "is a list in each record; give data.train as JSON Lines (.jsonl)")
    if teacher.url is not None:
        yield from url_mistakes(("teacher", "url"), teacher.url)


def _rank(recipe: RankRecipe) -> Iterator[Problem]:
    data, teacher, student = recipe.data, recipe.teacher, recipe.student
    yield from _one_of(("data",), data, ("train", "dataset", "folder"))
    if data.split is not None and data.train is not None:
        yield Problem(("data", "split"), "belongs to data.folder or data.dataset, which are not given")
    yield from _needs(data, "data", "folder", ("dense_model",))
    yield from _of_dataset(data, ("name", "heldout_split"))
    yield from _needs(data, "data", "train", ("heldout",))
    if data.folder is not None and not teacher.is_named and data.pool == "mined":
        yield Problem(("teacher", "models"), "mined candidates have no order of their own; name a model")
    if teacher.served is not None:
        yield from url_mistakes(("teacher", "served", "url"), teacher.served.url)
    if teacher.stride > teacher.window:
        yield Problem(("teacher", "stride"), "is above teacher.window: candidates between windows would be skipped")
    if teacher.asks == "permutation" and teacher.prompt is not None:
        yield Problem(("teacher", "prompt"), "belongs to asks: yes_no")
    if teacher.from_data is False and not teacher.is_named:
        yield Problem(("teacher", "from_data"), "without it nobody orders the candidates; name models")
    if teacher.top is not None and teacher.says != "order" and teacher.asks != "permutation":
        yield Problem(("teacher", "top"), "belongs to says: order or asks: permutation")
    if teacher.prompt is not None and not {"{query}", "{document}"} <= set(re.findall(r"\{\w+\}", teacher.prompt)):
        yield Problem(("teacher", "prompt"), "expected a text with {query} and {document} in it")
    for name in ("hidden", "pieces", "buckets"):
        if student.model != "tower" and getattr(student, name):
            yield Problem(("student", name), "belongs to model: tower")
    if student.buckets and student.pieces:
        yield Problem(("student", "pieces"), "needs a vocabulary, and buckets has none; remove one of them")
    if student.buckets == 1:
        yield Problem(("student", "buckets"), "expected 2 or more, or 0 for a vocabulary, got 1")
    if student.model == "tower" and student.kind != "bi_encoder":
        yield Problem(("student", "kind"), "a tower is a bi_encoder")
    if recipe.search is not None and recipe.search.questions is not None:
        yield Problem(("search", "questions"), "of language models; remove it")
