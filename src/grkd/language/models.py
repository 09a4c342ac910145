"""The models of a language run: made once in the prepare stage, loaded from there by the others."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from grkd.endpoint.client import Endpoint
from grkd.endpoint.launch import Budgets
from grkd.errors import UserError
from grkd.files import read_json, write_json
from grkd.language.endpoint import endpoint_of
from grkd.language.vocabularies import check_head, needs_one_vocabulary, token_numbers
from grkd.models.cut import fresh, truncated
from grkd.models.float8 import check_float8, to_float8
from grkd.models.load import check_same_vocabulary, known_config, load_language_model, load_tokenizer, vocabulary_size
from grkd.models.save import save_student
from grkd.models.shard import shard
from grkd.ranks import ranks
from grkd.recipe import (
    CachedTeacher,
    LanguageRecipe,
    Model,
    ModelOfSeveral,
    ServedModel,
    ServedOfSeveral,
    Student,
    label_of,
    lead,
    shows_tokens,
    teachers_of,
    weights_of,
)
from grkd.run.device import device, dtype
from grkd.run.folder import RunFolder
from grkd.teacher.rank_cache import RankCache


class LanguageModels:
    """Loads teacher and student of a recipe; of several teachers, `members` by label, the first of which is this one.

    What `make` leaves in the prepare stage's folder: tokenizer/ (the student's), tokens.json (numbers about it),
    teacher_tokenizer/ where the teacher's is another, and teacher/ and student/ where they are not simply a hub name or
    folder of the recipe.
    """

    def __init__(self, recipe: LanguageRecipe, run: RunFolder) -> None:
        self.recipe, self.several = lead(recipe), isinstance(recipe.teacher, list)
        self.prepared = run.path / "prepare"
        self.budgets = Budgets(run.budgets)
        self.members: dict[str, LanguageModels] = {
            label: self if at == 0 else MemberModels(self, each, run, label)
            for at, (label, each) in enumerate(teachers_of(recipe).items())
        }
        self.device = device(recipe.device)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", run.ranks.local_process_index)
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._teacher_tokenizer: PreTrainedTokenizerBase | None = None

    def make(self, work: Path) -> None:
        """Fill the prepare stage's folder.

        Raises UserError if a model cannot be loaded, or tokenizers differ and the methods need one vocabulary.
        """
        student_spec, own = self.recipe.student, self._own_tokenizer()
        tokenizer = own if student_spec.model is None else tokenizer_of(student_spec)
        assert tokenizer is not None
        teacher_tokenizer = tokenizer if own is None else own
        shared = teacher_tokenizer is tokenizer or not self._difference(teacher_tokenizer, tokenizer)
        for member in self.members.values():  # before any weight is loaded
            member._difference(member._own_tokenizer() or tokenizer, tokenizer)
        weights = None if self.served is not None and student_spec.model is not None else weights_of(self.recipe)
        teacher = None if weights is None else self._load_teacher()
        student = self._make_student(teacher)
        if teacher is not None and weights is not None and _is_gguf(weights):
            save_student(teacher, teacher_tokenizer, work / "teacher", card="The teacher of this run, dequantised.\n")
        if student_spec.model is None or _is_gguf(student_spec):
            save_student(student, tokenizer, work / "student", card="The student of this run before distillation.\n")
        tokenizer.save_pretrained(work / "tokenizer")
        if not shared:
            teacher_tokenizer.save_pretrained(work / "teacher_tokenizer")
            if teacher is not None:
                check_head("teacher", teacher, vocabulary_size(teacher_tokenizer))
        for label, member in self.members.items():
            if isinstance(member, MemberModels):
                member.make_teacher(work / "teachers" / label, tokenizer)
        write_json(work / "tokens.json", token_numbers(tokenizer, student, teacher if shared else None))
        self._tokenizer = tokenizer

    def _own_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The teacher's; None for a served teacher that is said to have the student's."""
        name = None if self.served is None else self.served.tokenizer
        if name is not None:
            return load_tokenizer(name)
        weights = weights_of(self.recipe)
        return None if weights is None else tokenizer_of(weights)

    @property
    def served(self) -> ServedModel | None:
        """The teacher's section if it is behind a server."""
        return self.recipe.teacher if isinstance(self.recipe.teacher, ServedModel) else None

    @cached_property
    def endpoint(self) -> Endpoint:
        """The served teacher's: one for all stages of a command, which share its budget."""
        assert self.served is not None
        return endpoint_of(self.served, self.budgets)

    @cached_property
    def cached(self) -> RankCache | None:
        """The cache of ranks that takes the teacher's place."""
        teacher = self.recipe.teacher
        return RankCache(Path(teacher.cache)) if isinstance(teacher, CachedTeacher) else None

    @property
    def tokens_cross(self) -> bool:
        """Whether the teacher scores the student's own tokens: it gives log-probabilities, in one vocabulary."""
        shared = all(member.teacher_tokenizer is None for member in (self, *self.members.values()))
        return shared and shows_tokens(self.recipe)

    @property
    def crosses(self) -> bool:
        """Whether tokens are learnt from a teacher of another vocabulary, where the two tokenisations meet."""
        wanted = self.recipe.score.other_vocabulary == "tokens" and shows_tokens(self.recipe)
        return wanted and not self.several and self.teacher_tokenizer is not None

    def check_vocabularies(self) -> None:
        """Raises UserError if a prepared run's vocabularies differ and its methods need one.

        `make` looks too; but the methods of a run may change after it was prepared.
        """
        for member in (self, *self.members.values()):
            if member.teacher_tokenizer is not None:
                member._difference(member.teacher_tokenizer, self.tokenizer)

    def _difference(self, teacher_tokenizer: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether vocabularies differ. Raises UserError if they do and more than text and scores must cross."""
        try:
            check_same_vocabulary(teacher_tokenizer, tokenizer)
        except UserError as error:
            if reasons := needs_one_vocabulary(self.recipe, several=self.several):
                raise UserError(f"{self._named}{error}, or {reasons}") from None
            return True
        return False

    @property
    def _named(self) -> str:
        """The start of a mistake's line about one of several teachers."""
        teacher = self.recipe.teacher
        return f"teacher {label_of(teacher)}: " if isinstance(teacher, ModelOfSeveral | ServedOfSeveral) else ""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(str(self.prepared / "tokenizer"))
        return self._tokenizer

    @property
    def teacher_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The teacher's, where it has another vocabulary than the student: only text and scores cross then."""
        if self._teacher_tokenizer is None and (self.prepared / "teacher_tokenizer").is_dir():
            self._teacher_tokenizer = load_tokenizer(str(self.prepared / "teacher_tokenizer"))
        return self._teacher_tokenizer

    @property
    def tokenizer_of_teacher(self) -> PreTrainedTokenizerBase:
        """The one that the teacher reads: its own, or the student's."""
        return self.teacher_tokenizer or self.tokenizer

    @property
    def numbers(self) -> dict[str, Any]:
        """stop_ids, pad_token_id, vocabulary and context of a prepared run."""
        return self.numbers_in(self.prepared)

    def numbers_in(self, folder: Path) -> dict[str, Any]:
        """The same, of a prepare stage's folder that is still being made."""
        return dict(read_json(folder / "tokens.json"))

    def teacher(self) -> PreTrainedModel:
        """The teacher's weights at hand, in evaluation mode on the run's device, or spread over the processes."""
        spec = weights_of(self.recipe)
        assert spec is not None
        if (self.prepared / "teacher").is_dir():
            model = load_language_model(str(self.prepared / "teacher"), dtype=dtype(spec.dtype, self.device))
        else:
            model = self._load_teacher()
        placement = spec.placement
        if spec.dtype == "float8":
            check_float8(self.device, "teacher.dtype")
            model = to_float8(model.to(self.device))
        if placement == "whole":
            return model.to(self.device).eval().requires_grad_(False)
        return shard(model, self.device, offload=placement == "offloaded")

    @property
    def teacher_is_spread(self) -> bool:
        """Whether each process holds a part of a teacher, so that it answers only if all ask together."""
        teachers = [member.recipe.teacher for member in self.members.values()]
        spread = any(isinstance(each, Model) and each.placement != "whole" for each in teachers)
        return spread and ranks().num_processes > 1

    def student(self) -> PreTrainedModel:
        """The student before distillation, on the CPU, in the dtype that its weights are trained in."""
        spec = self.recipe.student
        weights = torch.float32 if spec.dtype == "auto" else dtype(spec.dtype, self.device)
        if (self.prepared / "student").is_dir():
            return load_language_model(str(self.prepared / "student"), dtype=weights)
        return model_of(spec, weights)

    def _load_teacher(self) -> PreTrainedModel:
        spec = weights_of(self.recipe)
        assert spec is not None
        return model_of(spec, dtype(spec.dtype, self.device))

    def _make_student(self, teacher: PreTrainedModel | None) -> PreTrainedModel:
        spec = self.recipe.student
        if teacher is not None and spec.layers is not None:
            return truncated(teacher, spec.layers)
        if teacher is not None and spec.config is not None:
            return fresh(teacher.config, spec.config, seed=self.recipe.seeds[0])
        return model_of(spec, torch.float32)


class MemberModels(LanguageModels):
    """One more of several teachers; student, tokenizer and numbers are those of the run."""

    def __init__(self, main: LanguageModels, recipe: LanguageRecipe, run: RunFolder, label: str) -> None:
        super().__init__(recipe, run)
        self.several, self.budgets = True, main.budgets
        self.main, self.prepared = main, run.path / "prepare" / "teachers" / label

    def make_teacher(self, work: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Its tokenizer if that is another than the student's, and its weights if they come from a GGUF file.

        Raises UserError as `make`.
        """
        work.mkdir(parents=True)
        own = self._own_tokenizer()
        if own is not None and self._difference(own, tokenizer):
            own.save_pretrained(work / "teacher_tokenizer")
        weights = None if self.served is not None else weights_of(self.recipe)
        if weights is not None and _is_gguf(weights):
            save_student(self._load_teacher(), own or tokenizer, work / "teacher", card="A teacher, dequantised.\n")

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.main.tokenizer

    @property
    def numbers(self) -> dict[str, Any]:
        return self.main.numbers


def _source(spec: Model | Student) -> dict[str, Any]:
    """Where a recipe's section has its model from, as arguments of grkd.models.load."""
    assert spec.model is not None
    return {"model": spec.model, **{key: getattr(spec, key) for key in ("gguf_file", "revision", "trust_remote_code")}}


def _is_gguf(spec: Model | Student) -> bool:
    return spec.gguf_file is not None or (spec.model or "").endswith(".gguf")


def tokenizer_of(spec: Model | Student) -> PreTrainedTokenizerBase:
    """The tokenizer that a recipe's section names."""
    return load_tokenizer(**_source(spec))


def config_of(spec: Model | Student) -> PreTrainedConfig | None:
    """The config that a recipe's section names; None if it is not at hand."""
    return known_config(**_source(spec))


def model_of(spec: Model | Student, weights: torch.dtype) -> PreTrainedModel:
    """The model that a recipe's section names, on the CPU, its weights in this dtype."""
    return load_language_model(**_source(spec), dtype=weights)
