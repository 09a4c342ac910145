"""Fast forms of the losses. Each public function chooses between its Triton form (CUDA) and its torch form."""

from grkd.kernels._available import has_triton
from grkd.kernels.all_pairs import all_pairs
from grkd.kernels.draw_tokens import draw_tokens
from grkd.kernels.head import distillation_head
from grkd.kernels.pairs_head import pairs_head
from grkd.kernels.response_log_probs import selected_log_probs

__all__ = ["all_pairs", "distillation_head", "draw_tokens", "has_triton", "pairs_head", "selected_log_probs"]
