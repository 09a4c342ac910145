"""A sound recipe on disk, and planted faults: what to change in it, and the check that must find it."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from grkd.data.chat import decode_response, encode_prompt
from grkd.data.prompts import Example
from grkd.models.generate import generate_responses
from tests.conftest import TEMPLATE

Record = dict[str, Any]
_PLAIN = "{% for m in messages %}w0 {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}w1 {% endif %}"
_THINKS = TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}{# <think></think> #}{% endif %}"


@dataclass
class World:
    """A language recipe on disk: folders teacher and student, train.jsonl, heldout.jsonl; words change the recipe."""

    folder: Path
    words: list[str] = field(default_factory=list)

    @property
    def student(self) -> Path:
        return self.folder / "student"

    def tokenizer(self, change: Callable[[Any], object], *sides: str) -> None:
        """Change the student's tokenizer, or that of these sides."""
        for side in sides or ("student",):
            made = AutoTokenizer.from_pretrained(self.folder / side)
            change(made)
            made.save_pretrained(self.folder / side)

    def set_tokenizer(self, *sides: str, **values: Any) -> None:
        def change(made: Any) -> None:
            for name, value in values.items():
                setattr(made, name, value)

        self.tokenizer(change, *sides)

    def weights(self, side: str, change: Callable[[Any], object]) -> None:
        model = AutoModelForCausalLM.from_pretrained(self.folder / side)
        with torch.no_grad():
            change(model)
        model.save_pretrained(self.folder / side)

    def config(self, **changes: Any) -> None:
        path = self.student / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def records(self, change: Callable[[int, Record], Record], *names: str) -> None:
        """Change every record of these files, of both without a name."""
        for name in names or ("train", "heldout"):
            path = self.folder / f"{name}.jsonl"
            found = [json.loads(line) for line in path.read_text().splitlines()]
            write(path, (change(number, record) for number, record in enumerate(found)))

    def recipe(self) -> Path:
        path = self.folder / "recipe.yaml"
        path.write_text(
            "task: language_model\noutput: run\ndevice: cpu\nteacher: {model: ./teacher}\nstudent: {model: ./student}\n"
            "data: {train: train.jsonl, heldout: heldout.jsonl}\nresponses: {source: data, max_new_tokens: 8}\n"
            "methods: [kd]\nseeds: [0, 1, 2]\ntraining: {epochs: 10, batch_size: 8}\nevaluation: {top_k: 5}\n"
        )
        return path


def write(path: Path, records: Iterable[Record]) -> None:
    lines = [json.dumps(record) + "\n" for record in records]
    path.write_text("".join(lines))


