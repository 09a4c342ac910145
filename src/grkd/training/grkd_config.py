"""GRKDConfig: transformers' TrainingArguments, and what a distillation needs besides."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from transformers import TrainingArguments

from grkd import objectives
from grkd.errors import UserError
from grkd.files import NotJSON, parse_json
from grkd.objectives import Objective
from grkd.training.argument_checks import check_config
from grkd.training.evaluation_metrics import less_is_better
from grkd.training.several_teachers import TokenOrder


@dataclass
class RecordArguments:
    """How records become token ids.

    Parameters
    ----------
    max_length : int, optional
        Longest prompt and response together, in tokens; longer responses are left out and counted.
    system : str, optional
        System message before every prompt without its own.
    train_on_turns : {"all", "last"}
        Which assistant turns of a conversation are learnt.
    chat_template_kwargs : dict or JSON text, optional
        Variables of the chat template, such as enable_thinking; a record's own come first.
    train_split, eval_split : str, optional
        Splits of a DatasetDict.
    """

    max_length: int | None = 1024
    system: str | None = None
    train_on_turns: Literal["all", "last"] = "all"
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "variables of the chat template"}
    )
    train_split: str | None = None
    eval_split: str | None = None


@dataclass
class SamplingArguments:
    """Responses that are sampled from the student in training, at temperature 1 over the whole vocabulary.

    Parameters
    ----------
    max_new_tokens : int
        Longest response, in tokens.
    num_generations : int
        Responses per prompt in a group that rankers order.
    stored_share : float
        Share of the prompts that keep the responses made before training.
    steps_per_generation : int
        Optimiser steps whose responses are sampled in one call; see DistillationTrainer.
    sampling_batch_size : int, optional
        Responses sampled at a time. None: what the memory holds on a GPU, else 64.
    use_vllm : bool
        vLLM samples, in this process; see grkd.training.vllm_sampler.
    reward_weights : list of float, optional
        One weight per ranker.
    keep_groups : bool
        Keep every group with its scores in output_dir/groups.
    """

    max_new_tokens: int = 256
    num_generations: int = 8
    stored_share: float = 0.0
    steps_per_generation: int = 1
    sampling_batch_size: int | None = None
    use_vllm: bool = False
    reward_weights: list[float] | None = None
    keep_groups: bool = True


@dataclass
class TeacherArguments:
    """The teacher, where the trainer is given none, and what is learnt from it.

    Parameters
    ----------
    teacher_model_name_or_path : str, optional
        The teacher, if the trainer is given none.
    teacher_tokenizer_name_or_path : str, optional
        Its tokenizer, if that is not the one of its model's name; see teacher_processing_class.
    teacher_placement : {"whole", "sharded", "offloaded"}
        Of a teacher given by its name: whole on each GPU, sharded over several, or sharded and kept in the host's
        memory, on one GPU too.
    teacher_dtype : {"auto", "float32", "bfloat16", "float8"}
        Of a teacher given by its name. auto: float32 on a CPU, bfloat16 on a GPU. float8: see grkd.models.float8.
    other_vocabulary : {"responses", "tokens"}
        What is learnt from a teacher of another vocabulary: responses alone, or tokens too, at the places where both
        tokenisations meet.
    token_order : {"log_probs", "votes", "unanimous"}
        Of several teachers, for grkd's pairs of tokens: the order of their mean log-probability, votes on each pair, or
        the pairs on which all agree.
    """

    teacher_model_name_or_path: str | None = None
    teacher_tokenizer_name_or_path: str | None = None
    teacher_placement: Literal["whole", "sharded", "offloaded"] = "whole"
    teacher_dtype: Literal["auto", "float32", "bfloat16", "float8"] = "auto"
    other_vocabulary: Literal["responses", "tokens"] = "responses"
    token_order: TokenOrder = "log_probs"


@dataclass
class GRKDConfig(TeacherArguments, SamplingArguments, RecordArguments, TrainingArguments):
    """transformers.TrainingArguments, the arguments of records, sampling and teachers, and the method.

    per_device_train_batch_size counts prompts, each with all its responses.

    Parameters
    ----------
    method : str
        A method's name or import path, see `grkd methods`.
    method_options : dict or JSON text, optional
        Its options.
    fused_head : bool, optional
        Compute the loss without the logits of the whole batch, see DistillationTrainer.
    tokens_per_batch : int, optional
        See LanguageRows.
    compile_layers : str
        See DistillationTrainer.
    float32_masters : bool
        See DistillationTrainer; a student given by its name is then loaded in bfloat16.
    eval_metrics : list of str, optional
        What `evaluate` measures beside the loss; see grkd.training.evaluation_metrics.
    eval_top_k : int
        The teacher's candidates whose order is measured at every token.
    report_files : bool
        Leave in output_dir what `grkd report` and `grkd watch` read; see grkd.training.run_files.
    report_prompts : int
        Prompts of eval_dataset that student and teacher answer for the report, before training and after it, in at most
        64 tokens, each with a group of responses; 0: none. See grkd.training.held_out_view.

    Examples
    --------
    >>> from grkd import GRKDConfig
    >>> GRKDConfig(method="kd", method_options={"temperature": 2.0}, use_cpu=True).method
    'kd'
    """

    method: str = "grkd"
    method_options: dict[str, Any] | str | None = field(default=None, metadata={"help": "options of the method"})
    fused_head: bool | None = None
    tokens_per_batch: int | None = None
    compile_layers: str = "auto"
    float32_masters: bool = False
    eval_metrics: list[str] | None = None
    eval_top_k: int = 16
    report_files: bool = True
    report_prompts: int = 8
    warmup_steps: float = 0.0  # transformers' default, 0, is no float
    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*TrainingArguments._VALID_DICT_FIELDS, "method_options"]
    _VALID_DICT_FIELDS += ["chat_template_kwargs"]

    def __post_init__(self) -> None:
        for name in ("method_options", "chat_template_kwargs"):
            if isinstance(text := getattr(self, name), str) and text.strip().startswith("{"):
                try:
                    setattr(self, name, parse_json(text))
                except NotJSON as error:
                    raise UserError(f"{name} is text, but not JSON ({error}); give a dict or a JSON object") from None
        # transformers takes every metric but a loss for one of which more is better.
        if self.greater_is_better is None and less_is_better(self.metric_for_best_model):
            self.greater_is_better: bool | None = False
        try:
            super().__post_init__()
        except Exception as error:  # what transformers cannot read raises anything
            raise UserError(f"GRKDConfig: {' '.join(str(error).split())[:300]}") from error
        check_config(self)
        if self.teacher_dtype == "float8" and self.teacher_placement != "whole":
            raise UserError(
                "teacher_placement: weights in float8 are not sharded; use teacher_dtype bfloat16, or whole"
            )

    @property
    def layers_compiled(self) -> bool | None:
        """compile_layers as DistillationTrainer takes it. A text, since command lines give texts."""
        known = {"auto": None, "true": True, "false": False}
        if (name := str(self.compile_layers).lower()) not in known:
            raise UserError(f"compile_layers must be auto, true or false, got {self.compile_layers!r}")
        return known[name]


def checked_arguments(args: Any) -> GRKDConfig:
    """The arguments, GRKDConfig() for None. Raises UserError for those of another class."""
    args = GRKDConfig() if args is None else args
    if not isinstance(args, GRKDConfig):
        raise UserError(
            "args must be a GRKDConfig: transformers' TrainingArguments with a method and its options; "
            "grkd.from_trl makes one of a config of TRL"
        )
    args.logging_nan_inf_filter = False  # a loss that is no number must be seen
    args.dataloader_pin_memory &= args.device.type == "cuda"  # elsewhere PyTorch warns of it
    args.accelerator_config.non_blocking |= args.dataloader_pin_memory  # a batch's copy waits for no step
    return args


def objective_of(args: GRKDConfig) -> Objective:
    """The method that the arguments name. Raises UserError for an unknown one, or options that are no object."""
    options = args.method_options or {}
    if not isinstance(options, dict):
        raise UserError(f"method_options must be a JSON object, got {options!r}")
    return objectives.load(args.method, **options)
