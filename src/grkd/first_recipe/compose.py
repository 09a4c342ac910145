"""From data and models to a recipe's text, a function per task."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grkd.errors import UserError
from grkd.first_recipe.lines import Entry, Part, text
from grkd.first_recipe.look import Found
from grkd.first_recipe.models import Named, is_url, language_models, model, new_tokens
from grkd.recipe import (
    ClassifierData,
    ClassifierModel,
    Model,
    Prompts,
    RankData,
    RankedLabels,
    RankStudent,
    RankTeacher,
    Responses,
    Score,
    ServedModel,
    Student,
    Training,
)

_SEEDS = Entry("seeds", [0], "one student per method and seed; with fewer than three, no method can be called better")
_METHODS = "each trains a student on the same data; see `grkd methods` and `grkd methods NAME`"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user names beside the data. folder: of the recipe; output: of the run."""

    folder: Path
    output: str
    teacher: str | None = None
    student: str | None = None
    served_model: str | None = None
    text_only: bool = False


def compose(found: Found, wish: Wish) -> str:
    """The recipe's text. Raises UserError if a model is needed that was not named."""
    made = {"language_model": _language, "classifier": _classifier, "rank": _rank}[found.task](found, wish)
    head = [f"Written by `grkd init` for {found.about}.", *_STEPS]
    given = [Entry("task", found.task), Entry("output", wish.output, "stages, students and report.html")]
    return text(head, [*given, *made], wish.folder)


_STEPS = (
    "  grkd run THIS --check    find mistakes before any training",
    "  grkd doctor THIS         find what is likely to spoil the run, in under a minute",
    "  grkd run THIS            run it; the same command resumes after an interruption",
    "  grkd compare THIS        tune and compare methods; needs a `search` section",
)


def _data(found: Found, kind: type, *more: Entry) -> Part:
    comments = {"heldout": "held-out data, for evaluation", "train": "training data"}
    entries = [Entry(key, value, comments.get(key, "")) for key, value in found.section.items()]
    return Part("data", [*entries, *more], found.about, kind)


def _methods(*methods: Any) -> Entry:
    return Entry("methods", list(methods), _METHODS)


def _training(*entries: Entry) -> Part:
    return Part("training", entries, "the same for every student", Training)


def _language(found: Found, wish: Wish) -> Sequence[Part | Entry]:
    named = language_models(
        wish.teacher, wish.student, served_model=wish.served_model, text_only=wish.text_only
    )  # fmt: skip
    grouped = found.kind in ("pairs", "groups")
    by_response = grouped or named.text_only or named.shared is False
    heldout = [] if "heldout" in found.section else [Entry("heldout_fraction", 0.1, "of the prompts")]
    parts: list[Part | Entry] = [
        Part("teacher", named.teacher, "", ServedModel if named.served else Model),
        Part("student", named.student, "", Student),
        _data(found, Prompts, *heldout),
        Part("responses", _responses(found, named, by_response), "the responses to train on", Responses),
    ]
    if grouped and found.scored:
        parts.append(Part("score", [Entry("reward", "data", "the responses are ordered by the data")], "", Score))
    parts += [
        _chosen_methods(grouped, by_response, named),
        _SEEDS,
        _training(
            Entry("epochs", 3),
            Entry("batch_size", 8, "prompts per device and step"),
            Entry("learning_rate", 5e-5, "usual: 1e-5 to 5e-4; lower for larger students"),
        ),
    ]
    return parts


def _responses(found: Found, named: Named, by_response: bool) -> list[Entry]:
    own = found.kind in ("pairs", "groups") or (found.kind == "answers" and not by_response)
    limit = new_tokens(found.longest if own else 0, named.context)  # a teacher's may be longer than the data's
    longest = Entry("max_new_tokens", limit, "longer responses are truncated and counted")
    if found.kind in ("pairs", "groups"):
        return [Entry("source", "data", "the responses of your file"), Entry("n", found.n, "per prompt"), longest]
    if by_response:
        return [
            Entry("source", "teacher", "the teacher writes them before training"),
            Entry("n", 4, "responses per prompt, ordered by the teacher"),
            longest,
        ]
    if found.kind == "answers":
        return [Entry("source", "data", "your answers; with `teacher` it writes its own, which takes longer"), longest]
    return [Entry("source", "teacher", "the teacher answers every prompt once, before training"), longest]


def _chosen_methods(grouped: bool, by_response: bool, named: Named) -> Entry:
    if named.text_only or named.shared is False:
        return _methods("dpo" if grouped else "seqkd", "simpo")
    if by_response:
        return _methods("dpo", {"name": "grkd", "preset": "responses"})
    return _methods("kd", {"name": "grkd", "preset": "tokens"})


