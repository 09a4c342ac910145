"""Held-out prompts of a GRKDTrainer for its report: answers and groups, before training and after it."""

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from grkd.console import track
from grkd.data.chat import answer_text, decode_response
from grkd.data.conversation import shown
from grkd.data.held_out_groups import HELD_OUT
from grkd.data.language import Group, Item, unwrapped
from grkd.data.tables import write_table
from grkd.files import read_json, write_json
from grkd.models.evaluation_mode import evaluation_mode
from grkd.models.generate import Response, generate_responses
from grkd.models.pooled import PooledModel
from grkd.models.shard import in_turns
from grkd.ranks import wait
from grkd.training.grkd_config import GRKDConfig
from grkd.training.groups_file import known
from grkd.training.language_rows import LanguageRows, mean_log_probs_of
from grkd.training.record_groups import RecordEncoder
from grkd.training.rows import moved
from grkd.training.teacher_side import TeacherSide

if TYPE_CHECKING:
    from grkd.training.grkd_trainer import GRKDTrainer

_RESPONSES = 4  # to a prompt whose record has no group
_MOST_TOKENS = 64  # of an answer, as in a run of a recipe
_LEAST_TOKENS = 8  # a prompt that leaves no room for so many is not shown
_BEFORE, _TEACHER = "before", "teacher"  # as reports call them


