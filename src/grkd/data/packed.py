"""Batches without padding: the sequences of a batch one after the other in one row, and how a model reads such a row.

    p p p r r | p r r r | p p r | . .        cu_seq_lens  0 5 9 12 14
                                             position_ids 0 1 2 3 4 0 1 2 3 0 1 2 0 1

A token attends to its own sequence alone: positions start anew, and attention is told where sequences begin, or finds
it in the positions. The row is filled up to a multiple of `MULTIPLE`, so that few shapes occur, by sequences that no
loss sees.

Responses to one prompt may share its copy. The first follows it; a later one is a sequence by itself, whose positions
go on from the prompt's and whose keys are the prompt's and its own:

    p p p r r | s s s | t            cu_seq_lens  0 5 8 9      position_ids 0 1 2 3 4 3 4 5 3
    p p p r r | p p p s s s | p p p t            cu_seq_lens_k 0 5 11 15   key_places 0 1 2 3 4 0 1 2 5 6 7 0 1 2 8
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from grkd.data.language import HeadInputs, Item, before_head, collate, forward_parameters, unwrapped

MULTIPLE = 256
# Names of attention implementations that read where sequences begin from arguments of the model's forward.
PACKED_ATTENTION = "grkd_packed_"
SHARING_ATTENTION = f"{PACKED_ATTENTION}shared_"  # of those that also read where the keys of each sequence lie
_SEGMENTS = 32  # cu_seq_lens is filled up to a multiple of this, plus one, by empty sequences


def pack(
    items: Sequence[Item], *, pad_token_id: int, multiple: int = MULTIPLE, shared: Sequence[bool] | None = None
) -> dict[str, Any]:
    """A batch of B items in one row of T tokens.

    shared: of each item, whether it shares the prompt of the item before; None: none does.

    input_ids, position_ids: int64 [1, T]; cu_seq_lens: int32, where sequences begin and the last one ends; longest: of
    a sequence, rounded up; predicts: int64 [N], the places whose logits predict the N response tokens, item by item;
    lengths: (prompt, response) of each item in tokens; sequences beyond them are filling. shared: as given; where any
    is, also cu_seq_lens_k int32, where the keys of each sequence begin, and key_places int64 [K], their places; what
    lies behind the last sequence's is filling.
    response_ids, response_mask, item_index: as of grkd.data.language.collate, where response_mask picks N tokens in the
    same order. labels: int64 [N], these tokens; picking them on a GPU would make the host wait for their number.
    Raises ValueError as collate does.
    """
    batch: dict[str, Any] = {
        name: value
        for name, value in collate(items, pad_token_id=pad_token_id).items()
        if name in ("response_ids", "response_mask", "item_index")
    }
    follows = [False] * len(items) if shared is None else list(shared)
    ids = [
        token
        for item, alone in zip(items, follows, strict=True)
        for token in (item.response_ids if alone else (*item.prompt_ids, *item.response_ids))
    ]
    lengths = [(len(item.prompt_ids), len(item.response_ids)) for item in items]
    batch["labels"] = torch.tensor([token for item in items for token in item.response_ids])
    return batch | _row(torch.tensor(ids), lengths, follows, pad_token_id, multiple)


def own_tokens(batch: Mapping[str, Any]) -> list[int]:
    """Tokens of each item of a packed batch that are its own: the response's, and the prompt's where it has a copy."""
    return _own(batch["lengths"], batch["shared"])


def _own(lengths: Sequence[tuple[int, int]], shared: Sequence[bool]) -> list[int]:
    return [
        response if follows else prompt + response for (prompt, response), follows in zip(lengths, shared, strict=True)
    ]


def _row(
    ids: Tensor, lengths: list[tuple[int, int]], shared: list[bool], pad_token_id: int, multiple: int
) -> dict[str, Any]:
    """What depends on where sequences lie, on the device of `ids`: made on the CPU, from lengths, without waiting."""
    own = _own(lengths, shared)
    longest, total = max(prompt + response for prompt, response in lengths), sum(own)
    filled = own + _filling(-total % multiple, longest)
    starts = list(accumulate(filled, initial=0))
    positions, predicts, keys = [torch.arange(length) for length in filled], [], []
    prompts = torch.arange(0)  # the places of the prompt that is shared now
    for number, ((prompt, response), follows) in enumerate(zip(lengths, shared, strict=True)):
        places = torch.arange(starts[number], starts[number + 1])
        if follows:
            positions[number] = positions[number] + prompt
            places = torch.cat([prompts, places])
        else:
            prompts = places[:prompt]
        predicts.append(places[prompt - 1 : prompt + response - 1])
        keys.append(places)
    empty = -len(filled) % _SEGMENTS
    made = {
        "position_ids": torch.cat(positions).unsqueeze(0),
        "cu_seq_lens": torch.tensor(starts + [starts[-1]] * empty, dtype=torch.int32),
        "predicts": torch.cat(predicts),
    }
    if any(shared):
        keys.append(torch.arange(total, starts[-1]))
        of_keys = list(accumulate([*map(len, keys[:-1]), *filled[len(lengths) :]], initial=0))
        found = torch.cat(keys)
        made["key_places"] = torch.nn.functional.pad(found, (0, -len(found) % multiple))  # few shapes here too
        made["cu_seq_lens_k"] = torch.tensor(of_keys + [of_keys[-1]] * empty, dtype=torch.int32)
    return {
        "input_ids": torch.nn.functional.pad(ids, (0, starts[-1] - total), value=pad_token_id).unsqueeze(0),
        **{name: value.to(ids.device, non_blocking=True) for name, value in made.items()},
        "longest": longest + -longest % multiple,
        "lengths": lengths,
        "shared": shared,
    }


# What else a batch of groups may hold, by what its rows are.
_OF_ITEMS = ("response_ids", "response_mask", "item_index")
_OF_GROUPS = ("group_mask", "ranked_mask", "teacher_scores", "vote_targets", "vote_weights", "reference")
_OF_ROW = ("input_ids", "position_ids", "cu_seq_lens", "predicts", "cu_seq_lens_k", "key_places")
_OF_TOKENS = ("labels", "token_offsets", "teacher_hidden", "teacher_top_k", "teacher_ranks", "sampled_log_probs")
GROUP_NUMBERS = "group_numbers"  # of a part: the groups' numbers in the whole batch


def part_of(
    batch: Mapping[str, Any], numbers: Sequence[int], *, pad_token_id: int, multiple: int = MULTIPLE
) -> dict[str, Any]:
    """A packed batch of the groups with these numbers. batch: packed, with group_sizes (items of each group)."""
    sizes, lengths, shared = batch["group_sizes"], batch["lengths"], batch["shared"]
    items = _ranges(sizes, numbers)
    tokens = _ranges([response for _, response in lengths], items)
    places = _ranges(_own(lengths, shared), items)
    device = batch["input_ids"].device
    of = {
        name: torch.tensor(which).to(device, non_blocking=True)
        for name, which in (("groups", numbers), ("items", items), ("tokens", tokens), ("places", places))
    }
    part: dict[str, Any] = {GROUP_NUMBERS: of["groups"], "group_sizes": [sizes[number] for number in numbers]}
    for rows, names in (("items", _OF_ITEMS), ("groups", _OF_GROUPS), ("tokens", _OF_TOKENS)):
        part |= {name: batch[name].index_select(0, of[rows]) for name in names if name in batch}
    part |= {name: batch[name].index_select(0, of["tokens"]) for name in _others(batch)}
    ids = batch["input_ids"][0].index_select(0, of["places"])
    part |= _row(ids, [lengths[item] for item in items], [shared[item] for item in items], pad_token_id, multiple)
    return {**{name: value for name, value in batch.items() if not isinstance(value, Tensor)}, **part}


def unshared(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """A packed batch in which every item has its own copy of the prompt: for a model that cannot share it.

    Response tokens keep their order.
    """
    if not any(batch["shared"]):
        return batch
    of_keys = [prompt + response for prompt, response in batch["lengths"]]
    ids = batch["input_ids"][0].index_select(0, batch["key_places"][: sum(of_keys)])
    kept = {name: value for name, value in batch.items() if name not in _OF_ROW}
    return kept | _row(ids, batch["lengths"], [False] * len(of_keys), pad_token_id=0, multiple=MULTIPLE)


def _others(batch: Mapping[str, Any]) -> list[str]:
    """Keys of what a teacher's signal has put into a batch: a row per response token.

    Raises ValueError for anything else, which must not be lost in silence.
    """
    known = {*_OF_ITEMS, *_OF_GROUPS, *_OF_TOKENS, *_OF_ROW, GROUP_NUMBERS}
    names = [name for name, value in batch.items() if isinstance(value, Tensor) and name not in known]
    tokens = sum(response for _, response in batch["lengths"])
    if unfit := [name for name in names if not batch[name].dim() or len(batch[name]) != tokens]:
        raise ValueError(f"a packed batch cannot be split: {', '.join(unfit)} has no row per response token")
    return names


def _ranges(sizes: Sequence[int], numbers: Sequence[int]) -> list[int]:
    """The places that the things with these numbers take, where thing i takes sizes[i] places."""
    starts = list(accumulate(sizes, initial=0))
    return [place for number in numbers for place in range(starts[number], starts[number + 1])]


def _filling(count: int, longest: int) -> list[int]:
    """Lengths of sequences that make up `count` tokens, none longer than the batch's longest."""
    return [longest] * (count // longest) + ([count % longest] if count % longest else [])


def is_packed(batch: Mapping[str, Any]) -> bool:
    """Whether a batch is one of `pack`."""
    return "cu_seq_lens" in batch


def bins(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Numbers of things of these sizes in as few bins of at most `budget` as a greedy pass finds, of about equal size.

    The largest first, each into the emptiest bin; inside a bin in their order. What is larger than the budget has a bin
    of its own.
    """
    order = sorted(range(len(sizes)), key=lambda number: -sizes[number])
    for count in range(max(1, -(-sum(sizes) // budget)), len(sizes) + 1):
        found: list[list[int]] = [[] for _ in range(count)]
        filled = [0] * count
        for number in order:
            emptiest = filled.index(min(filled))
            found[emptiest].append(number)
            filled[emptiest] += sizes[number]
        if all(total <= budget or len(bin) == 1 for total, bin in zip(filled, found, strict=True)):
            return sorted(sorted(bin) for bin in found if bin)
    return [[number] for number in range(len(sizes))]


def attention_of(model: nn.Module) -> str:
    """The name of a model's attention implementation."""
    config: Any = unwrapped(model).config
    return str(config.get_text_config(decoder=True)._attn_implementation)


def readable(model: nn.Module, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """The packed batch, with prompts shared only if the model's attention knows of it."""
    return batch if attention_of(model).startswith(SHARING_ATTENTION) else unshared(batch)


def packed_inputs(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What of a packed batch that is `readable` to the model goes into its forward.

    An attention of ours (grkd.models.packed_attention) is told where sequences begin. Others get no attention mask:
    transformers then makes a mask of blocks from positions that start anew.
    """
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "use_cache": False}
    if attention_of(model).startswith(PACKED_ATTENTION):
        ends = batch["cu_seq_lens"]
        # A mask of four dimensions is passed on as it is; our attention does not look at it.
        inputs["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ends.device)
        inputs |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": batch.get("cu_seq_lens_k", ends)}
        inputs |= {"max_length_q": batch["longest"], "max_length_k": batch["longest"]}
        if "key_places" in batch:
            inputs["key_places"] = batch["key_places"]
    return inputs


def packed_logits(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """The logits that predict each response token, [N, vocabulary], through the model's own forward."""
    batch = readable(model, batch)
    inputs = packed_inputs(model, batch)
    if "logits_to_keep" not in forward_parameters(model):
        every: Tensor = model(**inputs).logits
        return every[0].index_select(0, batch["predicts"])
    logits: Tensor = model(**inputs, logits_to_keep=batch["predicts"]).logits
    return logits[0]


def packed_hidden(model: nn.Module, batch: Mapping[str, Any]) -> HeadInputs | None:
    """As grkd.data.language.captured_hidden: hidden states [N, hidden] of the places that predict response tokens."""
    batch = readable(model, batch)
    cut = "logits_to_keep" in forward_parameters(model)
    found = before_head(
        model,
        lambda: model(**packed_inputs(model, batch), **({"logits_to_keep": batch["predicts"]} if cut else {})),
    )
    if found is None:
        return None
    hidden, head, softcap = found
    return hidden[0] if cut else hidden[0].index_select(0, batch["predicts"]), head, softcap


def packed_final_hidden(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """As grkd.teacher.signal.final_hidden: the body's hidden states [N, hidden]; the head is not called."""
    batch = readable(model, batch)
    hidden: Tensor = model.base_model(**packed_inputs(model, batch)).last_hidden_state
    return hidden[0].index_select(0, batch["predicts"])
