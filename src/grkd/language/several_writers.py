"""Several teachers that share the writing of a run's responses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grkd.language.context import LanguageContext
from grkd.language.record_columns import RecordColumns, record_columns
from grkd.language.shard import Shard, ShardSampler
from grkd.teacher.turns import turns_of

Record = dict[str, Any]


@dataclass(frozen=True)
class SeveralWriters:
    """As grkd.language.sampling.Sampler: each response by the teacher whose turn it is.

    samplers: by label, each writes one response per prompt that it is given. turns: labels by prompt, in the order of
    its responses.
    """

    samplers: Mapping[str, ShardSampler]
    turns: Mapping[str, Sequence[str]]

    @property
    def models(self) -> list[Any]:
        """Those in this process."""
        return [getattr(sampler, "model", None) for sampler in self.samplers.values()]

    def __call__(self, shard: Shard) -> list[list[list[int]]]:
        """Token ids of the responses to each prompt."""
        written = {}
        for label, sampler in self.samplers.items():
            mine = [prompt for prompt in shard.prompts for who in self.turns[prompt["id"]] if who == label]
            written[label] = iter(sampler(shard.part(label, mine)) if mine else [])
        return [[next(written[who])[0] for who in self.turns[prompt["id"]]] for prompt in shard.prompts]


def several_writers(
    context: LanguageContext,
    share: int,
    prompts: Sequence[Record],
    make: Callable[[LanguageContext, str, Sequence[Record]], ShardSampler],
) -> SeveralWriters:
    """`share` responses to each of the run's prompts. make: a teacher's sampler, by its context, label and prompts.

    Raises UserError for a prompt that no teacher takes.
    """
    members: dict[str, Any] = {label: member.recipe.teacher for label, member in context.teachers.items()}
    found = record_columns(context.recipe) if any(each.only for each in members.values()) else RecordColumns()
    turns = turns_of(members, {one["id"]: found[one["id"]].columns for one in prompts}, share=share)
    samplers = {}
    for label, own in context.teachers.items():
        mine = [prompt for prompt in prompts for who in turns[prompt["id"]] if who == label]
        if mine:
            samplers[label] = make(own, label, mine)
    return SeveralWriters(samplers, turns)