class HeldOutView:
    """Writes evaluate/samples.json and evaluate/*/groups.parquet of the first report_prompts held-out prompts.

    Answers are greedy. A group is the record's own responses in their order, or those that rankers have ordered for
    evaluations, or else responses that the student samples before training, in the order of the teacher's mean token
    log-probability. label: the method's. evaluate/shown.json keeps what a resumed training needs again.
    """

    def __init__(
        self, args: GRKDConfig, label: str, encode: RecordEncoder, sides: Sequence[TeacherSide], rows: LanguageRows
    ) -> None:
        self.name, self.encode, self.vocabulary = f"{label}-seed{args.seed}", encode, rows.vocabulary
        self.prompts = args.report_prompts if args.report_files else 0
        self.new_tokens, self.seed = min(args.max_new_tokens, _MOST_TOKENS), args.seed
        self._folder = Path(str(args.output_dir)) / "evaluate"
        self._kept, self._samples = self._folder / "shown.json", self._folder / "samples.json"
        # In this process and of the student's vocabulary, or several as one; None: there is none to ask.
        self.teacher: Any = None
        if len(sides) == 1 and sides[0].shared:
            self.teacher = sides[0].model
        elif len(sides) > 1 and isinstance(rows.teacher, PooledModel) and not any(rows.teacher.only):
            self.teacher = rows.teacher

    def before(self, trainer: "GRKDTrainer", groups: Any, *, resumed: bool) -> None:
        """Answers and scores of the student before training; every process must call it. resumed: they are there."""
        if resumed:
            return
        main = trainer.is_world_process_zero()
        if main:
            for path in [*self._folder.glob("*/groups.parquet"), self._kept, self._samples]:
                path.unlink(missing_ok=True)  # of an earlier training in this folder
        if chosen := self._first(groups):
            student = unwrapped(trainer.student_now())
            with in_turns(self.teacher):
                if main:
                    with trainer.compute_loss_context_manager():
                        self._begin(chosen, student, trainer.args.device)
            wait("the report's answers to held-out prompts")

    def after(self, trainer: "GRKDTrainer") -> None:
        """The same of the trained student, of the same responses; every process must call it."""
        if not self.prompts:
            return
        student = unwrapped(trainer.student_now())
        if trainer.is_world_process_zero() and self._kept.is_file():
            with trainer.compute_loss_context_manager():
                self._add(read_json(self._kept), student, self.name)
        wait("the report's answers to held-out prompts")

    def _begin(self, groups: Sequence[Group], student: Any, device: torch.device) -> None:
        teacher = self.teacher
        if teacher is not None and next(teacher.parameters()).device.type != device.type:
            teacher = None  # one that has answered already, and lies in the host's memory
        prompts = [_prompt_of(group, self._text(group.items[0].prompt_ids)) for group in groups]
        without = [one for one in prompts if not one["responses"]]
        if teacher is not None and without:
            self._sample(without, student, teacher)
        found: dict[str, Any] = {"prompts": prompts, "answers": {}}
        speaks = None if teacher is None else unwrapped(teacher)
        if isinstance(speaks, PreTrainedModel):
            found["answers"][_TEACHER] = self._answers(speaks, prompts, "the teacher")
        self._add(found, student, _BEFORE)

    def _add(self, found: dict[str, Any], student: Any, name: str) -> None:
        """Answers and scores of a student to what is known, and the files of the report."""
        label = name.rpartition("-seed")[0] or name
        found["answers"][label] = self._answers(student, found["prompts"], label)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._kept, found)
        lines = [
            {
                "id": one["id"],
                "prompt": one["prompt"],
                "responses": [self._text(own) for own in one["responses"]],
                "scores": one["scores"],
                "by_ranker": list(one["by_ranker"].items()),
                "student": self._scores(student, one["id"], one["ids"], one["responses"]),
            }
            for one in found["prompts"]
            if one["responses"]
        ]
        if lines:
            (self._folder / name).mkdir(exist_ok=True)
            write_table(self._folder / name / "groups.parquet", lines, HELD_OUT)
        samples = [
            {
                "prompt": one["prompt"],
                "messages": one["messages"],
                "answers": {who: given[place]["text"] for who, given in found["answers"].items()},
                "cut": [who for who, given in found["answers"].items() if given[place]["cut"]],
            }
            for place, one in enumerate(found["prompts"])
        ]
        write_json(self._samples, samples)

    def _first(self, groups: Any) -> list[Group]:
        """The first groups of an evaluation set, or of the first of several by name, that leave room for an answer."""
        if isinstance(groups, dict):
            groups = next(iter(groups.values()), None)
        limit = self.encode.limit
        fit = (
            group
            for group in (groups if isinstance(groups, list) else ())
            if limit is None or len(group.items[0].prompt_ids) + min(_LEAST_TOKENS, self.new_tokens) <= limit
        )
        return list(islice(fit, self.prompts))

    def _sample(self, prompts: Sequence[dict[str, Any]], student: Any, teacher: Any) -> None:
        """Give the prompts responses of the student, and the teacher's scores of them."""
        asked = [one["ids"] for one in prompts for _ in range(_RESPONSES)]
        responses = [one.response_ids for one in self._generated(student, asked, "report: groups", temperature=1.0)]
        for place, prompt in enumerate(prompts):
            prompt["responses"] = responses[place * _RESPONSES : (place + 1) * _RESPONSES]
            prompt["scores"] = self._scores(teacher, prompt["id"], prompt["ids"], prompt["responses"])
            prompt["by_ranker"] = {"log_prob": prompt["scores"]}

    def _answers(self, model: Any, prompts: Sequence[dict[str, Any]], who: str) -> list[dict[str, Any]]:
        """Each prompt's greedy answer as text, and whether the limit of length cut it."""
        asked, what = [one["ids"] for one in prompts], f"report: answers of {who}"
        written = self._generated(model, asked, what, temperature=0.0)
        return [{"text": answer_text(self._text(one.response_ids)), "cut": not one.finished} for one in written]

    def _generated(self, model: Any, prompts: list[list[int]], what: str, *, temperature: float) -> list[Response]:
        limit = self.encode.limit
        room = self.new_tokens if limit is None else limit - max(map(len, prompts))
        with evaluation_mode(model):
            made = generate_responses(
                model,
                prompts,
                max_new_tokens=min(self.new_tokens, room),
                temperature=temperature,
                top_p=1.0,
                stop_ids=self.encode.stop_ids,
                pad_token_id=self.encode.pad_token_id,
                seed=self.seed,
                vocabulary=self.vocabulary,
            )
            found = list(track(chain.from_iterable(made), what, unit="answers", total=len(prompts)))
        return sorted(found, key=lambda one: one.index)

    def _text(self, ids: Sequence[int]) -> str:
        return decode_response(self.encode.tokenizer, ids, self.encode.stop_ids)

    def _scores(self, model: Any, name: str, prompt: list[int], responses: Sequence[list[int]]) -> list[float | None]:
        """Mean token log-probabilities of the responses, in nats."""
        rows = LanguageRows(pad_token_id=self.encode.pad_token_id, vocabulary=self.vocabulary)
        items = tuple(Item(f"{name}#{place}", prompt, own) for place, own in enumerate(responses))
        group = Group(id=name, items=items, teacher_scores=(0.0,) * len(items), sources=("data",) * len(items))
        with evaluation_mode(model):
            batch = moved(rows.collate_all([group]), next(model.parameters()).device)
            return known(mean_log_probs_of(rows, model, batch)[0, : len(items)].tolist())


def _prompt_of(group: Group, rendered: str) -> dict[str, Any]:
    """A held-out prompt as shown.json keeps it; its responses, token ids, only if they have an order.

    rendered: its text, for a cache's groups, which have no other.
    """
    asked = (group.columns or {}).get("prompt", rendered)
    ordered = group.has_pair
    by_ranker = group.by_ranker if ordered and group.by_ranker else {}
    return {
        "id": group.id,
        "prompt": asked if isinstance(asked, str) else shown(asked[-1]),
        "messages": [{"role": "user", "content": asked}] if isinstance(asked, str) else asked,
        "ids": group.items[0].prompt_ids,
        "responses": [item.response_ids for item in group.items] if ordered else [],
        "scores": known(group.teacher_scores) if ordered else [],
        "by_ranker": {name: known(scores) for name, scores in by_ranker.items()},
    }