def _classifier(found: Found, wish: Wish) -> Sequence[Part | Entry]:
    if is_url(wish.teacher) or is_url(wish.student):
        raise UserError("--teacher: a classifier's teacher is a network, a folder or a hub name, not a URL")
    ranked, small = found.word is not None, wish.student is None
    network = "cnn" if found.kind == "images" else "mlp"
    if ranked and wish.teacher is not None:
        raise UserError("--teacher: the data's own orders of classes are the teacher; remove it")
    if ranked:
        teacher = Part("teacher", [Entry("ranking", found.word, "column with classes, best first")], "", RankedLabels)
        methods = _methods("ce", "plackett_luce", {"name": "grkd", "anchor": []})
    else:
        teacher = Part("teacher", _network_teacher(found, wish.teacher, network), "", ClassifierModel)
        methods = _methods("ce", "kd", {"name": "grkd", "preset": "classes"})
    student = [Entry("model", network if wish.student is None else model(wish.student))]
    student += [Entry("options", {"hidden": [16]})] if small and network == "mlp" else []
    more = [] if "heldout" in found.section or _parts(found) else [Entry("heldout_fraction", 0.2)]
    if found.kind == "texts" and (small or (wish.teacher is None and not ranked)):
        more.append(Entry("features", "tfidf", "input of networks that are not transformers models"))
    if found.kind == "images":
        more.append(Entry("image_size", 32, "pixels"))
    return [
        teacher,
        Part("student", student, "", ClassifierModel),
        _data(found, ClassifierData, *more),
        methods,
        _SEEDS,
        _training(Entry("epochs", 20), Entry("batch_size", 32), Entry("learning_rate", 1e-3 if small else 5e-5)),
    ]


def _network_teacher(found: Found, name: str | None, network: str) -> list[Entry]:
    """A network that is trained first, or a model, with a head for the data's classes if it has none."""
    teacher = [Entry("model", network if name is None else model(name))]
    if name is None and network == "mlp":
        teacher.append(Entry("options", {"hidden": [256]}, "widths of hidden layers"))
    if name is not None and _has_classes(name, found.classes):
        return teacher
    if name is not None:
        teacher.append(Entry("options", {"new_head": True}, "its head has other classes than the data"))
    rate, epochs = (1e-3, 20) if name is None else (5e-5, 3)
    settings = {"epochs": epochs, "batch_size": 32, "learning_rate": rate}
    return [*teacher, Entry("training", settings, "the teacher is first trained on the labels")]


def _parts(found: Found) -> bool:
    """Whether a folder of images has a part that is held out."""
    folder = found.section.get("image_folder")
    return folder is not None and (folder / "heldout").is_dir()


def _has_classes(name: str, classes: list[str]) -> bool:
    """Whether a model's head has the data's classes by name; True if its config is not at hand."""
    from grkd.models.load import known_config
    from grkd.models.transformers_classifiers import plain_name

    config = known_config(name)
    if config is None or not classes:
        return True
    return {plain_name(str(one)) for one in (config.id2label or {}).values()} == set(map(plain_name, classes))


def _rank(found: Found, wish: Wish) -> Sequence[Part | Entry]:
    if is_url(wish.student):
        raise UserError("--student: a ranker's student is a folder or a hub name, not a URL")
    if is_url(wish.teacher) and wish.served_model is None:
        raise UserError("--served-model: give the model's name on the server (vLLM's --served-model-name)")
    if wish.teacher is None and found.word is None:
        raise UserError("--teacher: the data do not say which candidates are better; name a model that orders them")
    parts: list[Part | Entry] = []
    if wish.teacher is not None and is_url(wish.teacher):
        served = {"url": wish.teacher, "model": wish.served_model}
        given = [Entry("served", served, "the key is read from OPENAI_API_KEY, never from this file")]
        given.append(Entry("asks", "permutation", "the order of a window of candidates; yes_no: one at a time"))
        parts.append(Part("teacher", given, "", RankTeacher))
    elif wish.teacher is not None:
        models = [model(wish.teacher)]
        parts.append(Part("teacher", [Entry("models", models, "one or several")], "", RankTeacher))
    student = [Entry("model", "tower" if wish.student is None else model(wish.student), "tower: words, for CPUs")]
    heldout = [] if "heldout" in found.section else [Entry("heldout_fraction", 0.2, "of the queries")]
    named = wish.teacher is not None
    scores = found.word == "scores" if not named else not is_url(wish.teacher)  # a permutation is an order
    small = wish.student is None
    return [
        *parts,
        Part("student", student, "", RankStudent),
        _data(found, RankData, *heldout),
        _methods("kd" if scores else "plackett_luce", {"name": "grkd", "preset": "lists"}),
        _SEEDS,
        _training(Entry("epochs", 10), Entry("batch_size", 16), Entry("learning_rate", 1e-2 if small else 2e-5)),
    ]
