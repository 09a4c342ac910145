"""A packed step looks up its tokens, seeds and responses without asking the device, for which the host would wait."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from grkd import objectives
from grkd.data.packed import part_of
from grkd.training import LanguageRows
from grkd.training.groups_of_responses import response_rows
from grkd.training.rows import DRAW_SEED
from grkd.training.token_rows import OFFSETS, token_labels, token_seeds
from tests.training.test_packed import METHODS
from tests.training.test_trainer import PAD, grouped, ragged


def test_what_a_packed_step_looks_up_asks_the_device_nothing() -> None:
    """On the meta device, whose tensors have no values, asking how many entries a mask picks is an error."""
    rows = LanguageRows(pad_token_id=PAD, vocabulary=30, tokens_per_batch=10_000)
    batch = rows.collate(grouped(ragged(4))) | {DRAW_SEED: 1234}
    given = {name: value for name, value in batch.items() if name != OFFSETS}
    assert torch.equal(token_seeds(batch), token_seeds(given))  # type: ignore[arg-type]
    part = part_of(batch, [1, 3], pad_token_id=PAD)
    given = {name: value for name, value in part.items() if name != OFFSETS}
    assert torch.equal(token_seeds(part), token_seeds(given))  # type: ignore[arg-type]
    assert torch.equal(token_labels(part), part["response_ids"][part["response_mask"]])
    log_probs = torch.randn(len(batch["labels"]))
    found = response_rows(log_probs, batch)
    places = batch["group_mask"].flatten().nonzero().squeeze(-1)
    assert torch.equal(found.tokens.place, places.repeat_interleave(batch["response_mask"].sum(-1)))  # type: ignore

    far = {name: value.to("meta") if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    assert token_labels(far).shape == log_probs.shape
    assert token_seeds(far).shape == log_probs.shape  # type: ignore[union-attr]
    assert response_rows(log_probs.to("meta"), far).tokens.place.shape == log_probs.shape  # type: ignore[union-attr]
    assert rows.count(far) == rows.count(batch)


def test_the_gradient_of_responses_asks_the_device_nothing() -> None:
    """Of the operations of its forward and backward pass none has an output as large as a mask says."""

    class Operations(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: set[str] = set()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.add(str(func).split(".")[1])
            return func(*args, **(kwargs or {}))

    batch = LanguageRows(pad_token_id=PAD, vocabulary=30, tokens_per_batch=10_000).collate(grouped(ragged(4)))
    values = torch.randn(len(batch["labels"]), dtype=torch.float64, requires_grad=True)
    objective = objectives.load(*METHODS["responses"][:1], **METHODS["responses"][1])
    with Operations() as seen:
        found = response_rows(values, batch)
        objectives.combine(objective.terms(found), rows=torch.ones(())).backward()
    asking = {"masked_scatter_backward", "masked_select", "nonzero", "_local_scalar_dense", "masked_scatter"}
    assert "index_copy" in seen.names
    assert not seen.names & asking
    plain = torch.zeros(batch["response_mask"].shape, dtype=torch.float64)
    means = plain.masked_scatter(batch["response_mask"], values).sum(-1) / batch["response_mask"].sum(-1)
    assert torch.equal(found.student[batch["group_mask"]], means)
