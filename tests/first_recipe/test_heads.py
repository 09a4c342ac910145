"""`grkd init` with a fine-tuned teacher: its own head is kept where it has the data's classes."""

from pathlib import Path

from transformers import BertConfig, BertForSequenceClassification

from grkd import cli, recipe
from grkd.first_recipe.look import look
from grkd.recipe import ClassifierRecipe
from tests.conftest import word_tokenizer


def sorted_texts(path: Path) -> Path:
    """450 texts of three classes, the last of which begins behind the first 200 records."""
    path.write_text("text,label\n" + "".join(f"text {n},{'abc'[n // 150]}\n" for n in range(450)))
    return path


def test_a_head_with_the_classes_of_the_whole_file_is_kept(tmp_path: Path) -> None:
    data = sorted_texts(tmp_path / "sorted.csv")
    assert look(str(data)).classes == ["a", "b", "c"]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    names = dict(enumerate("CBA"))  # other capitals, another order
    heads = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    BertForSequenceClassification(BertConfig(vocab_size=40, **heads, **sizes)).save_pretrained(tmp_path / "bert")
    word_tokenizer().save_pretrained(tmp_path / "bert")
    path = tmp_path / "mine.yaml"
    assert cli.main(["init", str(data), "--teacher", str(tmp_path / "bert"), "--output", str(path)]) == 0
    written = recipe.read(path)
    assert isinstance(written, ClassifierRecipe)
    assert written.teacher.training is None
    assert "new_head" not in path.read_text()
