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


Arguments = dict[str, Argument]


# Each takes the names of TRL, separated by spaces.
def same(names: str, to: str = "", why: str = "") -> Arguments:
    return {name: Argument("same", to or name, why) for name in names.split()}


def option(names: str, to: str = "", why: str = "") -> Arguments:
    return {name: Argument("option", to or name, why) for name in names.split()}


def made(names: str, to: str, why: str) -> Arguments:
    return {name: Argument("made", to, why) for name in names.split()}


def refused(names: str, why: str, *fine: object) -> Arguments:
    return {name: Argument("refused", "", why, fine) for name in names.split()}


def without(names: str, why: str) -> Arguments:
    return {name: Argument("without", "", why) for name in names.split()}


_MEMORY = "changes memory and speed alone"
_OF_LOSS = "belongs to a loss_type that is not here"
_LOADED = "load the model yourself and pass it"
_HERE = "responses are sampled in the trainer's process"

_MODEL = {
    **refused("model_init_kwargs trust_remote_code", _LOADED),
    **made("pad_to_multiple_of", "", "batches are padded to their longest"),
}
_DROPOUT = without("disable_dropout", "dropout is as the model's config has it; today's language models have none")
_ROUTERS = refused("router_aux_loss_coef", "there is no auxiliary loss of routers")
_GENERATION = {
    **same("max_completion_length", "max_new_tokens"),
    **same("chat_template_kwargs use_vllm"),
    **made("shuffle_dataset", "train_sampling_strategy", "False: sequential"),
    **refused(
        "temperature top_p top_k min_p generation_kwargs repetition_penalty",
        "tokens are drawn at temperature 1 from the whole vocabulary",
    ),
    **refused("max_tool_calling_iterations", "tools are not called in training"),
    **refused("vllm_structured_outputs_regex", "sampling cannot be constrained by a pattern"),
    **without("ds3_gather_for_generation cache_implementation", _MEMORY),
    **without("log_completions", "keep_groups keeps every group with its scores; `grkd groups` shows them"),
    **without("num_completions_to_print log_unique_prompts", "see log_completions"),
    **without(
        "vllm_mode vllm_model_impl vllm_enable_sleep_mode vllm_server_base_url vllm_server_host vllm_server_port "
        "vllm_server_timeout vllm_group_port vllm_gpu_memory_utilization vllm_max_model_length "
        "vllm_tensor_parallel_size",
        _HERE,
    ),
}
_TEACHER = {**same("teacher_model_name_or_path"), **refused("teacher_model_init_kwargs", _LOADED)}
_REFERENCE = {
    **refused("sync_ref_model", "the reference is the student before training throughout"),
    **without("ref_model_mixup_alpha ref_model_sync_steps", "belongs to sync_ref_model"),
}
_RECORDS = {
    **same("max_length"),
    **without("dataset_num_proc", "records are encoded in one process"),
    **without("truncation_mode", "longer records are left out and counted, never cut"),
    **without("padding_free", "tokens_per_batch leaves the padding out"),
    **without("activation_offloading", _MEMORY),
    **without("pad_token", "padding is known by lengths"),
}

