"""Tokens of a teacher of another vocabulary in a recipe: the rows that its stored scores and the student's make."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from grkd.console import console
from grkd.data.chat import stop_token_ids
from grkd.data.language import Group, Item
from grkd.language.context import LanguageContext
from grkd.models.load import context_length
from grkd.objectives import Across, Objective
from grkd.teacher.crossing import Crossing
from grkd.teacher.pooled_scores import HiddenScores
from grkd.teacher.row_shards import RowShards
from grkd.teacher.stored_scores import StoredScores, TopKScores
from grkd.training.cross_rows import CrossRows, shared_mass
from grkd.training.own_tokens import LiveScores, OwnTokens

_LOOKED_AT = 16  # responses whose shared mass is said


def own_tokens(folder: Path) -> RowShards:
    """The responses as the teacher's tokens, by the id of the respond stage; folder: of the score stage."""
    return RowShards(folder, name="own", dtype=torch.int32, cure="delete it and run the score stage again")


def crossed_rows(
    context: LanguageContext, groups: Sequence[Group], across: Across, common: dict[str, Any], *, quiet: bool = False
) -> CrossRows:
    """Rows of these groups; says how many of the tokens meet, and how much of the teacher's mass is shared."""
    assert context.models.teacher_tokenizer is not None
    folder = context.run.path / "score"
    kept = own_tokens(folder)
    items = [item for group in groups for item in group.items]
    own = {item.id: Item(item.id, [0], kept[item.id][:, 0].tolist()) for item in items}

    ends = Counter((item.response_ids[-1], own[item.id].response_ids[-1]) for item in items)
    stops = set(context.models.numbers["stop_ids"])
    student_stop, teacher_stop = max(ends, key=lambda pair: (pair[0] in stops, ends[pair]))
    crossing = Crossing(
        context.models.tokenizer, context.models.teacher_tokenizer, student_stop=student_stop, teacher_stop=teacher_stop
    )
    foreign: StoredScores = TopKScores(folder / "top_k") if context.models.served is not None else HiddenScores(folder)
    rows = CrossRows(
        across=across,
        crossing=crossing,
        own=lambda group: [own[item.id] for item in group.items],
        foreign=foreign,
        **{**common, "tokens_per_batch": None},
    )
    if context.run.ranks.is_main_process and not quiet:
        _say(rows, items, own)
    return rows


def live_crossed_rows(
    context: LanguageContext, objective: Objective, common: dict[str, Any], teacher: Any
) -> CrossRows:
    """Rows of groups that the student samples in training; the teacher scores their text in its own tokens."""
    tokenizer = context.models.teacher_tokenizer
    assert objective.across_vocabularies is not None
    assert tokenizer is not None
    stops = stop_token_ids(tokenizer, teacher.generation_config)
    own = OwnTokens(
        context.models.tokenizer,
        tokenizer,
        stop_ids=(context.models.numbers["stop_ids"], stops),
        context=context_length(teacher),
    )
    return CrossRows(
        across=objective.across_vocabularies,
        crossing=own.crossing(),
        own=own,
        foreign=LiveScores(teacher, pad_token_id=stops[0]),
        **common,
    )


def _say(rows: CrossRows, items: Sequence[Item], owns: Mapping[str, Item]) -> None:
    crossing, met, mass = rows.crossing, 0, []
    for at, item in enumerate(items):
        own = owns[item.id]
        meeting = crossing.meeting(item.response_ids, own.response_ids)
        met += len(meeting.student)
        if at < _LOOKED_AT and meeting.teacher:
            signal = {name: each[meeting.teacher] for name, each in rows.foreign.collate([own]).items()}
            scores = rows.foreign.scores(signal, vocabulary=len(crossing.teacher))
            assert scores is not None
            mass.append(shared_mass(scores, crossing).mean())
    share = met / sum(len(item.response_ids) for item in items)
    shown = float(torch.stack(mass).mean()) if mass else 0.0
    console.print(
        f"teacher with another vocabulary: it predicts at {share:.0%} of the student's tokens; "
        f"{len(crossing.student_ids):,} tokens are shared, with {shown:.1%} of its probability "
        f"(the other {1 - shown:.1%} is left out)",
        soft_wrap=True,
    )
