"""What a training needs beside this process: a folder, a tracker's package, and the hub; before anything is loaded."""

from pathlib import Path

from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from grkd.errors import UserError
from grkd.files import check_output
from grkd.hub import hub_errors
from grkd.imports import tracker_is_installed
from grkd.ranks import from_main


def check_services(args: TrainingArguments) -> None:
    """Raises UserError for an output_dir that cannot be written, a tracker that is not installed, and with push_to_hub
    for a hub that takes nothing.

    The repository is made, as transformers' Trainer does when its records have been read.
    """
    check_output(Path(str(args.output_dir)), "output_dir")
    for name in args.report_to or ():
        if name not in INTEGRATION_TO_CALLBACK:
            listed = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise UserError(f"report_to: unknown tracker {name[:60]!r}; known: none, {listed}")
        if not tracker_is_installed(name):
            raise UserError(f'report_to: {name} is not installed; pip install it, or set report_to="none"')
    if args.push_to_hub:
        from_main(lambda: _make_repository(args), "the hub")


def _make_repository(args: TrainingArguments) -> None:
    from huggingface_hub import HfApi

    name = args.hub_model_id or Path(str(args.output_dir)).absolute().name
    later = "set it to False, and give `grkd push` the student's folder later"
    with hub_errors("push_to_hub", name, out_of_reach=later):
        HfApi().create_repo(name, token=args.hub_token, private=args.hub_private_repo, exist_ok=True)
