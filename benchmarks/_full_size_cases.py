"""What benchmarks.full_size measures: a case is an implementation and its options."""

from dataclasses import dataclass, field
from typing import Any

from benchmarks._full_size_models import Lengths

RESPONSES: dict[str, Any] = {"ranking": [{"part": "pairs", "level": "response", "tau": 0.1}], "anchor": []}


@dataclass(frozen=True, kw_only=True)
class Case:
    """sequences: per optimiser step. per_prompt: responses that share a prompt.

    packed, compiled, recompute: how a step is made. kept_layers: the last ones, which are not recomputed. masters:
    float32 weights and bfloat16 autocast; otherwise weights are bfloat16. copies: of bfloat16 weights the optimiser
    keeps float32 copies. float8: the teacher's linear layers. cached: the teacher's hidden states are read, not
    computed. shares: in packed rows the responses of a prompt share its copy, where the kernel can.
    """

    runs: str  # grkd, trl, trl_gkd, trl_dpo, loop
    method: str = "grkd"
    options: dict[str, Any] = field(default_factory=dict)
    sequences: int = 16
    per_prompt: int = 1
    lengths: Lengths = field(default_factory=Lengths)
    packed: bool = False
    compiled: bool = False
    recompute: bool = True
    kept_layers: int = 0
    masters: bool = False
    copies: bool = False
    float8: bool = False
    cached: bool = False
    shares: bool = True
    against: str | None = None  # the peer that does the same work

    @property
    def teacher_runs(self) -> bool:
        """Whether the teacher's body runs in every step."""
        return self.by_token and not self.cached

    @property
    def by_token(self) -> bool:
        """Whether the loss reads the teacher's logits."""
        return self.per_prompt == 1


_TOKENS: dict[str, Any] = {"options": {"preset": "tokens"}}
_FAST: dict[str, Any] = {"packed": True, "compiled": True}
_VARIED = Lengths(varied=True)

# The more telling first: a sitting that is cut short keeps what it measured.
CASES = {
    "tokens": Case(runs="grkd", **_TOKENS, **_FAST, against="trl"),
    "trl": Case(runs="trl"),
    "tokens-varied": Case(runs="grkd", **_TOKENS, **_FAST, lengths=_VARIED, against="trl-varied"),
    "trl-varied": Case(runs="trl", lengths=_VARIED),
    "tokens-kept": Case(runs="grkd", **_TOKENS, **_FAST, recompute=False, against="trl-kept"),
    "trl-kept": Case(runs="trl", recompute=False),
    "cached": Case(runs="grkd", **_TOKENS, **_FAST, cached=True),
    "tokens-partly": Case(runs="grkd", **_TOKENS, **_FAST, kept_layers=4, against="trl"),
    "responses": Case(runs="grkd", options=RESPONSES, per_prompt=4, **_FAST, against="trl-dpo"),
    "responses-apart": Case(runs="grkd", options=RESPONSES, per_prompt=4, **_FAST, shares=False, against="trl-dpo"),
    "responses-kept": Case(runs="grkd", options=RESPONSES, per_prompt=4, **_FAST, recompute=False, against="trl-dpo"),
    "dpo": Case(runs="grkd", method="dpo", per_prompt=2, **_FAST, against="trl-dpo"),
    "trl-dpo": Case(runs="trl_dpo", method="dpo", per_prompt=2),
    "loop-compiled": Case(runs="loop", compiled=True),
    "loop": Case(runs="loop"),
    "tokens-padded": Case(runs="grkd", **_TOKENS, against="trl"),
    "tokens-packed": Case(runs="grkd", **_TOKENS, packed=True, against="trl"),
    "cached-kept": Case(runs="grkd", **_TOKENS, **_FAST, cached=True, recompute=False),
    "dpo-kept": Case(runs="grkd", method="dpo", per_prompt=2, **_FAST, recompute=False, against="trl-dpo"),
    "tokens-float8": Case(runs="grkd", **_TOKENS, **_FAST, float8=True, against="trl"),
    "tokens-masters": Case(runs="grkd", **_TOKENS, **_FAST, copies=True, against="trl"),
    "tokens-float32": Case(runs="grkd", **_TOKENS, **_FAST, masters=True, against="trl"),
    "tokens-varied-padded": Case(runs="grkd", **_TOKENS, lengths=_VARIED, against="trl-varied"),
    "trl-float32": Case(runs="trl", masters=True),
    "trl-gkd": Case(runs="trl_gkd", method="gkd", sequences=16),
}
