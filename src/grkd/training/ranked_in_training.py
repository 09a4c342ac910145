"""The rankers of a GRKDTrainer: `rankers`, or TRL's `reward_funcs`, opened for groups that are sampled in training."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from grkd.data.chat import decode_response
from grkd.data.language import Group
from grkd.errors import UserError
from grkd.objectives import Objective
from grkd.rankers import PER_GROUP, PER_RESPONSE, Panel, Resources, panel, reward_panel, weighted_members
from grkd.rankers.several import OneOfSeveral, for_each_teacher
from grkd.ranks import ranks
from grkd.training.fresh_groups import FreshGroups, Reference, orders
from grkd.training.given_teachers import Given
from grkd.training.grkd_config import GRKDConfig
from grkd.training.groups_file import GroupsFile
from grkd.training.groups_of_responses import evaluation_sets
from grkd.training.record_groups import RecordEncoder
from grkd.training.teacher_side import TeacherSide

# What a ranker may read of a group beside the record's own columns.
_KNOWN = {*PER_GROUP, *PER_RESPONSE} - {"group", "data_score"}


def checked_panel(
    rankers: Any,
    reward_funcs: Any,
    combine: str | None,
    args: GRKDConfig,
    objective: Objective,
    *,
    teachers: Sequence[Given] = (),
) -> Panel | None:
    """The rankers, not opened yet; None if there are none. Of several teachers each is asked, and they vote.

    rankers: entries of grkd.rankers.panel, one or a list, or a Panel. Raises UserError for rankers of a method that
    compares no responses and measures no score, both names at once, settings of rankers without any, and what
    grkd.rankers refuses.
    """
    if rankers is None and reward_funcs is None:
        if combine is not None or args.reward_weights is not None or "score" in (args.eval_metrics or ()):
            raise UserError("combine, reward_weights and eval_metrics: score belong to rankers; give rankers")
        if objective.on_policy and "response" in objective.levels:
            raise UserError(
                f"{args.method} learns from responses that it samples, and nothing ranks them; give rankers"
            )
        return None
    if rankers is not None and reward_funcs is not None:
        raise UserError("rankers and reward_funcs are two names of one argument; give one of them")
    if not orders(objective) and "score" not in (args.eval_metrics or ()):
        raise UserError(
            f"{args.method} compares no responses, so it asks no ranker; remove rankers, or measure by them: "
            "eval_metrics=['score']"
        )
    if reward_funcs is not None:
        return reward_panel(reward_funcs, weights=args.reward_weights, combine=combine or "sum")
    if isinstance(rankers, Panel):
        made = rankers
    else:
        several = [OneOfSeveral(label=each.name, weight=each.weight, only=each.only) for each in teachers]
        entries = list(rankers) if isinstance(rankers, list | tuple) else [rankers]
        entries = for_each_teacher(entries, several if len(several) > 1 else ())
        made = panel(entries, combine="votes" if len(several) > 1 else "weights")
    members = weighted_members(made.members, args.reward_weights, "rankers")
    return Panel(members, combine=combine or made.combine)


def fresh_groups(
    panel: Panel, sides: Sequence[TeacherSide], encode: RecordEncoder, args: GRKDConfig, *, reference: Reference | None
) -> FreshGroups:
    """The groups that the student samples in training, with the rankers opened. Raises UserError as rankers do."""
    rank, folder = ranks().process_index, Path(str(args.output_dir))
    batch_size = int(args.per_device_eval_batch_size)
    asked = [partial(side.asked_by_rankers, args.device, batch_size) for side in sides]
    labelled = zip((side.given.name for side in sides), asked, strict=True)
    panel.open(
        Resources(
            teacher=asked[0] if len(asked) == 1 else None,
            teachers=dict(labelled) if len(asked) > 1 else {},
            device=args.device,
            folder=folder / "rankers" / f"training-{rank}",
            batch_size=batch_size,
        )
    )
    stops, tokenizer = frozenset(encode.stop_ids), encode.tokenizer
    return FreshGroups(
        panel=panel,
        n=args.num_generations,
        stored_share=args.stored_share,
        decode=lambda ids: decode_response(tokenizer, ids, stops),
        reference=reference,
        file=GroupsFile(folder / "groups", rank=rank) if args.keep_groups else None,
        teachers=[side.model for side in sides],
        stop_ids=stops,
    )


def check_read(panel: Panel, trained: Iterable[Group] | None, sets: Any, asks: Callable[[Group], bool]) -> None:
    """Raises UserError for a column that a ranker reads and no record of a set has.

    Looked at are the training set, and evaluation sets some of whose groups rankers are asked about. trained: None:
    rankers are asked in evaluation alone. sets: one, or several by name.
    """
    asked: dict[str, Iterable[Group]] = {} if trained is None else {"train_dataset": trained}
    asked |= {where: groups for where, groups in evaluation_sets(sets).items() if any(map(asks, groups))}
    for where, groups in asked.items():
        has = {name for group in groups for name in group.columns or {}} - {"prompt"}
        panel.check_columns(has, _KNOWN, where=where, what="rankers")
