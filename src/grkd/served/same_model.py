"""Whether a server's model is the one that it should be: its vocabulary, and a local forward pass of the same model."""

from collections.abc import Callable, Sequence
from typing import Any

from grkd.data.language import Item
from grkd.errors import UserError

_DIFFERENT = 0.2  # share of tokens that may read differently: decoders treat spaces and bytes in their own ways
_FEWEST = 2  # tokens that must differ


def check_vocabulary(tokenizer: Any, item: Item, texts: Sequence[str]) -> None:
    """Raises UserError if the server decodes a response's ids to other texts than this tokenizer.

    Spaces, tokens without a text and halves of characters are not compared.
    """
    compared, different = 0, []
    for token, text in zip(item.response_ids, texts, strict=True):
        own = str(tokenizer.decode([token])).strip(" \u2581")
        text = text.strip(" \u2581")
        if not own or not text or "\ufffd" in own + text:
            continue
        compared += 1
        if own != text:
            different.append((token, own, text))
    if len(different) >= _FEWEST and len(different) > _DIFFERENT * compared:
        token, own, text = different[0]
        raise UserError(
            f"teacher: token {token} is {text[:30]!r} to the server and {own[:30]!r} to the tokenizer here (response "
            f"{item.id}): another vocabulary; set teacher.tokenizer to that of the served model"
        )


def check_same_model(
    items: Sequence[Item],
    served: Sequence[float],
    local: Callable[[Sequence[Item]], list[float]] | None,
    *,
    tolerance_nats: float,
) -> None:
    """Compare mean log-probabilities, nats per token, with those of the model on this machine (None: it is not here).

    Raises UserError for a difference above the tolerance, naming what usually causes one.
    """
    if local is None:
        return
    own = local(items)
    differences = [abs(one - other) for one, other in zip(served, own, strict=True)]
    worst = max(range(len(items)), key=lambda at: differences[at])
    if not differences[worst] <= tolerance_nats:
        raise UserError(
            f"teacher: mean log-probability of {items[worst].id}: {served[worst]:.3f} nats per token from the server, "
            f"{own[worst]:.3f} from teacher.model here (tolerance_nats {tolerance_nats:g}). Usual causes: another "
            "model, revision or quantisation is served; a template or BOS is added; another vocabulary; prompts are cut"
        )
