"""Recipes are read strictly: every mistake is one line with the place, the key and what to change.

Over 300 lines: a table of broken recipes with the exact line for each.
"""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from grkd import objectives, recipe
from grkd.errors import UserError
from grkd.recipe import ClassifierRecipe, LanguageRecipe, Method

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted([*ROOT.glob("recipes/*.yaml"), *ROOT.glob("src/grkd/demo/*.yaml")])

MADE_BY_THE_USER = {"ultrafeedback.jsonl", "train.jsonl", "start.jsonl"}  # their recipes say how

CLASSIFIER = """\
task: classifier
output: runs/x
teacher: {model: mlp}
student: {model: mlp}
data: {dataset: digits}
methods: [kd, grkd]
training:
  learning_rate: 1e-4
"""
LANGUAGE = """\
task: language_model
output: runs/x
teacher: {model: org/teacher}
student: {layers: [0, 3]}
data: {train: prompts.jsonl}
methods: [kd, grkd]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str | bytes, *overrides: str) -> recipe.Recipe:
    path = Path("recipe.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return recipe.read(path, overrides)


def refusal(text: str | bytes, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        read(text, *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


CLASSIFIER_KEYS = [field.name for field in fields(ClassifierRecipe)]

# Text of CLASSIFIER to replace (None: add at the end), its replacement, the exact line.
BROKEN = [
    ("learning_rate", "learning_rat", ":8: training.learning_rat: unknown key; did you mean 'learning_rate'?"),
    ("1e-4", "fast", ":8: training.learning_rate: expected a number above 0 and of at most 1000, got 'fast'"),
    ("1e-4", "'3'", ":8: training.learning_rate: expected a number above 0 and of at most 1000, got '3'"),
    ("1e-4", "-1", ":8: training.learning_rate: expected a number above 0 and of at most 1000, got -1"),
    ("1e-4", "true", ":8: training.learning_rate: expected a number above 0 and of at most 1000, got true"),
    ("1e-4", ".nan", ":8: training.learning_rate: expected a number above 0 and of at most 1000, got nan"),
    ("1e-4", "1e999", ":8: training.learning_rate: expected a number above 0 and of at most 1000, got inf"),
    ("teacher: {model: mlp}\n", "", ": teacher: missing (expected a mapping with model)"),
    ("methods: [kd, grkd]\n", "", ": methods: missing (expected a list of methods, such as [kd, grkd])"),
    ("student: {model: mlp}", "student: {}", ":4: student.model: missing (expected text that is not empty)"),
    ("teacher", "teachr", ":3: teachr: unknown key; did you mean 'teacher'?"),
    ("task: classifier\n", "", ": task: missing (expected one of language_model, classifier, rank)"),
    (
        "classifier",
        "clasifier",
        ":1: task: expected one of language_model, classifier, rank, got 'clasifier'; did you mean 'classifier'?",
    ),
    (None, "learning_rate: 3", ":9: learning_rate: unknown key; did you mean 'training.learning_rate'?"),
    (None, "responses: {}", ":9: responses: unknown key; known: " + ", ".join(CLASSIFIER_KEYS)),
    (None, "  epochs: 10s\n  warmup: 1", ":9: training.epochs: expected a number above 0 and of at most 1e+06, got "
     "'10s'; line 10: training.warmup: expected a number of at least 0 and below 1, got 1"),
    (None, "  epochs: 2\n  steps: 9", ":10: training.steps: given together with epochs; keep one of the two"),
    (None, "  warmup: 1", ":9: training.warmup: expected a number of at least 0 and below 1, got 1"),
    (None, "  batch_size: 8.0", ":9: training.batch_size: expected a whole number of at least 1, got 8.0"),
    (None, "  gradient_checkpointing: yes", ":9: training.gradient_checkpointing: expected true or false or 'auto', "
     "got 'yes'"),
    (None, "  schedule: cosin", ":9: training.schedule: expected one of linear, cosine, constant, got 'cosin'; "
     "did you mean 'cosine'?"),
    (None, "  report_to: [5]", ":9: training.report_to: expected text or a list of texts, got [5]"),
    (None, "  extra: 5", ":9: training.extra: expected a mapping, got 5"),
    ("training:\n  learning_rate: 1e-4", "training:", ":7: training: expected a mapping with epochs, steps, batch_size,"
     " ..., got nothing"),
    ("dataset: digits", "dataset: digits, train: x",
     ":5: data: needs exactly one of dataset, train, image_folder; it has dataset and train"),
    ("dataset: digits", "limit: 3", ":5: data: needs exactly one of dataset, train, image_folder; it has none"),
    ("dataset: digits", "dataset: digits, heldout: x", ":5: data.heldout: belongs to data.train, which is not given"),
    ("student: {model: mlp", "student: {model: bert, weights: w",
     ":4: student.weights: only for built-in networks and factories; 'bert' has its own"),
    ("student: {model: mlp", "student: {model: mlp, training: {}",
     ":4: student.training: the student is trained as the recipe's own training says; move it there"),
    ("teacher: {model: mlp", "teacher: {model: mlp, training: {epochs: 1, steps: 1}",
     ":3: teacher.training.steps: given together with epochs; keep one of the two"),
    (None, "search: {steps_share: 0.5}",
     ":9: search.steps_share: of language models; for classifiers set lockstep.search_epochs"),
    (None, "seeds: []", ":9: seeds: expected at least one seed, got an empty list"),
    (None, "seeds: [1, 1]", ":9: seeds: expected different seeds, got [1, 1]"),
    (None, "seeds:\n- 0\n- a", ":11: seeds.1: expected a whole number of at least 0 and below 4294967296, got 'a'"),
    ("[kd, grkd]", "[]", ":6: methods: expected a list of methods, such as [kd, grkd], got an empty list"),
    ("[kd, grkd]", "kd", ":6: methods: expected a list of methods, such as [kd, grkd], got 'kd'"),
    ("[kd, grkd]", "[kd, 3]", ":6: methods.1: expected a method's name or a mapping with name, got 3"),
    ("[kd, grkd]", "[kd, {name: kd, temperature: 4}]",
     ":6: methods.1: the label 'kd' is that of methods.0 too; give each its own label"),
    ("[kd, grkd]", "[{name: grkd, pairs.tau: fast}]", ":6: methods.0.pairs.tau: expected a number, got 'fast'"),
    ("[kd, grkd]", "[{name: grkd, pairs.tau: -1}]", ":6: methods.0: grkd: pairs: tau must be above 0, got -1.0"),
    ("[kd, grkd]", "[{name: grkd, pairs.taus: 1}]", ":6: methods.0.pairs.taus: unknown key; did you mean 'pairs.tau'?"),
    ("[kd, grkd]", "[{name: grkd, pairs.target: sfot}]",
     ":6: methods.0: grkd: pairs: unknown target 'sfot' (did you mean 'soft'?); known: hard, soft, margin, or "
     "package.module:FORM of your own"),
    ("[kd, grkd]", "[{name: grkd, pairs.normalize: pair}]",
     ":6: methods.0.pairs.normalize: expected one of pairs, candidates, got 'pair'; did you mean 'pairs'?"),
    ("[kd, grkd]", "[{nme: grkd, tau: 1}]", ":6: methods.0.nme: unknown key; did you mean 'name'?"),
    (
        "[kd, grkd]",
        "[{name: kd, label: a/b}]",
        ":6: methods.0.label: expected letters, digits and any of . _ + - (it names a folder), got 'a/b'",
    ),
    ("[kd, grkd]", "[{name: kd, label: 3}]", ":6: methods.0.label: expected text, got 3"),
    (None, "output: y", ":9: output: the key appears twice, first in line 2"),
    (None, "  learning_rate: 1", ":9: training.learning_rate: the key appears twice, first in line 8"),
    (None, "1: 2", ":9: the key 1 is not text; put it in quotes"),
    (None, "\tepochs: 3", ":9: not valid YAML: a tab where YAML wants spaces"),
    (None, "title: a: b", ":9: not valid YAML: mapping values are not allowed here"),
    (None, "title: [a", ":10: not valid YAML: expected ',' or ']', but got '<stream end>'"),
    (None, "---\na: b", ":9: not valid YAML: expected a single document in the stream, but found another document"),
    (None, "title: \a", ":9: not valid YAML: character U+0007 is not allowed"),
    (None, "title: *x", ":9: not valid YAML: found undefined alias 'x'"),
    (None, "title: &a [*a]", ":9: title.0: an alias that contains itself"),
    (None, "title: !!int fast", ":9: title: not a value of type int"),
    (None, "title: !!python/name:os.system x",
     ":9: title: the tag !!python/name:os.system is not allowed in a recipe"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line"), BROKEN, ids=[line[:60] for _, _, line in BROKEN])
def test_a_broken_recipe_gets_one_exact_line(old: str | None, new: str, line: str) -> None:
    text = f"{CLASSIFIER}{new}\n" if old is None else CLASSIFIER.replace(old, new, 1)
    assert text != CLASSIFIER
    assert refusal(text) == f"recipe.yaml{line}"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("layers: [0, 3]", "", ":4: student: needs exactly one of model, layers, config; it has none"),
        (
            "layers: [0, 3]",
            "layers: [0], model: m",
            ":4: student: needs exactly one of model, layers, config; it has model and layers",
        ),
        ("[0, 3]", "[3, 0]", ":4: student.layers: expected rising numbers of layers, each once, got [3, 0]"),
        ("[0, 3]", "[0, 0]", ":4: student.layers: expected rising numbers of layers, each once, got [0, 0]"),
        ("[0, 3]", "[]", ":4: student.layers: expected rising numbers of layers, each once, got []"),
        ("[0, 3]", "[0, x]", ":4: student.layers.1: expected a whole number of at least 0, got 'x'"),
        ("[0, 3]", "[0], revision: main", ":4: student.revision: belongs to student.model, which is not given"),
        (
            "grkd]",
            "{name: grkd, pairs.group: all}]",
            ":6: methods.1: pairs: group: all pairs of a vocabulary do not fit into memory; "
            "use sample or top with a group_size",
        ),
        ("kd, grkd", "dpo", ":6: methods.0: dpo compares the responses of a prompt; set responses.n to 2 or more"),
        (
            "kd, grkd",
            "kd, {name: grkd, label: both, ranking: [{part: pairs}, {part: pairs, level: response}]}",
            ":6: methods.1: both compares the responses of a prompt; set responses.n to 2 or more",
        ),
        (
            "kd, grkd]",
            "seqkd]\nresponses: {source: student}",
            ":6: methods.0: seqkd is trained on responses from the teacher; set responses.source to teacher, or to a "
            "mixture with it",
        ),
        (
            "kd, grkd]",
            "sft]\nresponses: {source: mixture, n: 2, mixture: {teacher: 2}}",
            ":6: methods.0: sft is trained on responses from the data; set responses.source to data, or to a "
            "mixture with it",
        ),
    ],
)
def test_a_broken_language_recipe_gets_one_exact_line(old: str, new: str, line: str) -> None:
    assert refusal(LANGUAGE.replace(old, new, 1)) == f"recipe.yaml{line}"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", ": expected a mapping of keys (task, output, teacher, ...), got an empty file"),
        (b"# nothing\n", ": expected a mapping of keys (task, output, teacher, ...), got an empty file"),
        (b"- a\n", ": expected a mapping of keys (task, output, teacher, ...), got a list"),
        (b"\xff\xfe\x00", ", line 1: not UTF-8 (byte 0xff); save the file as UTF-8"),
        (b"[" * 1000, ":1: nested too deeply"),
    ],
)
def test_what_is_no_recipe_at_all_gets_one_exact_line(content: bytes, line: str) -> None:
    assert refusal(content) == f"recipe.yaml{line}"


def test_a_missing_file_and_a_folder_get_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match=r"^nope\.yaml: no such file; give the recipe's YAML file$"):
        recipe.read(Path("nope.yaml"))
    with pytest.raises(UserError, match=r"^\.: is a folder; give the recipe's YAML file$"):
        recipe.read(Path("."))


def test_numbers_are_those_of_yaml_1_2() -> None:
    found = read(
        CLASSIFIER + "  extra: {a: 1e-4, b: 1E3, c: .5, d: 2., e: no, f: '1e-4', g: -3, h: ~, i: True, j: 1:30}"
    )
    assert found.training.learning_rate == 1e-4
    assert found.training.extra == {
        "a": 1e-4, "b": 1000.0, "c": 0.5, "d": 2.0, "e": "no", "f": "1e-4", "g": -3, "h": None, "i": True, "j": "1:30",
    }  # fmt: skip


def test_anchors_and_merged_mappings_are_read() -> None:
    text = CLASSIFIER.replace("{model: mlp}", "{model: mlp, training: &t {epochs: 3, batch_size: 4}}", 1)
    found = read(text + "  <<: *t\n  batch_size: 5\n")
    assert (found.training.epochs, found.training.batch_size, found.training.learning_rate) == (3.0, 5, 1e-4)


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert read(b"\xef\xbb\xbf" + CLASSIFIER.encode()) == read(CLASSIFIER)


def test_methods_are_names_or_mappings_with_options() -> None:
    found = read(
        CLASSIFIER.replace("[kd, grkd]", "[kd, {name: grkd, label: soft-pairs, pairs.tau: 2, pairs.target: soft}]")
    )
    assert found.methods == [
        Method(name="kd", label="kd"),
        Method(name="grkd", label="soft-pairs", options={"ranking": [{"part": "pairs", "tau": 2.0, "target": "soft"}]}),
    ]
    assert isinstance(found.methods[1].options["ranking"][0]["tau"], float)


def test_group_all_is_fine_for_classes() -> None:
    found = read(CLASSIFIER.replace("[kd, grkd]", "[{name: grkd, pairs.group: all}]"))
    assert found.methods[0].options == {"ranking": [{"part": "pairs", "group": "all"}]}


def test_overrides_stand_for_keys_of_the_file() -> None:
    words = [
        "training.learning_rate=1e-3",
        "seeds=[0,1]",
        "methods.1.pairs.tau=0.5",
        "training.extra.optim=sgd",
        "title=a b",
    ]
    by_hand = CLASSIFIER.replace("1e-4", "1e-3\n  extra: {optim: sgd}").replace(
        "grkd]", "{name: grkd, pairs.tau: 0.5}]"
    )
    assert read(CLASSIFIER, *words) == read(by_hand + "seeds: [0, 1]\ntitle: a b\n")
    assert [method.name for method in read(CLASSIFIER, "methods=[kd,ce]").methods] == ["kd", "ce"]
    assert read(LANGUAGE, "student.layers=[0,5]").student.layers == [0, 5]
    assert read(LANGUAGE, "student.layers=null", "student.model=small").student.model == "small"
    assert read(LANGUAGE, "student.lora.r=4").student.lora == recipe.Lora(r=4)


def test_steps_on_the_command_line_take_the_place_of_epochs_in_the_file() -> None:
    assert read(CLASSIFIER + "  epochs: 3\n", "training.steps=7").training.steps == 7
    found = read(CLASSIFIER + "  steps: 7\n", "training.epochs=3").training
    assert (found.steps, found.epochs) == (None, 3.0)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["training.learning_rate=fast"],
            "training.learning_rate: expected a number above 0 and of at most 1000, got 'fast'",
        ),
        (["training.learning_rat=1"], "training.learning_rat: unknown key; did you mean 'learning_rate'?"),
        (["trainig.epochs=1"], "trainig: unknown key; did you mean 'training'?"),
        (["methods.0.tau=1"], "methods.0.tau: unknown key; known: temperature, t_squared, soft_weight, label_weight, "
         "standardize, teacher_temperature, name, label, rankers, combine"),
        (["methods.7.tau=1"], "methods: expected the number of an entry, 0 to 1, got '7'"),
        (["output.a=1"], "output: has no keys in it, it is 'runs/x'"),
        (["training=[1"], "not valid YAML: expected ',' or ']', but got '<stream end>'"),
        (["foo"], "expected key=value, such as training.epochs=3"),
        (["a..b=1"], "expected key=value, such as training.epochs=3"),
        (["training.epochs=2", "training.steps=3"], "training.steps: given together with epochs; keep one of the two"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_names_the_word(words: list[str], line: str) -> None:
    assert refusal(CLASSIFIER, *words) == f"{words[-1]} on the command line: {line}"


def test_a_key_of_another_kind_of_teacher_is_not_advised_in_its_own_place() -> None:
    word = "teacher={url: 'http://x', served_model: s, dtype: float32}"
    assert refusal(LANGUAGE, word) == (
        "teacher=... on the command line: teacher.dtype: unknown key; did you mean 'student.dtype'?"
    )


def test_a_path_starts_where_it_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    for name in ("sub/beside", "sub/mlp", "here"):
        (folder / name).mkdir(parents=True)
    path = folder / "sub" / "recipe.yaml"
    path.write_text(LANGUAGE.replace("org/teacher", "beside").replace("layers: [0, 3]", "model: ../up"))
    found = recipe.read(path, ["data.heldout=~/held.jsonl"])
    assert isinstance(found, LanguageRecipe)
    assert (found.teacher.model, found.student.model) == (str(folder / "sub/beside"), str(folder / "up"))
    assert (found.data.train, found.data.heldout) == (
        str(folder / "sub/prompts.jsonl"),
        str(folder / "home/held.jsonl"),
    )
    assert found.output == str(folder / "sub/runs/x")
    assert recipe.read(path, ["teacher.model=org/name"]).teacher.model == "org/name"
    given = recipe.read(path, ["output=out", "teacher={model: here}", "data.train=../a.jsonl"])
    assert isinstance(given, LanguageRecipe)
    assert (given.output, given.teacher.model) == (str(folder / "out"), str(folder / "here"))
    assert given.data.train == str(folder.parent / "a.jsonl")
    assert recipe.read(path, ["teacher.model=beside"]).teacher.model == "beside"  # no folder here: a hub name
    path.write_text(CLASSIFIER.replace("dataset: digits", "image_folder: photos") + "lockstep: {teachers: t}\n")
    images = recipe.read(path, ["teacher.weights=w.safetensors", "student.model=my.nets:small", "output=~/out"])
    assert isinstance(images, ClassifierRecipe)
    # "mlp" stays the built-in network although a folder of that name is there.
    assert (images.teacher.model, images.student.model) == ("mlp", "my.nets:small")
    assert images.teacher.weights == str(folder / "w.safetensors")
    assert (images.data.image_folder, images.output) == (str(folder / "sub/photos"), str(folder / "home/out"))
    assert images.lockstep.teachers == str(folder / "sub/t")


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("output=~nosuchuser/x", "output: there is no user 'nosuchuser'; write ./~nosuchuser"),
        ("teacher.weights=~nosuchuser", "teacher.weights: there is no user"),
        (f"output={'x' * 256}", "output: a file's name has at most 255 bytes"),
        (f"output=a/{'é' * 128}/b", "output: a file's name has at most 255 bytes"),
        ("output=s3://bucket/x", "output: expected a path, got a URL"),
        ("teacher.model=http://127.0.0.1:8000/v1", "teacher.model: expected a hub name or a folder, got a URL"),
    ],
)
def test_what_can_be_no_path_is_refused(folder: Path, word: str, part: str) -> None:
    message = refusal(CLASSIFIER, word)
    assert part in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("field", "part"),
    [
        ("output_dir: x", "grkd sets it; use output"),
        ("seed: 3", "grkd sets it; use seeds"),
        ("learning_rate: 1.0", "grkd sets it; use training.learning_rate"),
        ("save_strategy: 'no'", "cannot be set: checkpoints are grkd's own"),
        ("save_total_limit: 1", "cannot be set: checkpoints are grkd's own"),
        ("push_to_hub: true", "cannot be set: a run uploads nothing"),
        ("hub_model_id: a/b", "cannot be set: a run uploads nothing"),
        ("eval_strategy: steps", "cannot be set: the evaluation section"),
        ("bf16_full_eval: true", "cannot be set: the evaluation section"),
        ("ddp_backend: gloo", "cannot be set: the processes of a launch are connected before"),
        ("load_best_model_at_end: true", "cannot be set: grkd keeps the last step"),
        ("resume_from_checkpoint: x", "cannot be set: the same command resumes"),
    ],
)
def test_a_field_that_grkd_manages_is_refused_by_name(folder: Path, field: str, part: str) -> None:
    message = refusal(CLASSIFIER, f"training.extra={{{field}}}")
    assert f"training.extra.{field.partition(':')[0]}: {part}" in message
    assert message.endswith("above") or part in refusal(CLASSIFIER, f"teacher.training={{extra: {{{field}}}}}")


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("training.extra.hub_token=abc", "training.extra.hub_token"),
        ("training.extra={report: [{api_key: abc}]}", "training.extra.report.0.api_key"),
        ("teacher.options={Password: abc}", "teacher.options.Password"),
        ("title=hf_abcdefghijklmnopqrstuvwxyzABCDEF", "title"),
        ("teacher.model=https://me:abc@host/x", "teacher.model"),
    ],
)
def test_a_secret_is_refused_and_never_shown(folder: Path, word: str, key: str) -> None:
    assert refusal(CLASSIFIER, word) == (
        f"on the command line: {key}: looks like a secret, and a recipe is copied into the run's folder; "
        "set it as an environment variable"
    )
    assert "abc" not in refusal(CLASSIFIER + "  extra: {hub_token: abc}")


def test_words_about_tokens_are_no_secrets(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(CLASSIFIER)
    found = recipe.read(folder / "recipe.yaml", ["teacher.options={pad_token_id: 3, max_tokens: 4, token: null}"])
    assert isinstance(found, ClassifierRecipe)
    assert found.teacher.options["pad_token_id"] == 3


NESTED = "a0: &a0 [x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (NESTED, "more than 10,000 values; is there an alias of an alias?"),
        (MERGED, "more than 10,000 values"),
        ("".join(f"k{n}: 1\n" for n in range(20_000)), "more than 10,000 values"),
        (f"seeds: [{'1,' * 20_000}]\n", "more than 10,000 values"),
        ("# x\n" * 100_000, "400,152 characters, at most 262,144 are read"),
        ("".join(f"k{n}: 1\n" for n in range(1_000)), "k0: unknown key; known: "),
        ("x" * 900 + ": 1\n", "xxx...: unknown key"),
        ('title: "a\\0b"\n', "title: a NUL character"),
        ('title: "a\\ud83db"\n', "title: half of a surrogate pair"),
        ('"a\\0b": 1\n', "a NUL character"),
    ],
)
def test_what_is_no_recipe_ends_soon_in_one_line(folder: Path, text: str, part: str) -> None:
    message = refusal(CLASSIFIER + text)
    assert part in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("label", "part"),
    [
        ("before", "'before' stands for the student before training"),
        ("Teacher", "'Teacher' stands for the teacher"),
        ("x" * 101, "expected at most 100 characters (it names a folder), got 101"),
        ("a/" + "x" * 9_000, "expected letters, digits"),
    ],
)
def test_a_label_that_cannot_name_a_folder_or_names_another_is_refused(folder: Path, label: str, part: str) -> None:
    message = refusal(CLASSIFIER, f"methods=[{{name: kd, label: {label}}}]")
    assert f"methods.0.label: {part}" in message
    assert len(message) < 400


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_recipe_of_the_project_is_read_and_comes_back(path: Path) -> None:
    found = recipe.read(path)
    assert read(recipe.dump(found)) == found
    data = getattr(found.data, "train", None)
    assert data is None or Path(data).is_file() or Path(data).name in MADE_BY_THE_USER


def test_there_are_recipes_for_every_task() -> None:
    assert {recipe.read(path).task for path in EXAMPLES} == {"classifier", "language_model", "rank"}


def test_the_schema_knows_every_key_and_every_method() -> None:
    schema = json.loads(json.dumps(recipe.schema()))
    for section in (LanguageRecipe, ClassifierRecipe, recipe.Training, recipe.Student, recipe.ClassifierData):
        found = schema["$defs"][section.__name__]
        assert set(found["properties"]) == {field.name for field in fields(section)}
        assert found["additionalProperties"] is False
    by_word, *by_mapping = schema["$defs"]["Method"]["anyOf"]
    assert by_word["enum"] == objectives.names() == [form["properties"]["name"]["const"] for form in by_mapping]
    grkd = next(form for form in by_mapping if form["properties"]["name"]["const"] == "grkd")
    assert grkd["properties"]["pairs.tau"]["type"] == "number"
    assert grkd["properties"]["pairs.tau"]["description"] == "scale of score differences"
    assert grkd["properties"]["correlation.over"]["enum"] == ["candidates", "batch"]  # of the preset for classes


def test_rankers_belong_to_language_models(tmp_path: Path) -> None:
    text = "task: classifier\noutput: run\ndata: {dataset: digits}\nteacher: {model: mlp, training: {epochs: 1}}\n"
    path = tmp_path / "classes.yaml"
    path.write_text(text + "student: {model: mlp}\nmethods: [{name: kd, rankers: [log_prob]}]\n")
    with pytest.raises(UserError, match=r"methods.0.rankers: only for task: language_model"):
        recipe.read(path)
