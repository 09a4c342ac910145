"""What a language recipe gets wrong, as far as files, configs and methods tell: no weights, no network."""

import os
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from grkd import objectives
from grkd.errors import UserError
from grkd.language.cached import check_cache
from grkd.language.fresh import panels_of, samples_groups
from grkd.language.lora import adapted
from grkd.language.models import config_of
from grkd.language.record_columns import check_columns, record_columns
from grkd.models.cut import check_layers, fresh
from grkd.models.float8 import check_float8
from grkd.models.load import quiet
from grkd.recipe import LanguageRecipe, Model, Student, weights_of
from grkd.run.device import device
from grkd.run.training import check
from grkd.training.vllm_sampler import check_use


def check_language(recipe: LanguageRecipe) -> None:
    """Raises UserError for the first thing that transformers and configs show beside `check_files`.

    What only a config tells (layers, top_k, LoRA's modules) is looked at where the config is at hand.
    """
    check(recipe.training)
    check_cache(recipe)
    teachers = recipe.teacher if isinstance(recipe.teacher, list) else [recipe.teacher]
    if any(isinstance(each, Model) and each.dtype == "float8" for each in teachers):
        check_float8(device(recipe.device), "teacher.dtype")
    if recipe.responses.use_vllm:
        methods = {each.label: objectives.load(each.name, **each.options) for each in recipe.methods}
        check_use(methods, lambda each: bool(each.on_policy) or samples_groups(recipe, each))
    _check_models(recipe)
    _check_rankers(recipe)


def _check_rankers(recipe: LanguageRecipe) -> None:
    """What rankers tell without weights and network, and the columns that they read in files at hand."""
    panels = panels_of(recipe)
    for panel in panels:
        panel.check()
    if recipe.data.train is None or not any(panel.reads for panel in panels):
        return
    found = record_columns(recipe)
    for panel in panels:
        check_columns(panel, found, list(found), where=recipe.data.source)


def _check_models(recipe: LanguageRecipe) -> None:
    weights, spec = weights_of(recipe), recipe.student
    teacher = None if weights is None else config_of(weights)
    if teacher is not None:
        vocabulary = teacher.get_text_config(decoder=True).vocab_size
        if recipe.evaluation.top_k > vocabulary:
            raise UserError(
                f"evaluation.top_k: {recipe.evaluation.top_k} is above the teacher's vocabulary of {vocabulary} tokens"
            )
        if spec.layers is not None:
            check_layers(teacher, spec.layers)
    config = config_of(spec) if spec.model is not None else teacher
    if config is None:
        return
    check(recipe.training, recipe.methods, config.get_text_config(decoder=True).vocab_size)
    if spec.lora is not None or spec.config is not None:
        student = _without_weights(config, spec, recipe.seeds[0])
        if spec.lora is not None:
            adapted(student, spec.lora)


def _without_weights(config: PreTrainedConfig, spec: Student, seed: int) -> Any:
    """The student's modules on the meta device. Raises UserError if fresh weights would not fit into memory."""
    with torch.device("meta"), quiet():
        if spec.config is None:
            return AutoModelForCausalLM.from_config(config, trust_remote_code=spec.trust_remote_code)
        student = fresh(config, spec.config, seed)
    parameters = sum(parameter.numel() for parameter in student.parameters())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else float("inf")
    if 4 * parameters > memory:
        raise UserError(
            f"student.config: the model has {parameters:.1e} parameters, {4 * parameters / 2**30:,.0f} GiB in float32; "
            f"this machine has {memory / 2**30:,.0f} GiB"
        )
    return student
