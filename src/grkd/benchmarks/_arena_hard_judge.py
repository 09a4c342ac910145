"""Arena-Hard's files in the user's folder: the questions with the baseline's answers, and how the judge is asked."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from grkd.benchmarks._data_files import ComparedQuestion, filled, json_lines, spread
from grkd.endpoint.judge import Request
from grkd.errors import UserError
from grkd.files import file_digest, read_text

BASELINE = "gpt-4-0314"
BENCHMARK_JUDGE = "gpt-4-1106-preview"
STRONG = 3  # battles of a verdict "significantly better"
# Verdicts as the better side and the number of battles; the second form of each says the same.
VERDICTS = {
    **dict.fromkeys(("A>>B", "B<<A"), ("A", STRONG)),
    **dict.fromkeys(("A>B", "B<A"), ("A", 1)),
    **dict.fromkeys(("A=B", "B=A"), ("tie", 1)),
    **dict.fromkeys(("B>A", "A<B"), ("B", 1)),
    **dict.fromkeys(("B>>A", "A<<B"), ("B", STRONG)),
}

_WHERE = "get arena_hard/ (question.jsonl, model_answer/, judge_config.yaml) from lmarena/arena-hard-auto"
_WHERE_DATA = (
    "get arena_hard/ (question.jsonl, model_answer/gpt-4-0314.jsonl) from github.com/lmarena/arena-hard-auto, data/"
)
# The benchmark keeps its system prompt in its code; this one, in our words, asks for the same.
_OWN_SYSTEM_PROMPT = (
    "You compare two assistants' answers to a user's prompt, A and B, without favour to either. First answer the "
    "prompt yourself. Then hold both answers against yours, and name and correct what is wrong in them. Judge how "
    "helpful, relevant and concise each is: a helpful answer does what was asked, or asks back where the prompt can "
    "be read in more than one way; a relevant one keeps to the matter; a concise one has no padding. Count creativity "
    "where the prompt calls for it, and say what is missing. Their order and length must not sway you. Explain, then "
    "end with one label: [[A>>B]] if A is much better, [[A>B]] if slightly, [[A=B]] if they are about equal, [[B>A]] "
    "if B is slightly better, [[B>>A]] if much. For example: My verdict is [[A=B]]."
)


@dataclass(frozen=True, kw_only=True)
class JudgeProtocol:
    """How the judge is asked and read. own_prompt: why the system prompt is not the benchmark's (None: it is)."""

    system_prompt: str
    prompt_template: str
    patterns: tuple[re.Pattern[str], ...]
    judge_model: str
    max_tokens: int
    temperature: float
    own_prompt: str | None


def read_questions(data: Path, limit: int | None) -> list[ComparedQuestion]:
    """The questions with the baseline's answers, `limit` of them spread evenly over the file."""
    path, answers = data / "arena_hard" / "question.jsonl", data / "arena_hard" / "model_answer" / f"{BASELINE}.jsonl"
    questions, answered = json_lines(path, _WHERE_DATA), json_lines(answers, _WHERE_DATA)
    try:
        baseline = dict(map(_answer, answered))
    except (KeyError, TypeError, IndexError):
        raise UserError(f"{answers}: not the answers of {BASELINE}, one JSON object per line; {_WHERE_DATA}") from None
    items = []
    for number, row in enumerate(questions, start=1):
        name = row.get("uid", row.get("question_id"))
        question = row.get("prompt") or (row.get("turns") or [{}])[0].get("content")
        if name is None or question is None:
            raise UserError(f"{path}, question {number}: no uid or no prompt in it; {_WHERE_DATA}")
        if name not in baseline:
            raise UserError(f"{answers}: no answer to question {name}; {_WHERE_DATA}")
        items.append(ComparedQuestion(id=str(name), question=question, baseline=baseline[name], row=row))
    return spread(items, limit)


def _answer(row: dict[str, Any]) -> tuple[str, str]:
    """Id and text of an answer, in the benchmark's newer or older form."""
    if "uid" in row:
        content = row["messages"][-1]["content"]
        return row["uid"], content["answer"] if isinstance(content, dict) else content
    return row["question_id"], row["choices"][0]["turns"][0]["content"]


def read_protocol(data: Path, *, prompt: Path | None = None) -> JudgeProtocol:
    """The protocol of `data`/arena_hard/judge_config.yaml. Raises UserError for a file that is missing or unfit.

    Newer configurations have no system_prompt: then that of `prompt`, a text file, or ours stands in. A prompt that is
    given stands in for the configuration's too.
    """
    path = data / "arena_hard" / "judge_config.yaml"
    if not path.is_file():
        raise UserError(f"{path}: no such file; {_WHERE}, and name the folder above with --data")
    try:
        config = yaml.safe_load(read_text(path))
        template, system = config["prompt_template"], config.get("system_prompt")
        own = None if system else "the judge's configuration has no system_prompt, so grkd's own wording was used"
        if prompt is not None:
            system, own = _prompt(prompt), f"the judge's system prompt was {prompt.name}, SHA-256 {file_digest(prompt)}"
        patterns = config.get("regex_patterns") or [config["regex_pattern"]]
        return JudgeProtocol(
            system_prompt=system or _OWN_SYSTEM_PROMPT,
            prompt_template=template if isinstance(template, str) else template[0],
            patterns=tuple(re.compile(pattern) for pattern in patterns),
            judge_model=str(config.get("judge_model", BENCHMARK_JUDGE)),
            max_tokens=int(config.get("max_tokens", 4096)),
            temperature=float(config.get("temperature", 0)),
            own_prompt=own,
        )
    except UserError:
        raise
    except (yaml.YAMLError, re.error, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a judge's configuration ({' '.join(str(error).split())}); {_WHERE}") from None


def _prompt(path: Path) -> str:
    text = read_text(path, "the judge's system prompt (--judge-prompt)").strip()
    if not text:
        raise UserError(f"--judge-prompt {path}: nothing in it; give the judge's system prompt")
    return text


def judge_request(
    protocol: JudgeProtocol,
    question: str,
    baseline_answer: str,
    answer: str,
    *,
    game: int,
    id: str,
    max_tokens: int = 0,
) -> Request:
    """What the judge is asked about one question: in game 1 the baseline is assistant A, in game 2 the model.

    max_tokens: the protocol's where 0. Raises UserError for a template with a field that is unknown.
    """
    assert game in (1, 2), game
    first, second = (baseline_answer, answer) if game == 1 else (answer, baseline_answer)
    values = {"QUESTION": question, "ANSWER_A": first, "ANSWER_B": second}
    values |= {"question_1": question, "answer_1": first, "answer_2": second}
    source = "judge_config.yaml: prompt_template"
    return Request(
        id=id,
        messages=[
            {"role": "system", "content": protocol.system_prompt},
            {"role": "user", "content": filled(protocol.prompt_template, values, source=source, where=_WHERE)},
        ],
        max_tokens=max_tokens or protocol.max_tokens,
        temperature=protocol.temperature,
    )


def parse(judgement: str, *, protocol: JudgeProtocol) -> str | None:
    """The verdict's label, such as A>>B; None if there is none or where labels contradict each other.

    The first pattern with a match decides.
    """
    for pattern in protocol.patterns:
        labels = {match for match in pattern.findall(judgement) if match}
        if labels:
            label = labels.pop()
            return label if not labels and label in VERDICTS else None
    return None