GRPO = {
    **_MODEL,
    **_DROPOUT,
    **_ROUTERS,
    **_GENERATION,
    **_REFERENCE,
    **same("num_generations", why="per_device_train_batch_size counts prompts here, responses in TRL"),
    **same("reward_weights"),
    **option("epsilon", "clip_low", "and clip_high where epsilon_high is None"),
    **option("epsilon_high", "clip_high"),
    **made("generation_batch_size", "steps_per_generation", "as steps_per_generation"),
    **made("steps_per_generation", "steps_per_generation", "optimiser steps here, micro-batches in TRL"),
    **made("scale_rewards", "scale", "group: group; none or False: none; batch is refused"),
    **made("loss_type", "normalize", "dapo, bnpo: token; grpo: sequence; others are refused"),
    **refused("beta", "KL to a reference model is not here; grpo's teacher_kl is the exact KL to the teacher"),
    **refused("num_iterations", "a response is learnt from once"),
    **refused("delta", "there is no second bound of the ratio"),
    **refused("importance_sampling_level", "the ratio is per token"),
    **refused("multi_objective_aggregation", 'pass reward_funcs with combine="weights", which adds z-scores'),
    **refused("mask_truncated_completions off_policy_mask_threshold", "every sampled response is learnt from"),
    **refused("top_entropy_quantile", "every token is learnt from"),
    **refused("entropy_coef use_adaptive_entropy", "there is no entropy bonus"),
    **without("num_generations_eval", "evaluation samples num_generations responses"),
    **without("cast_lm_head_to_fp32", "losses are computed in float32"),
    **without(
        "sapo_temperature_neg sapo_temperature_pos vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg", _OF_LOSS
    ),
    **without("entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target", "belongs to use_adaptive_entropy"),
    **without("vllm_importance_sampling_correction", "the sampler is the student itself, so nothing is corrected"),
    **without(
        "vllm_importance_sampling_mode vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min "
        "vllm_importance_sampling_cap",
        "see vllm_importance_sampling_correction",
    ),
    **without("use_bias_correction_kl", "belongs to beta"),
    **without("log_multimodal", "only text is learnt"),
    **without("log_completions_hub_repo", "groups are kept in output_dir/groups"),
    **without(
        "use_transformers_continuous_batching transformers_continuous_batching_config use_transformers_paged", _HERE
    ),
}
DPO = {
    **_MODEL,
    **_DROPOUT,
    **_ROUTERS,
    **_RECORDS,
    **_REFERENCE,
    **option("label_smoothing beta"),
    **refused("loss_type", "the sigmoid loss alone", "sigmoid"),
    **refused("loss_weights", "there is one loss"),
    **refused("ld_alpha", "all tokens weigh the same"),
    **refused("f_divergence_type", "the reverse KL alone"),
    **refused("use_weighting", "pairs are not weighted"),
    **without("precompute_ref_log_probs", "they are always made before training"),
    **without("precompute_ref_batch_size", "per_device_eval_batch_size"),
    **without("f_alpha_divergence_coef", "belongs to f_divergence_type"),
    **without("discopop_tau", _OF_LOSS),
}
DISTILLATION = {
    **_MODEL,
    **_DROPOUT,
    **_GENERATION,
    **_TEACHER,
    **refused("teacher_model_revision", "load the teacher yourself and pass it as teacher_model"),
    **made("beta", "method", "1: opd; below: gkd with this beta and on_policy_fraction 1"),
}
SFT = {
    **_MODEL,
    **_ROUTERS,
    **_RECORDS,
    **refused("chat_template_path", "set processing_class.chat_template"),
    **refused("dataset_text_field", "records have messages, or prompt and completion"),
    **refused("eos_token", "set processing_class.eos_token"),
    **refused("completion_only_loss", "only responses are learnt", True),
    **refused("loss_type", "the mean of -log p over tokens alone", "nll", "chunked_nll"),
    **without("dataset_kwargs", "records are read by grkd"),
    **without("shuffle_dataset", "batches are drawn in random order; see train_sampling_strategy"),
    **without("packing", "tokens_per_batch packs the sequences of a batch"),
    **without("packing_strategy eval_packing", "records are not packed"),
    **without("assistant_only_loss", "assistant turns alone are learnt; TRL's default learns all turns of messages"),
}
GKD = {
    **SFT,
    **_DROPOUT,
    **_TEACHER,
    **same("max_new_tokens"),
    **option("lmbda", "on_policy_fraction"),
    **option("beta"),
    **refused("temperature", "TRL samples at it, and its loss has none; responses are sampled at 1 here", 1.0),
    **refused("seq_kd", "use method seqkd, or gkd on records with the teacher's responses"),
    **without("assistant_only_loss", "only assistant turns are learnt"),
    **without("loss_type", "gkd's loss is the generalised JSD"),
}

# TRL's config: the method here, and its arguments.
CONFIGS: Mapping[str, tuple[str, Arguments]] = {
    "GRPOConfig": ("grpo", GRPO),
    "DPOConfig": ("dpo", DPO),
    "DistillationConfig": ("opd", DISTILLATION),
    "GKDConfig": ("gkd", GKD),
    "SFTConfig": ("sft", SFT),
}
