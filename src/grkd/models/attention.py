"""Attention that computes what the model's config says."""

from typing import Any

_WITHOUT_CAP = "sdpa"


def honour_softcap(model: Any) -> Any:
    """The model, in place, with an attention that applies its config's soft cap of attention scores.

    PyTorch's fused attention knows no cap; transformers 5.10 to 5.17 choose it for Gemma 2 and drop the cap silently.
    Models without a cap, and attention that was chosen to honour it, stay as they are.
    """
    config = model.config.get_text_config(decoder=True)
    if getattr(config, "attn_logit_softcapping", None) is not None and config._attn_implementation == _WITHOUT_CAP:
        model.set_attn_implementation("eager")
    return model