def answered(teacher: Path, folder: Path) -> None:
    """train.jsonl and heldout.jsonl: conversations that the teacher answers, at its own temperature."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(teacher), AutoTokenizer.from_pretrained(teacher)
    prompts = [f"w{n // 33} w{n % 33} w{(7 * n) % 33}" for n in range(70)]
    ids = [encode_prompt(tokenizer, Example(id=text, prompt=text)) for text in prompts]
    options: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "stop_ids": [0, 1, 2, 3], "pad_token_id": 0}
    answers = [
        answer
        for part in generate_responses(model.eval(), ids, max_new_tokens=7, seed=0, method="dynamic", **options)
        for answer in part
    ]
    texts = {answer.index: decode_response(tokenizer, answer.response_ids, {0, 1, 2, 3}) for answer in answers}
    records = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": texts[n]}]}
        for n, text in enumerate(prompts)
        if texts[n].strip()
    ]
    write(folder / "train.jsonl", records[:-30])
    write(folder / "heldout.jsonl", records[-30:])


Plant = Callable[[World], None]
LANGUAGE: dict[str, tuple[str, Plant]] = {}


def planted(name: str, check: str) -> Callable[[Plant], Plant]:
    """Register a fault under its name, with the check that finds it."""

    def keep(plant: Plant) -> Plant:
        LANGUAGE[name] = (check, plant)
        return plant

    return keep


def in_words(name: str, check: str, *words: str) -> None:
    """A fault that settings of the recipe alone make."""
    planted(name, check)(lambda world: world.words.extend(words))


def on_disk(name: str, check: str, plant: Callable[[World], object]) -> None:
    planted(name, check)(lambda world: (plant(world), None)[1])


on_disk("no chat template", "template", lambda world: (world.student / "chat_template.jinja").unlink())
on_disk(
    "another chat template",
    "template",
    lambda world: world.set_tokenizer(chat_template=TEMPLATE.replace("<turn> {{", "<turn> w0 {{")),
)
on_disk("stops at another token", "stop", lambda world: GenerationConfig(eos_token_id=7).save_pretrained(world.student))
on_disk(
    "padding beyond the head", "padding", lambda world: world.set_tokenizer("teacher", "student", pad_token="<new>")
)
on_disk(
    "tokens beyond the head",
    "head",
    lambda world: world.tokenizer(lambda one: one.add_tokens(["more"]), "teacher", "student"),
)
on_disk("padding of the config", "padding", lambda world: world.config(pad_token_id=7))
on_disk("thinks without thoughts", "thinking", lambda world: world.set_tokenizer(chat_template=_THINKS))


@planted("no stop token", "stop")
def _(world: World) -> None:
    world.set_tokenizer(eos_token=None, chat_template=_PLAIN)
    GenerationConfig().save_pretrained(world.student)


@planted("teacher ends otherwise", "stop")
def _(world: World) -> None:
    world.set_tokenizer(eos_token="w30", chat_template=_PLAIN)
    GenerationConfig(eos_token_id=36).save_pretrained(world.student)


@planted("BOS of the config", "bos")
def _(world: World) -> None:
    world.set_tokenizer(bos_token="w9")
    world.config(bos_token_id=5)


@planted("two BOS", "double bos")
def _(world: World) -> None:
    def change(one: Any) -> None:
        one.bos_token = "w9"
        one.chat_template = "w9 " + TEMPLATE
        number = one.convert_tokens_to_ids("w9")
        template = processors.TemplateProcessing(single="w9 $A", special_tokens=[("w9", number)])
        one.backend_tokenizer.post_processor = template

    world.tokenizer(change)


@planted("thinks longer than responses", "thinking")
def _(world: World) -> None:
    world.set_tokenizer(chat_template=_THINKS)
    world.words += ["responses.source=teacher", "responses.max_new_tokens=4"]


@planted("templated twice", "control tokens")
def _(world: World) -> None:
    def change(number: int, record: Record) -> Record:
        record["messages"][0]["content"] = f"<turn> user w{number % 30} <end>"
        return record

    world.records(change, "train")


@planted("held-out prompts in training", "overlap")
def _(world: World) -> None:
    (world.folder / "heldout.jsonl").write_text((world.folder / "train.jsonl").read_text())


@planted("nearly the same prompts", "near overlap")
def _(world: World) -> None:
    def change(_: int, record: Record) -> Record:
        record["messages"][0]["content"] = f" {record['messages'][0]['content'].upper()} ?"
        return record

    (world.folder / "heldout.jsonl").write_text((world.folder / "train.jsonl").read_text())
    world.records(change, "heldout")


@planted("the same prompt many times", "repeated prompts")
def _(world: World) -> None:
    lines = (world.folder / "train.jsonl").read_text().splitlines()
    (world.folder / "train.jsonl").write_text("\n".join([*lines, *lines[:10]]))


@planted("turns of tools that the template drops", "left out")
def _(world: World) -> None:
    dropping = TEMPLATE.replace("messages %}", "messages if m['role'] != 'tool' %}")
    world.set_tokenizer("teacher", "student", chat_template=dropping)

    def change(number: int, record: Record) -> Record:
        told = {"role": "tool", "content": f"w{number % 9} w8"}
        return {"messages": [*record["messages"][:1], told, *record["messages"][1:]]}

    world.records(change, "train")


@planted("one answer to everything", "same answers")
def _(world: World) -> None:
    def change(number: int, record: Record) -> Record:
        record["messages"][1]["content"] = "w5" if number % 2 else "w6"
        return record

    world.records(change)


def group(world: World, scores: list[float], *, odd_first: bool = False) -> None:
    """Groups of two: what the teacher said, and words that it would hardly say."""

    def change(number: int, record: Record) -> Record:
        asked, told = (message["content"] for message in record["messages"])
        odd = " ".join(f"w{(number + 5 * k) % 30}" for k in range(7))
        return {"prompt": asked, "responses": [odd, told] if odd_first else [told, odd], "teacher_scores": scores}

    world.records(change)
    world.words += ["responses.n=2", "methods=[dpo]"]


@planted("groups without an order", "tied groups")
def _(world: World) -> None:
    group(world, [1.0, 1.0])
    world.words.append("score.reward=data")


@planted("a ranker without an opinion", "rankers")
def _(world: World) -> None:
    LANGUAGE["groups without an order"][1](world)


@planted("rankers that contradict", "agreement")
def _(world: World) -> None:
    group(world, [1.0, 0.0], odd_first=True)
    world.words.append("score.rankers=[data, log_prob]")


in_words("the teacher itself", "same model", "student={model: TEACHER}")
in_words("teacher and student exchanged", "size", "student={model: TEACHER}", "teacher={model: STUDENT}")
on_disk(
    "weights that are no numbers",
    "weights",
    lambda world: world.weights("student", lambda model: model.model.norm.weight[3].fill_(torch.nan)),
)
on_disk(
    "a teacher that knows less",
    "teacher",
    lambda world: world.weights("teacher", lambda model: model.lm_head.weight.neg_()),
)
in_words("prompts over the limit", "long prompts", "data.max_prompt_tokens=3")
in_words("no room in the context", "long prompts", "responses.max_new_tokens=58")
in_words("answers over the limit", "cut answers", "responses.max_new_tokens=2")
in_words("too few steps", "steps", "training.epochs=1")
in_words("a rate that destroys", "learning rate", "training.learning_rate=0.1")
in_words("a rate below the precision", "precision", "student.dtype=bfloat16", "training.learning_rate=1e-6")
in_words("half precision", "precision", "student.dtype=float16")
in_words("responses without an end", "cut responses", "responses.source=teacher", "responses.max_new_tokens=2")
in_words(
    "responses that are all the same",
    "equal responses",
    *("responses.source=teacher", "responses.n=2", "responses.top_p=0.001", "methods=[dpo]"),
)
in_words("one seed", "seeds", "seeds=[0]")
in_words("a mistake", "recipe", "evaluation.top_k=1000")
in_words("few held-out prompts", "held out", "data.heldout=null", "data.heldout_fraction=0.1")
