"""Classifiers of every origin: built in, import paths, transformers; logits in the data's order of classes.

Over 300 lines: three origins of a classifier, each with its mistakes.
"""

import copy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from grkd.data.classification_batches import PadTokens, ProcessImages, stack_inputs, tokenise
from grkd.errors import UserError
from grkd.models.networks import build, is_transformers, load_weights, predict, scores
from grkd.models.transformers_classifiers import load_transformers_classifier

NAMES = ["card arrival", "lost-card", "top_up"]


def mistake(model: str, *, input_shape: tuple[int, ...] = (6,), classes: int = 3, **options: Any) -> str:
    with pytest.raises(UserError) as raised:
        build(model, input_shape=input_shape, classes=classes, options=options, seed=0)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


def test_which_models_are_of_transformers() -> None:
    names = {"mlp": False, "cnn": False, "package.module:factory": False, "bert-base-uncased": True, "./folder": True}
    assert {name: is_transformers(name) for name in names} == names


class TestBuiltIn:
    def test_an_mlp_is_its_formula(self) -> None:
        model = build("mlp", input_shape=(2, 3), classes=4, options={"hidden": [5]}, seed=0)
        first, second = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
        inputs = torch.randn(7, 2, 3)
        hidden = inputs.reshape(7, 6) @ first.weight.T + first.bias
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        torch.testing.assert_close(model(inputs), hidden @ second.weight.T + second.bias)
        assert sum(p.numel() for p in model.parameters()) == 6 * 5 + 5 + 5 * 4 + 4

    def test_hidden_may_be_empty_and_dropout_drops(self) -> None:
        linear = build("mlp", input_shape=(6,), classes=3, options={"hidden": []}, seed=0)
        assert sum(p.numel() for p in linear.parameters()) == 6 * 3 + 3
        model = build("mlp", input_shape=(6,), classes=3, options={"hidden": [64], "dropout": 0.5}, seed=0)
        assert model.training
        inputs = torch.randn(4, 6)
        assert not torch.equal(model(inputs), model(inputs))

    @pytest.mark.parametrize("input_shape", [(1, 8, 8), (3, 32, 32), (1, 1, 5)])
    def test_a_cnn_takes_images_of_any_size(self, input_shape: tuple[int, ...]) -> None:
        model = build("cnn", input_shape=input_shape, classes=5, options={"channels": [4, 6, 8, 8]}, seed=0)
        loss = model(torch.randn(2, *input_shape)).square().sum()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.ndim > 1)

    def test_a_cnn_learns_which_half_is_bright(self) -> None:
        model = build("cnn", input_shape=(1, 8, 8), classes=2, options={"channels": [8, 8]}, seed=0)
        images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.1
        labels = torch.arange(64) % 2
        images[labels == 0, :, :, 3] += 1  # a column against a row: no mean can tell
        images[labels == 1, :, 3, :] += 1
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        assert (model.eval()(images).argmax(-1) == labels).all()

    def test_the_seed_decides_and_the_global_state_is_left_alone(self) -> None:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        first, again, other = (
            parameters(build("mlp", input_shape=(6,), classes=3, options={}, seed=seed)) for seed in (1, 1, 2)
        )
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_mistakes(self) -> None:
        assert mistake("mlp", hiden=[3]) == "mlp: unknown option 'hiden'; known: hidden, dropout"
        assert "mlp: hidden must be a list of whole numbers of 1 or more, got 64" in mistake("mlp", hidden=64)
        assert "got [8, 0]" in mistake("mlp", hidden=[8, 0])
        assert "mlp: dropout must be in [0, 1), got 1" in mistake("mlp", dropout=1)
        assert "cnn: dropout must be in [0, 1), got 'x'" in mistake("cnn", input_shape=(1, 8, 8), dropout="x")
        assert "cnn: channels must not be empty" in mistake("cnn", input_shape=(1, 8, 8), channels=[])
        assert "needs images [channels, height, width], got inputs of shape (6,); use mlp" in mistake("cnn")
        with pytest.raises(UserError, match="mlp: classes comes from the data; remove it from options"):
            build("mlp", input_shape=(6,), classes=3, options={"classes": 4}, seed=0)


