"""The client of a recipe's served teacher."""

from grkd.endpoint.client import Endpoint
from grkd.endpoint.launch import Budgets
from grkd.recipe import ServedModel


def endpoint_of(spec: ServedModel, budgets: Budgets | None = None) -> Endpoint:
    """The client, with this process's part of the budget; budgets: of the command.

    Raises UserError without the openai package, or a key that the URL needs.
    """
    return Endpoint(
        spec.url,
        spec.served_model,
        role="teacher",
        key_env=spec.key_env,
        timeout_seconds=spec.timeout_seconds,
        budget=(budgets or Budgets()).of(spec.url, spec.served_model, spec.max_requests),
    )
