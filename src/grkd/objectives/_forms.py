"""Named forms of a method: options that go well together, found by the experiments in LOG.md."""

from collections.abc import Mapping
from typing import Any

from grkd.errors import UserError

FORMS: dict[str, dict[str, dict[str, Any]]] = {
    "grkd": {
        "paper": {},
        # Pairs as printed, held by soft targets at T = 2 until the end.
        "tokens": {"alpha_ceiling": 0.8, "temperature": 2.0, "t_squared": True},
        # At alpha = 1 nothing holds the tokens.
        "responses": {"level": "response", "alpha_ceiling": 0.5, "temperature": 2.0, "t_squared": True},
        # Soft targets first; then pairs as printed and, weighing more, groups of the batch's examples.
        "classes": {
            "pair_scale": 4.0,
            "across_relation": 32.0,
            "across_listwise": 64.0,
            "alpha_ceiling": 0.8,
            "soft_scale": 16.0,
            "t_squared": True,
        },
    }
}


def spelt_out(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A method's options with those of its `form` in place of that word; options that are given win.

    Raises UserError for an unknown form. Of a method that has none, `form` stays an option (an unknown one).
    """
    forms = FORMS.get(name)
    if forms is None or "form" not in options:
        return dict(options)
    form = options["form"]
    if not isinstance(form, str) or form not in forms:
        raise UserError(f"{name}: unknown form {form!r}; known: {', '.join(forms)}")
    return {**forms[form], **{option: value for option, value in options.items() if option != "form"}}