FACTORIES = """
import torch
from torch import nn

def linear(classes, input_shape, bias=True):
    return nn.Linear(input_shape[0], classes, bias=bias)

class Network(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(6, width)
    def forward(self, inputs):
        return self.layer(inputs)

class Tokens(nn.Module):
    def __init__(self, vocabulary, classes):
        super().__init__()
        self.table = nn.EmbeddingBag(vocabulary, classes, mode="sum")
    def forward(self, input_ids, attention_mask):
        return self.table(input_ids, per_sample_weights=attention_mask.float())

def anything(**options):
    return nn.Linear(6, options["out"])

def helped(classes):
    import helper_of_factories_under_test
    return nn.Linear(6, classes)

def a_list():
    return [1]

def fails():
    raise RuntimeError("no\\nluck")

def shape():
    return nn.Conv2d(1, 1, 1)

number = 3
"""


class TestImportPaths:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "factories_under_test.py").write_text(FACTORIES)
        (tmp_path / "helper_of_factories_under_test.py").write_text("")
        (tmp_path / "broken_under_test.py").write_text("import module_that_is_not_there\n")
        monkeypatch.chdir(tmp_path)
        for name in ("factories_under_test", "helper_of_factories_under_test"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        return tmp_path

    def test_factories_of_the_current_directory_get_what_they_name(self) -> None:
        before = list(sys.path)
        model = build("factories_under_test:linear", input_shape=(6,), classes=3, options={"bias": False}, seed=0)
        assert isinstance(model, nn.Linear)
        assert (model.weight.shape, model.bias) == ((3, 6), None)
        built = build("factories_under_test:Network", input_shape=(6,), classes=3, options={"width": 3}, seed=0)
        assert scores(built, torch.zeros(1, 6)).shape == (1, 3)
        assert build("factories_under_test:anything", input_shape=(6,), classes=3, options={"out": 3}, seed=0)
        assert build("factories_under_test:helped", input_shape=(6,), classes=3, options={}, seed=0)
        assert build("torch.nn:Identity", input_shape=(3,), classes=3, options={}, seed=0)
        assert sys.path == before

    def test_a_network_on_token_ids(self) -> None:
        model = build(
            "factories_under_test:Tokens", input_shape=(4,), classes=3, options={}, seed=0, vocabulary=10
        )  # fmt: skip
        table: Any = model.get_parameter("table.weight")
        found = scores(model, PadTokens(pad_id=5)([[5, 2, 3], [7]]))
        torch.testing.assert_close(found, torch.stack([table[5] + table[2] + table[3], table[7]]))

    def test_mistakes(self) -> None:
        here = "factories_under_test"
        assert mistake("nowhere.at_all:f").startswith("nowhere.at_all:f: there is no module 'nowhere', neither")
        assert "there is no module 'torch.nnn'" in mistake("torch.nnn:f")
        assert "importing broken_under_test failed: ModuleNotFoundError" in mistake("broken_under_test:f")
        assert f"{here}:nothing: {here} has no 'nothing'; it has: " in mistake(f"{here}:nothing")
        assert "an import path is 'package.module:Name'" in mistake(f"{here}:")
        assert "number: it is a int, it must be callable" in mistake(f"{here}:number")
        assert "gave a list, not an nn.Module" in mistake(f"{here}:a_list")
        assert "building it failed: RuntimeError: no luck" in mistake(f"{here}:fails")
        assert "unknown option 'depth'; known: bias" in mistake(f"{here}:linear", depth=3)
        assert "missing a required argument: 'width'; set it in options" in mistake(f"{here}:Network")
        wrong = mistake(f"{here}:Network", width=4)
        assert "gives scores of shape (2, 4) for 2 inputs, the data needs (2, 3)" in wrong
        assert "does not run on 2 inputs of shape (6,): RuntimeError" in mistake(f"{here}:shape")


class TestWeights:
    def test_they_come_back(self, tmp_path: Path) -> None:
        first, second = (build("cnn", input_shape=(1, 8, 8), classes=3, options={}, seed=seed) for seed in (0, 1))
        first(torch.randn(4, 1, 8, 8))  # moves the batch norms' means
        save_model(first, str(tmp_path / "w.safetensors"))
        load_weights(second, tmp_path / "w.safetensors")
        inputs = torch.randn(2, 1, 8, 8)
        assert torch.equal(first.eval()(inputs), second.eval()(inputs))

    def test_shared_weights_are_not_missing(self, tmp_path: Path) -> None:
        def tied(seed: int) -> nn.Module:
            model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
            nn.init.normal_(model[0].weight, generator=torch.Generator().manual_seed(seed))
            model[1].weight = model[0].weight
            return model

        first, second = tied(0), tied(1)
        save_model(first, str(tmp_path / "w.safetensors"))
        load_weights(second, tmp_path / "w.safetensors")
        assert torch.equal(parameters(first), parameters(second))

    @pytest.mark.parametrize(
        ("stored", "expected"),
        [
            ({"weight": (3, 6)}, "lacks bias"),
            (
                {"weight": (3, 6), "bias": (3,), "a": (1,), "b": (1,)},
                "has, unlike the model, a, b; it belongs to another model",
            ),
            ({"weight": (3, 5), "bias": (3,)}, "weight has shape (3, 5), the model's has (3, 6)"),
        ],
    )
    def test_mismatches(self, tmp_path: Path, stored: dict[str, tuple[int, ...]], expected: str) -> None:
        path = tmp_path / "w.safetensors"
        save_file({name: torch.ones(shape) for name, shape in stored.items()}, path)
        model = nn.Linear(6, 3)
        before = parameters(model).clone()
        with pytest.raises(UserError) as raised:
            load_weights(model, path)
        assert str(raised.value).startswith(f"{path}: ")
        assert expected in str(raised.value)
        assert "\n" not in str(raised.value)
        if "shape" in expected:
            assert torch.equal(parameters(model), before)

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such file of weights"):
            load_weights(nn.Linear(1, 1), tmp_path / "w.safetensors")
        (tmp_path / "w.safetensors").write_text("weights")
        with pytest.raises(UserError, match="not a safetensors file"):
            load_weights(nn.Linear(1, 1), tmp_path / "w.safetensors")


class TestScores:
    def test_every_kind_of_output(self) -> None:
        class Keywords(nn.Module):
            def forward(self, *, a: torch.Tensor, b: torch.Tensor) -> Any:
                return SimpleNamespace(logits=a + 2 * b)

        one = torch.ones(2, 3)
        assert torch.equal(scores(nn.Identity(), one), one)
        assert torch.equal(scores(Keywords(), {"a": one, "b": one}), 3 * one)
        with pytest.raises(ValueError, match=r"got shape \(2, 3, 1\)"):
            scores(nn.Identity(), one.unsqueeze(-1))

    def test_predict_is_one_forward_in_eval_mode(self) -> None:
        model = build("mlp", input_shape=(6,), classes=3, options={"dropout": 0.5}, seed=0)
        inputs = torch.randn(11, 6)
        found = predict(model, inputs, stack_inputs, batch_size=4)
        assert model.training
        torch.testing.assert_close(found, model.eval()(inputs).detach())


WORDS = ["[UNK]", "[CLS]", "[SEP]", "where", "is", "my", "card", "lost", "it", "[PAD]"]


def save_tokenizer(folder: Path, **special: str) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **special).save_pretrained(folder)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


