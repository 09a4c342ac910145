"""The client of a recipe's served teacher."""

from grkd.endpoint.client import Endpoint
from grkd.endpoint.launch import budget_of
from grkd.recipe import ServedModel


def endpoint_of(spec: ServedModel) -> Endpoint:
    """The client, with this process's part of the budget.

    Raises UserError without the openai package, or a key that the URL needs.
    """
    return Endpoint(
        spec.url,
        spec.served_model,
        role="teacher",
        key_env=spec.key_env,
        timeout_seconds=spec.timeout_seconds,
        budget=budget_of(spec.max_requests),
    )
