"""GRKDTrainer: any method of grkd behind the arguments that transformers' and TRL's trainers have."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments

from grkd.data.language import unwrapped
from grkd.data.sources import split_of
from grkd.models.attention import honour_softcap
from grkd.models.load import load_language_model, load_tokenizer
from grkd.models.save import stopping_config
from grkd.objectives import Objective
from grkd.teacher.rank_cache import RankCache, missing_from
from grkd.training.argument_checks import check_arguments
from grkd.training.before_training import Before
from grkd.training.cached_ranks import groups_of_cache, opened_cache
from grkd.training.callbacks import FiniteSteps
from grkd.training.crossed_side import check_crossing, crosses
from grkd.training.evaluation import prefixed
from grkd.training.evaluation_metrics import TOKENS, Measured, check_best, check_metrics
from grkd.training.fresh_groups import orders
from grkd.training.given_teachers import given_teachers
from grkd.training.grkd_config import GRKDConfig, checked_arguments, objective_of
from grkd.training.groups_file import KeepGroups
from grkd.training.held_out_view import HeldOutView
from grkd.training.ranked_in_training import check_read, checked_panel, fresh_groups
from grkd.training.record_groups import RecordEncoder, encoded, say_shared
from grkd.training.run_files import RunFiles
from grkd.training.services import check_services
from grkd.training.teacher_answers import answers_of
from grkd.training.teacher_side import needs_of, teacher_sides
from grkd.training.trainer import DistillationTrainer
from grkd.training.trainer_rows import apart_from, ask_about, check_token_order, rows_of, rows_of_scores

__all__ = ["GRKDConfig", "GRKDTrainer"]


class GRKDTrainer(DistillationTrainer):
    """Distils teacher_model into model: by tokens, by scored responses, or by groups that are sampled and ranked.

    A teacher that is the student itself, or shares weights with it, is copied and frozen as it is then.

    Parameters
    ----------
    model : nn.Module or str
        The student, or its name or folder.
    teacher_model : nn.Module, str, dict or list, optional
        The teacher: a model, its name, or {"url": ..., "served_model": ...} of a server as in a recipe. A list of these
        (a model as {"model": ..., "weight": ..., "label": ...}): several teachers, pooled by their weights.
    args : GRKDConfig, optional
        Settings of the training and the method.
    rankers : sequence, optional
        Who orders groups of args.num_generations responses that the student samples at every step, as in a recipe; see
        grkd.rankers.panel. Of methods that compare no responses: who scores them in `evaluate`, by eval_metrics score.
    combine : {"weights", "sum", "lexicographic", "votes"}, optional
        How several rankers make one order.
    reward_funcs : function, model, str or list of these, optional
        Rankers by TRL's name: functions, sequence-classification models or their names, whose rewards are summed.
        args.reward_weights weighs them.
    train_dataset, eval_dataset : records
        A list of dicts, a datasets.Dataset or IterableDataset, a DatasetDict with args.train_split, or the path of a
        file. Records have `messages`, `prompt` + `completion`, `prompt` + `responses` (+ `teacher_scores`), or
        `prompt` + `chosen` / `rejected`; a `prompt` alone for methods that sample, and for seqkd, whose teacher answers
        first. eval_dataset may be a dict of sets by name.
    processing_class : PreTrainedTokenizerBase, optional
        The tokenizer. None: loaded by the model's name.
    teacher_processing_class : PreTrainedTokenizerBase, optional
        The teacher's tokenizer, if its model has no name to load it by. It may have another vocabulary than the
        student's: for methods that compare responses, and with args.other_vocabulary for tokens.
    teacher_cache : RankCache, str or Path, optional
        A folder of `grkd cache build`, in place of the teacher of tokens, for kd and grkd. Without train_dataset its
        own prompts and responses are trained on.
    peft_config : peft.PeftConfig, optional
        For LoRA; the base model, with adapters off, is then dpo's reference.
    objective : Objective, optional
        In place of args.method.
    **kwargs : Any
        The other arguments of transformers.Trainer. compute_metrics: see grkd.training.evaluation_metrics.Measured.

    Raises
    ------
    UserError
        For methods that need what is not given, another vocabulary than the student's if tokens are compared, and
        malformed records.

    References
    ----------
    arXiv 2504.20482 (the default method).

    Examples
    --------
    >>> from contextlib import redirect_stdout
    >>> from io import StringIO
    >>> from tempfile import mkdtemp
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    >>> from grkd import GRKDConfig, GRKDTrainer
    >>> words = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1, "one": 2, "two": 3}, unk_token="<pad>"))
    >>> words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<pad>")
    >>> sizes = {"vocab_size": 4, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "eos_token_id": 1}
    >>> teacher, student = (LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=layers)) for layers in (2, 1))
    >>> args = GRKDConfig(mkdtemp(), max_steps=2, use_cpu=True, report_to="none", disable_tqdm=True)
    >>> records = [{"prompt": "one", "completion": "two two"}]
    >>> trainer = GRKDTrainer(
    ...     student, teacher, args, train_dataset=records,
    ...     processing_class=tokenizer, teacher_processing_class=tokenizer,
    ... )
    >>> with redirect_stdout(StringIO()):  # losses
    ...     found = trainer.train()
    >>> found.global_step
    2
    """

    def __init__(
        self,
        model: nn.Module | str,
        teacher_model: Any = None,
        args: GRKDConfig | TrainingArguments | None = None,
        *,
        rankers: Any = None,
        combine: str | None = None,
        reward_funcs: Any = None,
        train_dataset: Iterable[Any] | str | Path | None = None,
        eval_dataset: Iterable[Any] | dict[str, Iterable[Any]] | str | Path | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | None = None,
        teacher_cache: RankCache | str | Path | None = None,
        peft_config: Any = None,
        objective: Objective | None = None,
        **kwargs: Any,
    ) -> None:
        args = checked_arguments(args)
        objective = objective_of(args) if objective is None else objective
        check_arguments(
            model=model,
            teacher_model=teacher_model,
            tokenizers={"processing_class": processing_class, "teacher_processing_class": teacher_processing_class},
            teacher_cache=teacher_cache,
            peft_config=peft_config,
            objective=objective,
            others=kwargs,
        )
        check_services(args)
        self._metrics = check_metrics(args.eval_metrics)
        if kwargs.get("compute_metrics") is None:
            check_best(args.metric_for_best_model, self._metrics, eval_dataset)
        given = given_teachers(args.teacher_model_name_or_path if teacher_model is None else teacher_model)
        panel = checked_panel(rankers, reward_funcs, combine, args, objective, teachers=given)
        name = model if isinstance(model, str) else str(getattr(model.config, "name_or_path", ""))
        tokenizer = load_tokenizer(name) if processing_class is None else processing_class
        kept = torch.bfloat16 if args.float32_masters else torch.float32
        student: Any = load_language_model(model, dtype=kept).train() if isinstance(model, str) else model
        needs = needs_of(
            args.method,
            objective,
            panel_needs=set() if panel is None else panel.needs,
            metrics=[metric for metric in self._metrics if metric in TOKENS],
        )
        ranks = opened_cache(teacher_cache, objective, args, tokenizer)
        needs = needs if ranks is None else replace(needs, tokens=None)
        sides = teacher_sides(given, needs, args, student_tokenizer=tokenizer, own_tokenizer=teacher_processing_class)
        if crossing := crosses(sides, needs):
            check_crossing(sides, args, objective, kwargs.get("compute_metrics"))
        check_token_order(args, objective, sides, crossing=crossing)
        sides = [apart_from(student, side) for side in sides]
        honour_softcap(student)
        ordered = panel is not None and orders(objective)  # else rankers are asked in evaluation alone
        samples = ordered or objective.on_policy > 0
        encode = RecordEncoder(
            tokenizer,
            student,
            objective,
            args,
            teachers=[side.model for side in sides if side.shared and side.model is not None],
            samples=samples,
            keeps_columns=crossing or panel is not None or any(side.given.only for side in sides),
        )
        encode.read = routes = [name for side in sides for name in side.given.only]
        if objective.trains_on == "teacher":
            encode.teacher_answers = answers_of(sides, args, encode.stop_ids)
        rows = rows_of(sides, needs, encode, args, objective, samples=samples, student=student)
        self._ranks = rows.ranks = ranks
        rows.pairs_of_ranks = objective.takes_votes_on_rows
        if peft_config is not None:
            from peft import get_peft_model

            student = get_peft_model(student, peft_config)
        self._before = Before(rows, student, objective, args, encode=encode, adapters=peft_config is not None)
        if panel is not None:
            encode.read = None if panel.columns is None else [*routes, *panel.columns]
            fresh = fresh_groups(panel, sides, encode, args, reference=self._before.reference_of_batches())
            if ordered:
                rows.fresh = fresh
            else:
                self._before.scored = rows_of_scores(fresh, encode, args, vocabulary=rows.vocabulary)
        train_groups = encode(
            split_of(train_dataset, args.train_split, "train_dataset", "args.train_split"), "train_dataset"
        )
        if isinstance(eval_dataset, dict) and args.eval_split is not None:
            eval_dataset = split_of(eval_dataset, args.eval_split, "eval_dataset", "args.eval_split")
        eval_records = Path(eval_dataset) if isinstance(eval_dataset, str) else eval_dataset
        eval_groups = encoded(encode, eval_records, "eval_dataset")
        if ranks is not None:
            train_groups, eval_groups = groups_of_cache(ranks, train_groups, eval_groups)
        say_shared(train_groups, eval_groups)
        if panel is not None:
            scored, trained = "score" in self._metrics, train_groups if ordered else None
            check_read(panel, trained, eval_groups, lambda group: scored or self._before.wants_responses(group))
        super().__init__(
            student,
            args,
            objective=objective,
            rows=rows,
            fused_head=args.fused_head,
            steps_per_generation=args.steps_per_generation,
            compile_layers=args.layers_compiled,
            float32_masters=args.float32_masters,
            train_dataset=train_groups,
            eval_dataset=eval_groups,
            processing_class=tokenizer,
            **kwargs,
        )
        self.add_callback(FiniteSteps())
        label = args.method.rpartition(":")[2]
        if args.report_files:
            self.add_callback(RunFiles(Path(str(args.output_dir)), method=label, seed=args.seed))
        self._view = HeldOutView(args, label, encode, sides, rows)
        if rows.fresh is not None and rows.fresh.file is not None:
            self.add_callback(KeepGroups(rows.fresh.file))
        self._encode = encode
        self.train_dataset = self._before.training_set(train_groups, self.accelerator)
        ask_about(rows, self.train_dataset)
        self.eval_dataset = self._before.evaluation_set(eval_groups, "eval_dataset", self)
        ask_about(rows, self.eval_dataset)

    def train(self, resume_from_checkpoint: str | bool | None = None, *arguments: Any, **options: Any) -> Any:
        """As DistillationTrainer; from here on the student is no longer the one before training."""
        self._view.before(self, self.eval_dataset, resumed=bool(resume_from_checkpoint))
        self._before.over = True
        done = super().train(resume_from_checkpoint, *arguments, **options)
        self._view.after(self)
        return done

    def evaluate(self, eval_dataset: Any = None, *arguments: Any, **options: Any) -> dict[str, float]:
        """As transformers' Trainer; eval_dataset: records as in the constructor, or a dict of them by name.

        Measured: the loss, args.eval_metrics, and what compute_metrics returns.
        """
        return super().evaluate(self._encoded(eval_dataset, "eval_dataset"), *arguments, **options)

    def evaluation_loop(self, dataloader: Any, *arguments: Any, **options: Any) -> Any:
        """As DistillationTrainer; with metric `score`, the student's new responses are scored too."""
        found = super().evaluation_loop(dataloader, *arguments, **options)
        if "score" in self._metrics:
            prefix = options.get("metric_key_prefix", "eval")
            found.metrics.update(prefixed(self._before.scores_now(dataloader.dataset, self), prefix))
        return found

    def predict(self, test_dataset: Any, *arguments: Any, **options: Any) -> Any:
        """As transformers' Trainer, on records: the metrics hold their loss, there are no predictions."""
        return super().predict(self._encoded(test_dataset, "test_dataset"), *arguments, **options)

    def _encoded(self, records: Any, where: str) -> Any:
        found = encoded(self._encode, records, where)
        if self._ranks is not None and isinstance(found, list):
            missing_from(self._ranks, found, where)
        found = self._before.evaluation_set(found, where, self)
        ask_about(self.rows, found)
        return found

    def _measured(self) -> Measured | None:
        if not self._metrics and self.compute_metrics is None:
            return None
        return Measured(
            self._metrics,
            top_k=self.args.eval_top_k,
            compute_metrics=self.compute_metrics,
            preprocess=self.preprocess_logits_for_metrics,
            level="row" if "row" in self.objective.levels else "response",
        )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """As transformers' Trainer; the generation config beside the weights stops where training stopped."""
        model: Any = unwrapped(self.model)
        own = model.generation_config
        model.generation_config = stopping_config(model, self.processing_class)
        try:
            super()._save(output_dir, state_dict)
            if self.args.should_save:  # adapters are saved without it
                model.generation_config.save_pretrained(self.args.output_dir if output_dir is None else output_dir)
        finally:
            model.generation_config = own
