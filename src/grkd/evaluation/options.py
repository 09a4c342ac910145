"""What `grkd eval` is asked to do."""

from dataclasses import dataclass
from pathlib import Path

from grkd.errors import UserError

JUDGED = ("alpaca_eval", "arena_hard", "mt_bench")
TASKS = ("gsm8k", *JUDGED, "rank", "exact_match")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command's words. limit: questions a task (None: all). max_requests, max_tokens: the judge's budget.

    judge_prompt: a text file with Arena-Hard's system prompt (None: that of the data, or our own).
    answer_tokens, judge_tokens: the longest answer and judgement (None: the benchmark's own).
    fewshot, chat: GSM8K's worked examples, and whether it goes through the chat template; 0 with it is zero-shot chat.
    """

    model: str | None = None
    tasks: tuple[str, ...] = ()
    data: Path | None = None
    output: Path = Path("runs/eval")
    limit: int | None = None
    model_name: str | None = None
    model_key_env: str | None = None
    judge: str | None = None
    judge_model: str | None = None
    judge_key_env: str | None = None
    concurrency: int = 4
    max_requests: int | None = None
    max_tokens: int | None = None
    timeout_seconds: float = 600.0
    answer_tokens: int | None = None
    judge_tokens: int | None = None
    judge_prompt: Path | None = None
    batch_size: int = 8
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    fewshot: int = 5
    chat: bool = False
    teacher: str | None = None
    prompts: Path | None = None
    questions: Path | None = None
    trust_remote_code: bool = False
    task: str | None = None
    from_annotations: Path | None = None
    from_battles: Path | None = None


def check(options: Options) -> None:
    """Raises UserError for words that do not fit together, before anything is loaded."""
    if options.model is None:
        raise UserError("eval: name the model: grkd eval MODEL --tasks mt_bench ... (a folder, a hub name or a URL)")
    if not options.tasks:
        raise UserError(f"eval: name the tasks: --tasks {','.join(TASKS)} (one or more)")
    for task in options.tasks:
        if task not in TASKS:
            raise UserError(f"--tasks: no task {task!r}; there are {', '.join(TASKS)}")
    judged = [task for task in options.tasks if task in JUDGED]
    if judged and (options.judge is None or options.judge_model is None):
        raise UserError(f"--tasks {judged[0]} needs a judge: --judge URL --judge-model NAME")
    if options.judge_prompt is not None and "arena_hard" not in options.tasks:
        raise UserError("--judge-prompt is the system prompt of arena_hard's judge, which is not among --tasks")
    needs_data = [task for task in options.tasks if task in (*JUDGED, "gsm8k")]
    if needs_data and options.data is None:
        raise UserError(
            f"--tasks {needs_data[0]} needs the benchmark's files: --data DIR, a folder with {needs_data[0]}/ in it"
        )
    if needs_data and options.data is not None and not options.data.is_dir():
        raise UserError(f"--data: no folder {options.data}; it holds {', '.join(f'{name}/' for name in needs_data)}")
    _check_numbers(options)


def _check_numbers(options: Options) -> None:
    for name in ("limit", "concurrency", "max_requests", "max_tokens", "answer_tokens", "judge_tokens", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be 1 or more, got {value}")
    if options.fewshot < 0:
        raise UserError(f"--fewshot must be 0 or more, got {options.fewshot}")
    if options.timeout_seconds <= 0:
        raise UserError(f"--timeout must be above 0 seconds, got {options.timeout_seconds}")
