"""What becomes of every argument that TRL 1.16 adds to TrainingArguments: where it goes, or why it goes nowhere."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

# same: a field of GRKDConfig. option: of the method. made: several arguments together make one setting.
# refused: it changes what is learnt, so any value but TRL's default (or `fine`) is an error. without: how it runs.
Kind = Literal["same", "option", "made", "refused", "without"]


class Argument(NamedTuple):
    """kind, the name here (same, option, made), and what to do or why it is not here. fine: other accepted values."""

    kind: Kind
    to: str = ""
    why: str = ""
    fine: tuple[object, ...] = ()


def same(to: str, why: str = "") -> Argument:
    return Argument("same", to, why)


def option(to: str, why: str = "") -> Argument:
    return Argument("option", to, why)


def made(to: str, why: str) -> Argument:
    return Argument("made", to, why)


def refused(why: str, *fine: object) -> Argument:
    return Argument("refused", "", why, fine)


def without(why: str) -> Argument:
    return Argument("without", "", why)


_HERE = without("responses are sampled in the trainer's process")
_SAMPLING = refused("tokens are sampled at temperature 1 from the full vocabulary")
_OF_LOSS = without("belongs to an unsupported loss_type")
_MEMORY = without("changes only memory and speed")
_LOADED = refused("load the model yourself and pass it")
_REFERENCE = refused("the reference is always the student before training")

_MODEL: dict[str, Argument] = {
    "model_init_kwargs": _LOADED,
    "trust_remote_code": _LOADED,
    "router_aux_loss_coef": refused("the router's auxiliary loss is not supported"),
    "disable_dropout": without("dropout follows the model's config; today's language models have none"),
    "pad_to_multiple_of": made("", "batches are padded to the longest sequence"),
}
_VLLM: dict[str, Argument] = {
    "use_vllm": same("use_vllm"),
    "vllm_mode": _HERE,
    "vllm_model_impl": _HERE,
    "vllm_enable_sleep_mode": _HERE,
    "vllm_structured_outputs_regex": refused("sampling cannot be constrained by a pattern"),
    "vllm_server_base_url": _HERE,
    "vllm_server_host": _HERE,
    "vllm_server_port": _HERE,
    "vllm_server_timeout": _HERE,
    "vllm_group_port": _HERE,
    "vllm_gpu_memory_utilization": _HERE,
    "vllm_max_model_length": _HERE,
    "vllm_tensor_parallel_size": _HERE,
}
_GENERATION: dict[str, Argument] = {
    "max_completion_length": same("max_new_tokens"),
    "ds3_gather_for_generation": _MEMORY,
    "shuffle_dataset": made("train_sampling_strategy", "False: sequential"),
    "temperature": _SAMPLING,
    "top_p": _SAMPLING,
    "top_k": _SAMPLING,
    "min_p": _SAMPLING,
    "generation_kwargs": _SAMPLING,
    "repetition_penalty": _SAMPLING,
    "chat_template_kwargs": same("chat_template_kwargs"),
    "cache_implementation": _MEMORY,
    "max_tool_calling_iterations": refused("tools are not called in training"),
    "log_completions": without("keep_groups keeps every group with its scores; `grkd groups` shows them"),
    "num_completions_to_print": without("see log_completions"),
    "log_unique_prompts": without("see log_completions"),
}
_TEACHER: dict[str, Argument] = {
    "teacher_model_name_or_path": same("teacher_model_name_or_path"),
    "teacher_model_init_kwargs": _LOADED,
}

GRPO: dict[str, Argument] = {
    **_MODEL,
    **_GENERATION,
    **_VLLM,
    "num_generations": same("num_generations", "per_device_train_batch_size counts prompts here, responses in TRL"),
    "num_generations_eval": without("evaluation samples num_generations responses"),
    "generation_batch_size": made("steps_per_generation", "as steps_per_generation"),
    "steps_per_generation": made("steps_per_generation", "optimiser steps here, micro-batches in TRL"),
    "cast_lm_head_to_fp32": without("losses are computed in float32"),
    "beta": refused("KL to a reference model is not supported; grpo's teacher_kl is the exact KL to the teacher"),
    "num_iterations": refused("each response is used once"),
    "epsilon": option("clip_low", "also clip_high if epsilon_high is None"),
    "epsilon_high": option("clip_high"),
    "delta": refused("the ratio has no second bound"),
    "sapo_temperature_neg": _OF_LOSS,
    "sapo_temperature_pos": _OF_LOSS,
    "vespo_k_pos": _OF_LOSS,
    "vespo_lambda_pos": _OF_LOSS,
    "vespo_k_neg": _OF_LOSS,
    "vespo_lambda_neg": _OF_LOSS,
    "importance_sampling_level": refused("the ratio is per token"),
    "reward_weights": same("reward_weights"),
    "multi_objective_aggregation": refused('pass reward_funcs with combine="weights", which adds z-scores'),
    "scale_rewards": made("scale", "group: group; none or False: none; batch is refused"),
    "loss_type": made("normalize", "dapo, bnpo: token; grpo: sequence; others are refused"),
    "mask_truncated_completions": refused("every sampled response is used"),
    "sync_ref_model": _REFERENCE,
    "ref_model_mixup_alpha": without("belongs to sync_ref_model"),
    "ref_model_sync_steps": without("belongs to sync_ref_model"),
    "top_entropy_quantile": refused("every token is used"),
    "entropy_coef": refused("there is no entropy bonus"),
    "use_adaptive_entropy": refused("there is no entropy bonus"),
    "entropy_coef_min": without("belongs to use_adaptive_entropy"),
    "entropy_coef_max": without("belongs to use_adaptive_entropy"),
    "entropy_coef_delta": without("belongs to use_adaptive_entropy"),
    "entropy_target": without("belongs to use_adaptive_entropy"),
    "vllm_importance_sampling_correction": without("the sampler is the student itself, so nothing is corrected"),
    "vllm_importance_sampling_mode": without("see vllm_importance_sampling_correction"),
    "vllm_importance_sampling_clip_max": without("see vllm_importance_sampling_correction"),
    "vllm_importance_sampling_clip_min": without("see vllm_importance_sampling_correction"),
    "vllm_importance_sampling_cap": without("see vllm_importance_sampling_correction"),
    "off_policy_mask_threshold": refused("every sampled response is used"),
    "use_bias_correction_kl": without("belongs to beta"),
    "log_multimodal": without("only text is supported"),
    "log_completions_hub_repo": without("groups are kept in output_dir/groups"),
    "use_transformers_continuous_batching": _HERE,
    "transformers_continuous_batching_config": _HERE,
    "use_transformers_paged": _HERE,
}

DPO: dict[str, Argument] = {
    **_MODEL,
    "dataset_num_proc": without("records are encoded in one process"),
    "max_length": same("max_length"),
    "truncation_mode": without("longer records are skipped and counted, never truncated"),
    "padding_free": without("tokens_per_batch removes padding"),
    "precompute_ref_log_probs": without("they are always computed before training"),
    "precompute_ref_batch_size": without("use per_device_eval_batch_size"),
    "loss_type": refused("only the sigmoid loss is supported", "sigmoid"),
    "loss_weights": refused("there is only one loss"),
    "ld_alpha": refused("all tokens have the same weight"),
    "f_divergence_type": refused("only the reverse KL is supported"),
    "f_alpha_divergence_coef": without("belongs to f_divergence_type"),
    "label_smoothing": option("label_smoothing"),
    "beta": option("beta"),
    "use_weighting": refused("pairs are not weighted"),
    "discopop_tau": _OF_LOSS,
    "activation_offloading": _MEMORY,
    "sync_ref_model": _REFERENCE,
    "ref_model_mixup_alpha": without("belongs to sync_ref_model"),
    "ref_model_sync_steps": without("belongs to sync_ref_model"),
    "pad_token": without("padding is tracked by lengths, not by a token"),
}

DISTILLATION: dict[str, Argument] = {
    **{name: argument for name, argument in _MODEL.items() if name != "router_aux_loss_coef"},
    **_GENERATION,
    **_VLLM,
    **_TEACHER,
    "teacher_model_revision": refused("load the teacher yourself and pass it as teacher_model"),
    "beta": made("method", "1: opd; below: gkd with this beta and on_policy_fraction 1"),
}

SFT: dict[str, Argument] = {
    **{name: argument for name, argument in _MODEL.items() if name != "disable_dropout"},
    "chat_template_path": refused("set processing_class.chat_template"),
    "dataset_text_field": refused("records have messages, or prompt and completion"),
    "dataset_kwargs": without("records are read by grkd"),
    "dataset_num_proc": without("records are encoded in one process"),
    "eos_token": refused("set processing_class.eos_token"),
    "max_length": same("max_length"),
    "truncation_mode": without("longer records are skipped and counted, never truncated"),
    "shuffle_dataset": without("batches are drawn in random order; see train_sampling_strategy"),
    "packing": without("tokens_per_batch packs the sequences of a batch"),
    "packing_strategy": without("records are not packed"),
    "padding_free": without("tokens_per_batch removes padding"),
    "eval_packing": without("records are not packed"),
    "completion_only_loss": refused("only responses are trained on", True),
    "assistant_only_loss": without(
        "only assistant turns are trained on; TRL's default trains on all turns of messages"
    ),
    "loss_type": refused("only the mean of -log p over tokens is supported", "nll", "chunked_nll"),
    "activation_offloading": _MEMORY,
    "pad_token": without("padding is tracked by lengths, not by a token"),
}

GKD: dict[str, Argument] = {
    **SFT,
    **_TEACHER,
    "disable_dropout": _MODEL["disable_dropout"],
    "assistant_only_loss": without("only assistant turns are trained on"),
    "loss_type": without("gkd's loss is the generalised JSD"),
    "temperature": refused("in TRL the temperature of sampling; here responses are sampled at 1", 1.0),
    "lmbda": option("on_policy_fraction"),
    "beta": option("beta"),
    "max_new_tokens": same("max_new_tokens"),
    "seq_kd": refused("use method seqkd, or gkd on records with the teacher's responses"),
}

# TRL's config: the method here, and its arguments.
CONFIGS: Mapping[str, tuple[str, dict[str, Argument]]] = {
    "GRPOConfig": ("grpo", GRPO),
    "DPOConfig": ("dpo", DPO),
    "DistillationConfig": ("opd", DISTILLATION),
    "GKDConfig": ("gkd", GKD),
    "SFTConfig": ("sft", SFT),
}
