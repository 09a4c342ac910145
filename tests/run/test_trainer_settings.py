"""What is read from transformers' source is what its import shows."""

import dataclasses
from typing import get_args, get_type_hints

from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_reporting_integration_callbacks
from transformers.training_args import OptimizerNames

from grkd.run.trainer_settings import argument_types, trackers


def test_the_trackers_are_those_of_transformers() -> None:
    assert trackers() == set(INTEGRATION_TO_CALLBACK)
    assert len(get_reporting_integration_callbacks(sorted(trackers()))) == len(trackers())


def test_the_fields_and_their_plain_types_are_those_of_transformers() -> None:
    hints, found = get_type_hints(TrainingArguments), argument_types()
    assert set(found) == {field.name for field in dataclasses.fields(TrainingArguments)}
    plain = {name: kind for name, kind in found.items() if kind is not None}
    assert get_args(plain.pop("optim")) == tuple(optimiser.value for optimiser in OptimizerNames)
    assert plain == {name: hints[name] for name in plain}
    assert {"adam_beta2", "bf16", "hub_private_repo", "optim_target_modules"} <= plain.keys()