def bert(folder: Path, names: list[str] | None, *, head: bool = True, **changes: Any) -> nn.Module:
    labels = (
        {} if names is None else {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    )
    config = BertConfig(
        vocab_size=10, max_position_embeddings=6, pad_token_id=9, initializer_range=1.0, **SMALL, **labels, **changes
    )
    torch.manual_seed(0)
    model = (BertForSequenceClassification if head else BertForMaskedLM)(config).eval()
    model.save_pretrained(folder)
    save_tokenizer(folder, pad_token="[PAD]")
    return model


def refused(model: str, names: list[str] = NAMES, **options: Any) -> str:
    with pytest.raises(UserError) as raised:
        load_transformers_classifier(model, class_names=names, kind="text", seed=0, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


class TestTransformersText:
    def test_logits_are_put_into_the_datas_order_by_name(self, tmp_path: Path) -> None:
        original = bert(tmp_path, ["Top up", "card_arrival", "Lost card"])
        model, tokenizer = load_transformers_classifier(str(tmp_path), class_names=NAMES, kind="text", seed=0)
        ids = tokenise(["where is my card", "it"], tokenizer, max_tokens=8)
        found = predict(model, ids, PadTokens(pad_id=tokenizer.pad_token_id), batch_size=2)
        for row, text in enumerate(ids):
            expected = original(input_ids=torch.tensor([text])).logits[0].tolist()
            by_name = dict(zip(["top_up", "card arrival", "lost-card"], expected, strict=True))
            assert found[row].tolist() == pytest.approx([by_name[name] for name in NAMES], abs=1e-5)

    def test_a_saved_model_keeps_its_own_order_and_loads_into_ours_again(self, tmp_path: Path) -> None:
        original = bert(tmp_path / "a", ["top_up", "card_arrival", "lost_card"])
        model, tokenizer = load_transformers_classifier(str(tmp_path / "a"), class_names=NAMES, kind="text", seed=0)
        model.save_pretrained(tmp_path / "b")  # type: ignore[operator]
        tokenizer.save_pretrained(tmp_path / "b")
        ids = {"input_ids": torch.tensor([[1, 3, 2]])}
        plain = BertForSequenceClassification.from_pretrained(tmp_path / "b").eval()
        torch.testing.assert_close(plain(**ids).logits, original(**ids).logits)
        again, _ = load_transformers_classifier(str(tmp_path / "b"), class_names=NAMES, kind="text", seed=0)
        torch.testing.assert_close(scores(again, ids), scores(model, ids))
        torch.testing.assert_close(scores(copy.deepcopy(model), ids), original(**ids).logits[:, [1, 2, 0]])

    def test_training_goes_through_the_order(self, tmp_path: Path) -> None:
        bert(tmp_path, ["top_up", "card_arrival", "lost_card"])
        model, _ = load_transformers_classifier(str(tmp_path), class_names=NAMES, kind="text", seed=0)
        scores(model, {"input_ids": torch.tensor([[1, 3, 2]])})[:, 0].sum().backward()
        assert model.get_parameter("classifier.bias").grad.tolist() == [0, 1, 0]  # type: ignore[union-attr]

    def test_unnamed_classes(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        original = bert(tmp_path, None, num_labels=3)
        ids = {"input_ids": torch.tensor([[1, 3, 2]])}
        model, _ = load_transformers_classifier(str(tmp_path), class_names=["2", "0", "1"], kind="text", seed=0)
        torch.testing.assert_close(scores(model, ids), original(**ids).logits[:, [2, 0, 1]])
        assert "no names" not in capsys.readouterr().err
        model, _ = load_transformers_classifier(str(tmp_path), class_names=NAMES, kind="text", seed=0)
        torch.testing.assert_close(scores(model, ids), original(**ids).logits)
        assert "no names" in " ".join(capsys.readouterr().err.split())

    def test_a_fresh_head_has_the_datas_classes(self, tmp_path: Path) -> None:
        original = bert(tmp_path, None, head=False)
        first, again, other = (
            load_transformers_classifier(str(tmp_path), class_names=NAMES, kind="text", seed=seed)[0]
            for seed in (0, 0, 1)
        )
        assert first.config.id2label == dict(enumerate(NAMES))  # type: ignore[union-attr]
        assert torch.equal(parameters(first), parameters(again))
        assert not torch.equal(parameters(first), parameters(other))
        name = "bert.encoder.layer.1.output.dense.weight"
        assert torch.equal(other.get_parameter(name), original.get_parameter(name))
        assert "has no classification head" in refused(str(tmp_path), needs_head=True)

    def test_another_number_of_classes_is_refused_unless_the_head_is_new(self, tmp_path: Path) -> None:
        bert(tmp_path, ["a", "b"])
        assert "was fine-tuned for 2 classes, the data has 3; " in refused(str(tmp_path))
        model, _ = load_transformers_classifier(str(tmp_path), class_names=NAMES, kind="text", seed=0, new_head=True)
        assert scores(model, {"input_ids": torch.tensor([[1, 3, 2]])}).shape == (1, 3)
        assert model.config.label2id == {name: i for i, name in enumerate(NAMES)}  # type: ignore[union-attr]

    def test_mistakes(self, tmp_path: Path) -> None:
        bert(tmp_path / "a", ["card arrival", "lost card", "refund"])
        assert "its classes (card arrival, lost card, refund) are not the data's; it has none for top_up" in refused(
            str(tmp_path / "a")
        )
        assert "no such folder" in refused(str(tmp_path / "absent"))
        assert "no such folder" in refused("./absent")
        (tmp_path / "empty").mkdir()
        assert f"{tmp_path / 'empty'}: cannot be loaded: " in refused(str(tmp_path / "empty"))
        model = BertForSequenceClassification.from_pretrained(tmp_path / "a")
        state = {name: value for name, value in model.state_dict().items() if not name.startswith("classifier.")}
        save_file(state, tmp_path / "a" / "model.safetensors", metadata={"format": "pt"})
        assert "its weights lack classifier.bias" in refused(
            str(tmp_path / "a"), ["card arrival", "lost card", "refund"]
        )

    def test_texts_are_cut_to_the_models_positions(self, tmp_path: Path) -> None:
        bert(tmp_path, NAMES)
        _, tokenizer = load_transformers_classifier(str(tmp_path), class_names=NAMES, kind="text", seed=0)
        assert tokenise(["where is my card where is my card"], tokenizer, max_tokens=128) == [[1, 3, 4, 5, 6, 2]]

    def test_a_decoder_without_padding_gives_the_same_alone_and_in_a_batch(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=10, n_positions=12, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2,
            initializer_range=1.0, id2label=dict(enumerate(NAMES)), label2id={n: i for i, n in enumerate(NAMES)},
        )  # fmt: skip
        GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
        save_tokenizer(tmp_path, eos_token="[SEP]")
        model, tokenizer = load_transformers_classifier(str(tmp_path), class_names=NAMES, kind="text", seed=0)
        assert tokenizer.pad_token_id == 2
        ids = tokenise(["where is my card", "lost it", "card"], tokenizer, max_tokens=8)
        prepare = PadTokens(pad_id=tokenizer.pad_token_id)
        together = predict(model, ids, prepare, batch_size=3)
        torch.testing.assert_close(together, predict(model, ids, prepare, batch_size=1))
        assert (together[0] - together[1]).abs().max() > 0.01


class TestTransformersImages:
    # One colour an image, so that no two ways of resizing differ.
    colours = torch.randint(0, 256, (5, 3, 1, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = colours.expand(5, 3, 24, 24)

    def save(self, folder: Path, *, mean: float = 0.5) -> None:
        ViTImageProcessor(
            size={"height": 16, "width": 16}, image_mean=[mean] * 3, image_std=[0.25] * 3
        ).save_pretrained(folder)

    def test_a_vit_with_its_own_size_and_mean(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        config = ViTConfig(
            image_size=16, patch_size=8, id2label={0: "b", 1: "a"}, label2id={"b": 0, "a": 1},
            initializer_range=0.5, **SMALL,
        )  # fmt: skip
        original = ViTForImageClassification(config).eval()
        original.save_pretrained(tmp_path)
        self.save(tmp_path, mean=0.3)
        model, processor = load_transformers_classifier(str(tmp_path), class_names=["a", "b"], kind="images", seed=0)
        found = predict(model, self.images, ProcessImages(processor=processor), batch_size=2)
        pixels = (self.colours.expand(5, 3, 16, 16) / 255 - 0.3) / 0.25
        expected = original(pixels).logits[:, [1, 0]].detach()
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        assert (expected[:, 0] - expected[:, 1]).abs().min() > 0.01

    def test_a_resnet_with_a_new_head(self, tmp_path: Path) -> None:
        config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=7)
        ResNetForImageClassification(config).save_pretrained(tmp_path)
        self.save(tmp_path)
        with pytest.raises(UserError, match="fine-tuned for 7 classes"):
            load_transformers_classifier(str(tmp_path), class_names=["a", "b"], kind="images", seed=0)
        model, processor = load_transformers_classifier(
            str(tmp_path), class_names=["a", "b"], kind="images", seed=0, new_head=True
        )
        found = predict(model, self.images[:, :1].float() / 255, ProcessImages(processor=processor), batch_size=2)
        assert found.shape == (5, 2)
        assert found.isfinite().all()
