"""A language model's first stage: its models where they must be made, and the prompts as token ids."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from grkd.console import console
from grkd.data.chat import encode_prompt, encode_response
from grkd.data.language import within_context
from grkd.data.left_out import LeftOut
from grkd.data.prompts import Example, shared_prompts
from grkd.data.tables import write_table
from grkd.data.template import NotRendered
from grkd.errors import UserError
from grkd.files import write_json
from grkd.language.cached import check_tokens
from grkd.language.context import LanguageContext
from grkd.language.examples import SPLITS, check_answers, check_choice, data_examples, from_data, groups_from_data
from grkd.language.fresh import columns_read
from grkd.language.served import check_servers, teacher_identity
from grkd.language.tables import PROMPTS
from grkd.recipe import Responses
from grkd.run.folder import identity
from grkd.run.training import check


def prepare(context: LanguageContext) -> Path:
    """Models that must be made first (GGUF, truncated, fresh), and the prompts as token ids.

    Where responses come from the data, alone or in a mixture, theirs are in prompts.parquet too, as token ids that end
    with a stop token and are cut at responses.max_new_tokens.
    """
    responses = context.recipe.responses
    check_choice(responses)
    inputs = {
        "data": identity(context.recipe.data),
        "teacher": teacher_identity(context.recipe.teacher),
        "student": identity(context.recipe.student),
        "max_new_tokens": responses.max_new_tokens,
        "from_data": from_data(responses),
        "groups_from_data": groups_from_data(responses),
        "seed": context.recipe.seeds[0],
    }

    def make(work: Path) -> None:
        if not context.run.ranks.is_main_process:
            return
        check_servers(context.recipe)  # one request, before hours of sampling
        found = data_examples(context.recipe, columns_read(context.recipe))
        _say_what_is_shared(found)
        console.print("loading teacher and student")
        context.models.make(work)
        check_tokens(context)
        check(context.recipe.training, context.recipe.methods, context.models.numbers_in(work)["vocabulary"])
        encoded = _Encoded(context, context.models.numbers_in(work))
        for split, example in found:
            encoded.add(split, example)
        records = encoded.records
        counts = {f"prompts_{split}": sum(record["split"] == split for record in records) for split in SPLITS}
        encoded.check(counts)
        encoded.say()
        _say_what_is_left_out(responses, records)
        write_table(work / "prompts.parquet", records, PROMPTS)
        write_json(
            work / "counts.json",
            {**counts, "prompts_dropped_too_long": encoded.too_long, "prompts_left_out": len(encoded.left_out)},
        )

    return context.run.stage("prepare", inputs, make, quick=True)


def _say_what_is_shared(found: list[tuple[str, Example]]) -> None:
    heldout = [example for split, example in found if split == "heldout"]
    if shared := shared_prompts(heldout, [example for split, example in found if split == "train"]):
        console.print(f"[yellow]{shared} of {len(heldout)} held-out prompts are also in the training data[/yellow]")


def _say_what_is_left_out(responses: Responses, records: list[dict[str, Any]]) -> None:
    longest = max(len(record["data_response_ids"] or []) for record in records)
    if longest > responses.n == 1:
        console.print(
            f"[yellow]the data has up to {longest} responses per prompt; responses.n = 1 takes the first of them"
            "[/yellow]"
        )


class _Encoded:
    """Prompts as records with token ids, and what is left out."""

    def __init__(self, context: LanguageContext, numbers: dict[str, Any]) -> None:
        self.recipe, self.tokenizer, self.numbers = context.recipe, context.models.tokenizer, numbers
        self.records: list[dict[str, Any]] = []
        self.too_long = 0
        self.left_out = LeftOut()
        self.notes: Counter[str] = Counter()

    def add(self, split: str, example: Example) -> None:
        data, responses = self.recipe.data, self.recipe.responses
        check_answers(responses, split, example)
        try:
            prompt_ids = encode_prompt(self.tokenizer, example, system=data.system)
            answers, scores = self._answers(example)
        except NotRendered as error:
            self.left_out.add(example.id, error.reason)
            return
        if not within_context(
            prompt_ids,
            max_prompt_tokens=data.max_prompt_tokens,
            max_new_tokens=responses.max_new_tokens,
            context=self.numbers["context"],
        ):
            self.too_long += 1
            return
        self.records.append(
            {
                "id": f"{split}/{example.id}",
                "split": split,
                "prompt": example.shown,
                **example.stored(),
                "prompt_ids": prompt_ids,
                "data_response_ids": answers,
                "data_scores": scores,
            }
        )

    def _answers(self, example: Example) -> tuple[list[list[int]] | None, list[float] | None]:
        """Every response that the data has, cut at the limit of length, and their scores.

        None if none is taken from there. Raises NotRendered if fewer can be written than a group needs.
        """
        responses = self.recipe.responses
        if not from_data(responses):
            return None, example.scores
        found, failed, notes = {}, [], Counter[str]()
        for place, answer in enumerate(example.answers):
            try:
                found[place] = encode_response(
                    self.tokenizer,
                    replace(example, completion=answer, responses=None, scores=None),
                    stop_ids=self.numbers["stop_ids"],
                    system=self.recipe.data.system,
                    notes=notes,
                )[: responses.max_new_tokens]
            except NotRendered as error:
                failed.append(error)
        if failed and len(found) < (2 if groups_from_data(responses) else 1):
            raise failed[-1]  # the record is counted, not its responses
        self.notes += notes + Counter(f"responses left out: {error.reason}" for error in failed)
        scores = example.scores and [example.scores[place] for place in found]
        return list(found.values()), scores

    def check(self, counts: dict[str, int]) -> None:
        """Raises UserError if a split has no prompt left, with the reason."""
        for split in SPLITS:
            if counts[f"prompts_{split}"]:
                continue
            if self.too_long:
                raise UserError(
                    f"data: no {split} prompt is left; {self.too_long} are over data.max_prompt_tokens "
                    f"({self.recipe.data.max_prompt_tokens}) or leave no room for responses.max_new_tokens "
                    f"({self.recipe.responses.max_new_tokens}) in the context of {self.numbers['context']}"
                )
            raise UserError(f"data: no {split} prompt is left; {self.left_out.lines[0]}")

    def say(self) -> None:
        """One line for each kind of what is left out."""
        if self.too_long:
            console.print(
                f"[yellow]{self.too_long} prompts were dropped: over data.max_prompt_tokens, or no room for "
                "responses.max_new_tokens in the context[/yellow]",
                soft_wrap=True,
            )
        self.left_out.say("data")
        for note, count in self.notes.items():
            if count:
                console.print(f"[yellow]data: {count} {escape(note)}[/yellow]", soft_wrap=True)
