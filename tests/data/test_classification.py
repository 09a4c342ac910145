"""Labelled data: splits against scikit-learn, files written by hand, and one line for every mistake.

Over 300 lines: a table of files written by hand, with the line that each mistake must end in.
"""

import collections
import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader

from grkd.data import labelled_images
from grkd.data.classification import ClassificationData, digits
from grkd.data.classification_batches import (
    ClassificationDataset,
    Collate,
    PadTokens,
    ProcessImages,
    stack_inputs,
    tokenise,
)
from grkd.data.features import TfidfFeatures
from grkd.data.labelled_images import image_folder, read_image
from grkd.data.labelled_text import labelled_text
from grkd.data.splits import stratified_sample, stratified_split
from grkd.errors import UserError


def one_line(raised: pytest.ExceptionInfo[UserError]) -> str:
    message = str(raised.value)
    assert "\n" not in message
    return message


class TestSplits:
    labels = torch.from_numpy(np.random.default_rng(0).choice(5, 403, p=[0.5, 0.25, 0.15, 0.08, 0.02]))

    def test_each_class_gives_the_share_that_scikit_learn_gives(self) -> None:
        train, heldout = stratified_split(self.labels, 0.2, seed=3)
        _, expected = train_test_split(np.arange(403), test_size=81, stratify=self.labels.numpy(), random_state=3)
        assert sorted(train.tolist() + heldout.tolist()) == list(range(403))
        assert len(heldout) == round(0.2 * 403)
        ours = np.bincount(self.labels[heldout], minlength=5)
        theirs = np.bincount(self.labels[expected], minlength=5)
        assert np.abs(ours - theirs).max() <= 1
        assert ours.min() >= 1

    def test_the_seed_decides(self) -> None:
        first, again, other = (stratified_split(self.labels, 0.2, seed=seed)[1] for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_a_class_of_one_stays_in_training(self) -> None:
        train, heldout = stratified_split(torch.tensor([0] * 10 + [1]), 0.5, seed=0)
        assert 10 in train.tolist()
        assert len(heldout) == 6  # round(5.5), to even

    @pytest.mark.parametrize(
        ("labels", "fraction", "said"),
        [
            ([0, 0, 1], 0.1, "heldout_fraction"),
            ([0, 1, 2], 0.5, "none of 3 examples can be held out: no class has a second one"),
            ([0, 0], 1.0, "heldout_fraction"),
            ([0, 0], 0.0, "heldout_fraction"),
        ],
    )
    def test_a_split_that_holds_nothing_out_is_an_error(self, labels: list[int], fraction: float, said: str) -> None:
        with pytest.raises(UserError, match=said):
            stratified_split(torch.tensor(labels), fraction, seed=0)

    def test_a_sample_keeps_the_shares_and_every_class(self) -> None:
        sample = stratified_sample(self.labels, 40, seed=0)
        counts = np.bincount(self.labels[sample], minlength=5)
        exact = np.bincount(self.labels) * 40 / 403
        assert len(sample) == len(set(sample.tolist())) == 40
        assert np.abs(counts - exact).max() <= 1
        assert counts.min() >= 1
        assert np.bincount(self.labels[stratified_sample(self.labels, 5, seed=0)]).tolist() == [1] * 5

    def test_a_sample_larger_than_the_set_is_the_set_and_one_below_the_classes_an_error(self) -> None:
        assert stratified_sample(self.labels, 9999, seed=0).tolist() == list(range(403))
        with pytest.raises(UserError, match="limit 4 is below the 5 classes"):
            stratified_sample(self.labels, 4, seed=0)


class TestDigits:
    def test_pixels_labels_and_shapes(self) -> None:
        from sklearn.datasets import load_digits

        data = digits(heldout_fraction=0.2, seed=0)
        assert (data.kind, data.classes, data.input_shape) == ("features", 10, (64,))
        assert (len(data.train_labels), len(data.heldout_labels)) == (1438, 359)
        pixels, targets = load_digits(return_X_y=True)
        rows = {(tuple(row), target) for row, target in zip((pixels / 16).astype(np.float32), targets, strict=True)}
        for inputs, labels in ((data.train_inputs, data.train_labels), (data.heldout_inputs, data.heldout_labels)):
            assert all((tuple(row.numpy()), int(label)) in rows for row, label in zip(inputs, labels, strict=True))

    def test_as_images_keeps_the_pixels_in_rows(self) -> None:
        data = digits(heldout_fraction=0.2, seed=0)
        images = data.as_images()
        assert (images.kind, images.input_shape) == ("images", (1, 8, 8))
        assert images.train_inputs[7][0, 2, 3] == data.train_inputs[7][2 * 8 + 3]
        with pytest.raises(ValueError, match="no square images"):
            images.as_images()

    def test_limit_takes_from_the_training_part_only(self) -> None:
        whole, some = digits(heldout_fraction=0.2, seed=0), digits(heldout_fraction=0.2, seed=0).limited(100, seed=0)
        assert torch.equal(whole.heldout_inputs, some.heldout_inputs)
        assert len(some.train_labels) == 100
        assert np.bincount(some.train_labels).min() >= 9
        known = {tuple(row.tolist()) for row in whole.train_inputs}
        assert all(tuple(row.tolist()) in known for row in some.train_inputs)


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8", newline="")
    return path


CSV = 'text,label\nred apple,fruit\n"a ""big"", green\npear", fruit\ncarrot,root\nturnip,root\nbeet,root\n'


class TestLabelledText:
    def test_csv_with_quotes_line_breaks_and_a_byte_order_mark(self, tmp_path: Path) -> None:
        train = write(tmp_path / "a.CSV", "\ufeff" + CSV)
        data = labelled_text(train, write(tmp_path / "b.csv", "label,text\nroot,onion\n"), heldout_fraction=0.1, seed=0)
        assert data.train_inputs == ["red apple", 'a "big", green\npear', "carrot", "turnip", "beet"]
        assert data.train_labels.tolist() == [0, 0, 1, 1, 1]
        assert (data.class_names, data.kind, data.input_shape) == (["fruit", "root"], "text", ())
        assert (data.heldout_inputs, data.heldout_labels.tolist()) == (["onion"], [1])

    def test_tsv_and_jsonl_and_other_columns(self, tmp_path: Path) -> None:
        rows = [{"q": f"text {i}\u2028x", "intent": i % 11, "more": None} for i in range(33)]
        lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        train = write(tmp_path / "a.jsonl", lines)
        heldout = write(tmp_path / "b.tsv", "q\tintent\na, b\t10\n")
        data = labelled_text(train, heldout, text="q", label="intent", heldout_fraction=0.1, seed=0)
        assert data.class_names == [str(i) for i in range(11)]  # as numbers: 10 after 9
        assert data.train_labels.tolist() == [i % 11 for i in range(33)]
        assert data.train_inputs[3] == "text 3\u2028x"
        assert (data.heldout_inputs, data.heldout_labels.tolist()) == (["a, b"], [10])

    def test_split_and_limit(self, tmp_path: Path) -> None:
        train = write(tmp_path / "a.csv", "text,label\n" + "".join(f"t{i},{'ab'[i % 2]}\n" for i in range(100)))
        data = labelled_text(train, heldout_fraction=0.2, seed=0).limited(10, seed=0)
        assert np.bincount(data.heldout_labels).tolist() == [10, 10]
        assert np.bincount(data.train_labels).tolist() == [5, 5]
        assert not set(data.train_inputs) & set(data.heldout_inputs)
        for text, label in zip(data.train_inputs, data.train_labels, strict=True):
            assert int(text[1:]) % 2 == label

    @pytest.mark.parametrize(
        ("name", "content", "expected"),
        [
            ("a.csv", "txt,label\nx,a\n", "line 1: no column 'text' (did you mean 'txt'?); found: txt, label"),
            ("a.csv", "text,text,label\nx,y,a\n", "line 1: more than one column 'text'"),
            ("a.csv", "text,label\nx,a\n  ,b\n", "line 3: 'text' is empty"),
            ("a.csv", 'text,label\n"x\ny",a\nz,\n', "line 4: 'label' is empty"),
            ("a.csv", "text,label\nx,a\ny, z,b\n", "line 3: 3 fields, the header has 2"),
            ("a.csv", "text,label\nx,a\ny\n", "line 3: 1 fields, the header has 2"),
            ("a.csv", 'text,label\nx,a\n"y"z,b\n', "line 3: malformed row"),
            ("a.csv", 'text,label\nx,a\n"y,b\nz,c\n', "line 3: malformed row"),
            ("a.csv", "", "no examples in it"),
            ("a.csv", "text,label\n\n", "no examples in it"),
            ("a.csv", "text,label\nx,a\ny,a \n", "every 'label' is 'a'"),
            ("a.txt", "text,label\nx,a\n", "unknown kind of file '.txt'; use .csv, .tsv or .jsonl"),
            ("a.jsonl", '{"text": "x", "label": 1}\n{"text": "x"}\n', "line 2: no column 'label'; found: text"),
            ("a.jsonl", '{"text": "x", "label": 1}\n\n{"text": \n', "line 3: not JSON"),
            ("a.jsonl", "[1]\n", "line 1: expected an object with 'text' and 'label'"),
            ("a.jsonl", '{"text": 3, "label": 1}\n', "line 1: 'text' must be a string, got 3"),
            (
                "a.jsonl",
                '{"text": "x", "label": true}\n',
                "line 1: 'label' must be a string or a whole number, got true",
            ),
            ("a.jsonl", '{"text": "x", "label": null}\n', "line 1: 'label' must be a string or a whole number"),
            ("a.jsonl", "", "no examples in it"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, name: str, content: str, expected: str) -> None:
        path = write(tmp_path / name, content)
        with pytest.raises(UserError) as raised:
            labelled_text(path, heldout_fraction=0.5, seed=0)
        assert one_line(raised).startswith(str(path))
        assert expected in str(raised.value)

    def test_bytes_that_are_not_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_bytes("text,label\nx,a\ncaf\xe9,b\n".encode("latin-1"))
        with pytest.raises(UserError) as raised:
            labelled_text(path, heldout_fraction=0.5, seed=0)
        assert "line 3: not UTF-8 (byte 0xe9); save the file as UTF-8" in one_line(raised)

    def test_equal_texts_stay_on_one_side_and_what_is_shared_is_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = "".join(f"w{n % 10}{' ' * (n % 2)},{'ab'[n % 2]}\n" for n in range(40))
        train = write(tmp_path / "a.csv", "text,label\n" + rows + "w0,b\n")
        data = labelled_text(train, heldout_fraction=0.2, seed=0)
        held = {text.strip() for text in data.heldout_inputs}
        assert len(held) == 2
        assert len(data.heldout_inputs) in (8, 9)
        assert held.isdisjoint({text.strip() for text in data.train_inputs})
        assert len(data.train_inputs) + len(data.heldout_inputs) == 41
        labelled_text(train, write(tmp_path / "b.csv", "text,label\nw1,b\nnew,a\n"), heldout_fraction=0.1, seed=0)
        said = capsys.readouterr().err
        assert "1 of 2 held-out texts are also in the training data" in said
        assert "1 of 10 training texts have several labels" in said

    def test_a_heldout_label_that_training_does_not_have(self, tmp_path: Path) -> None:
        train, heldout = write(tmp_path / "a.csv", CSV), write(tmp_path / "b.csv", "text,label\nx,root\ny,roots\n")
        with pytest.raises(UserError) as raised:
            labelled_text(train, heldout, heldout_fraction=0.1, seed=0)
        assert f"{heldout}, line 3: no training example has the label 'roots' (did you mean 'root'?)" in one_line(
            raised
        )

    def test_a_file_that_is_absent(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such file"):
            labelled_text(tmp_path / "a.csv", heldout_fraction=0.5, seed=0)


def save_image(path: Path, colour: object, *, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)  # type: ignore[arg-type]


def folder_of_images(root: Path, count: int = 10) -> Path:
    for i in range(count):
        save_image(root / "red" / f"{i}.PNG", (200 + i, 0, 0))
        save_image(root / "blue" / "more" / f"{i}.png", (0, 0, 200 + i))
    write(root / "red" / "notes.txt", "no image")
    (root / ".hidden").mkdir()
    return root


class TestImageFolder:
    def test_one_folder_a_class_is_split(self, tmp_path: Path) -> None:
        data = image_folder(folder_of_images(tmp_path), image_size=4, heldout_fraction=0.2, seed=0)
        assert (data.class_names, data.kind, data.input_shape) == (["blue", "red"], "images", (3, 4, 4))
        assert isinstance(data.train_inputs, torch.Tensor)
        assert data.train_inputs.dtype == torch.uint8
        assert np.bincount(data.heldout_labels).tolist() == [2, 2]
        inputs = torch.cat([data.train_inputs, data.heldout_inputs])
        labels = torch.cat([data.train_labels, data.heldout_labels])
        seen = sorted((int(label), *image[:, 0, 0].tolist()) for image, label in zip(inputs, labels, strict=True))
        assert seen == [(0, 0, 0, 200 + i) for i in range(10)] + [(1, 200 + i, 0, 0) for i in range(10)]

    def test_train_and_heldout_folders(self, tmp_path: Path) -> None:
        folder_of_images(tmp_path / "train", 3)
        save_image(tmp_path / "heldout" / "red" / "x.bmp", (9, 9, 9))
        data = image_folder(tmp_path, image_size=4, heldout_fraction=0.2, seed=0, limit=4)
        assert np.bincount(data.train_labels).tolist() == [2, 2]
        assert data.heldout_labels.tolist() == [1]
        assert data.heldout_inputs[0].unique().tolist() == [9]

    def test_files_above_the_memory_bound_are_read_when_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder_of_images(tmp_path)
        whole = image_folder(tmp_path, image_size=4, heldout_fraction=0.2, seed=0)
        monkeypatch.setattr(labelled_images, "_IN_MEMORY_BYTES", 100)
        lazy = image_folder(tmp_path, image_size=4, heldout_fraction=0.2, seed=0)
        assert isinstance(lazy.train_inputs, labelled_images.ImageFiles)
        assert all(torch.equal(a, b) for a, b in zip(lazy.train_inputs, whole.train_inputs, strict=True))

    def test_limit_leaves_other_files_unopened(self, tmp_path: Path) -> None:
        folder_of_images(tmp_path / "train", 4)
        save_image(tmp_path / "heldout" / "red" / "x.png", (9, 9, 9))
        data = image_folder(tmp_path, image_size=4, heldout_fraction=0.5, seed=0, limit=2)
        kept = {int(image.amax()) - 200 for image in data.train_inputs}
        for name in ("red", "blue/more"):
            for i in set(range(4)) - kept:
                for suffix in ("PNG", "png"):
                    path = tmp_path / "train" / name / f"{i}.{suffix}"
                    if path.exists():
                        path.write_bytes(b"broken")
        again = image_folder(tmp_path, image_size=4, heldout_fraction=0.5, seed=0, limit=2)
        assert torch.equal(again.train_inputs, data.train_inputs)

    def test_the_centre_of_a_wide_image_is_taken(self, tmp_path: Path) -> None:
        image = np.zeros((4, 12, 3), dtype=np.uint8)
        image[:, 4:8] = 255
        Image.fromarray(image).save(tmp_path / "wide.png")
        assert read_image(tmp_path / "wide.png", 4).unique().tolist() == [255]

    @pytest.mark.parametrize(
        ("mode", "colour", "expected"),
        [("L", 77, [77] * 3), ("RGBA", (1, 2, 3, 0), [1, 2, 3]), ("1", 1, [255] * 3), ("I;16", 256 * 90 + 7, [90] * 3)],
    )
    def test_other_modes_become_rgb(self, tmp_path: Path, mode: str, colour: object, expected: list[int]) -> None:
        save_image(tmp_path / "x.png", colour, mode=mode)
        assert read_image(tmp_path / "x.png", 4)[:, 1, 1].tolist() == expected

    @pytest.mark.parametrize(("mode", "colour"), [("F", 0.5), ("I", 200)])
    def test_pixels_of_32_bits_are_refused(self, tmp_path: Path, mode: str, colour: float) -> None:
        """They came out black, whatever their scale."""
        Image.new(mode, (8, 8), colour).save(tmp_path / "x.tiff")
        with pytest.raises(UserError, match=r"x\.tiff: cannot be read as an image \(its pixels have 32 bits"):
            read_image(tmp_path / "x.tiff", 4)

    def test_a_palette_with_transparency_raises_no_warning(self, tmp_path: Path) -> None:
        image = Image.new("P", (8, 8), 1)
        image.putpalette([0, 0, 0, 10, 20, 30])
        image.save(tmp_path / "x.png", transparency=b"\x00\x80")
        assert read_image(tmp_path / "x.png", 4)[:, 1, 1].tolist() == [10, 20, 30]

    def test_a_photograph_is_turned_as_its_exif_says(self, tmp_path: Path) -> None:
        pixels = np.zeros((4, 4, 3), dtype=np.uint8)
        pixels[0] = 255  # a bright first row; orientation 6 turns it into the last column
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
        assert read_image(tmp_path / "x.png", 4)[0].tolist() == [[0, 0, 0, 255]] * 4

    def test_a_broken_file_is_named(self, tmp_path: Path) -> None:
        folder_of_images(tmp_path)
        path = tmp_path / "red" / "5.PNG"
        path.write_bytes(path.read_bytes()[:40])
        with pytest.raises(UserError) as raised:
            image_folder(tmp_path, image_size=4, heldout_fraction=0.2, seed=0)
        assert one_line(raised).startswith(f"{path}: cannot be read as an image")

    def test_mistakes(self, tmp_path: Path) -> None:
        def load(root: Path) -> str:
            with pytest.raises(UserError) as raised:
                image_folder(root, image_size=4, heldout_fraction=0.2, seed=0)
            return one_line(raised)

        assert "no such folder" in load(tmp_path / "absent")
        (tmp_path / "red").mkdir()
        assert "1 class folders in it" in load(tmp_path)
        (tmp_path / "blue").mkdir()
        assert f"{tmp_path / 'blue'}: no images in it" in load(tmp_path)
        (tmp_path / "heldout").mkdir()
        assert "has 'heldout' but no 'train'" in load(tmp_path)

    @pytest.mark.parametrize("other", ["val", "Test"])
    def test_a_part_with_another_name_is_not_a_class(self, tmp_path: Path, other: str) -> None:
        folder_of_images(tmp_path / "train")
        folder_of_images(tmp_path / other)
        with pytest.raises(UserError, match=f"has a folder '{other}'; name the parts 'train' and 'heldout'"):
            image_folder(tmp_path, image_size=4, heldout_fraction=0.2, seed=0)

    def test_a_heldout_class_that_training_does_not_have(self, tmp_path: Path) -> None:
        folder_of_images(tmp_path / "train")
        save_image(tmp_path / "heldout" / "green" / "x.png", (0, 9, 0))
        with pytest.raises(UserError, match="no class 'green' in"):
            image_folder(tmp_path, image_size=4, heldout_fraction=0.2, seed=0)


class TestFeatures:
    def test_they_are_fitted_on_the_training_texts_alone(self) -> None:
        texts = ["red apple", "green pear", "a ! 5"]
        features = TfidfFeatures(texts)
        train, heldout = features(texts), features(["red pear", "zzz"])
        assert train.dtype == torch.float32
        assert train.shape[1] == heldout.shape[1]
        assert heldout[0].any()
        assert not heldout[1].any()
        # Each half, words and characters, has unit length.
        torch.testing.assert_close(train.square().sum(-1), torch.full((3,), 2.0))

    def test_max_features_is_a_cap(self) -> None:
        texts = [f"word{i} other{i}" for i in range(50)]
        assert TfidfFeatures(texts, max_features=20)(texts).shape == (50, 20)

    def test_a_text_of_signs_alone_has_features(self) -> None:
        texts = ["?!", "x"]
        assert TfidfFeatures(texts)(texts).any(-1).all()

    def test_they_are_the_same_after_a_way_over_the_disk(self, tmp_path: Path) -> None:
        texts = ["red apple", "green pear", "a ! 5", "red red pear"]
        features = TfidfFeatures(texts)
        features.save(tmp_path / "features.json")
        loaded = TfidfFeatures.load(tmp_path / "features.json")
        asked = [*texts, "apple ! zzz"]
        torch.testing.assert_close(loaded(asked), features(asked), rtol=1e-6, atol=1e-7)


class Words:
    """A tokenizer of words: ids by length, and 1 around every text."""

    name_or_path = "words"
    model_max_length = 10**30

    def __call__(self, texts: list[str], *, truncation: bool, max_length: int) -> dict[str, list[list[int]]]:
        assert truncation
        return {"input_ids": [[len(word) for word in text.split()][:max_length] for text in texts]}


class TestBatches:
    def test_padding_follows_lengths_even_where_the_padding_is_a_real_token(self) -> None:
        batch = PadTokens(pad_id=2)([[2, 5, 2], [7], [2, 2]])
        assert batch["input_ids"].tolist() == [[2, 5, 2], [7, 2, 2], [2, 2, 2]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]

    def test_tokenise_cuts_and_names_a_text_without_tokens(self) -> None:
        assert tokenise(["a bb ccc dddd", "ee"], Words(), max_tokens=3) == [[1, 2, 3], [2]]
        with pytest.raises(UserError, match="makes no tokens of ' '"):
            tokenise(["a", " "], Words(), max_tokens=3)

    def test_the_models_own_limit_counts(self) -> None:
        tokenizer = Words()
        tokenizer.model_max_length = 2
        assert tokenise(["a bb ccc"], tokenizer, max_tokens=3) == [[1, 2]]

    def test_pixels_are_normalised_and_floats_are_not(self) -> None:
        pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 3)
        torch.testing.assert_close(stack_inputs([pixels, pixels])[1].flatten(), torch.tensor([-1.0, -0.6, 1.0]))
        assert stack_inputs([torch.tensor([0.25, 1.0])]).tolist() == [[0.25, 1.0]]

    def test_images_reach_a_processor_as_rgb_pixels(self) -> None:
        seen: list[torch.Tensor] = []

        def processor(*, images: list[torch.Tensor], **options: str) -> dict[str, torch.Tensor]:
            seen.extend(images)
            return {"pixel_values": torch.stack(images).float()}

        prepared = ProcessImages(processor=processor)([torch.full((1, 4, 4), 0.2)])
        assert seen[0].dtype == torch.uint8
        assert prepared["pixel_values"].shape == (1, 3, 4, 4)
        assert prepared["pixel_values"].unique().tolist() == [51]

    def test_a_shuffled_loader_keeps_each_row_together(self) -> None:
        inputs = [[i] * (1 + i % 4) for i in range(20)]
        teacher = torch.arange(20.0).unsqueeze(-1).expand(20, 3)
        dataset = ClassificationDataset(inputs, torch.arange(20) * 2, teacher_scores=teacher)
        loader = DataLoader(
            dataset, batch_size=6, shuffle=True, collate_fn=Collate(prepare=PadTokens(pad_id=99)),
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        order: list[int] = []
        for batch in loader:
            order += batch["index"].tolist()
            assert torch.equal(batch["labels"], batch["index"] * 2)
            assert torch.equal(batch["teacher_scores"], batch["index"].unsqueeze(-1).expand(-1, 3).float())
            assert torch.equal(batch["student_inputs"]["input_ids"][:, 0], batch["index"])
            assert torch.equal(batch["student_inputs"]["attention_mask"].sum(-1), 1 + batch["index"] % 4)
        assert sorted(order) == list(range(20))
        assert order != sorted(order)

    def test_no_teacher_scores_where_there_are_none(self) -> None:
        dataset = ClassificationDataset(torch.zeros(2, 3), torch.tensor([0, 1]))
        batch = Collate(prepare=stack_inputs)([dataset[0], dataset[1]])
        assert batch.keys() == {"student_inputs", "labels", "index"}

    def test_parts_of_different_lengths_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"different lengths: \[2, 2, 3\]"):
            ClassificationDataset(torch.zeros(2, 3), torch.tensor([0, 1]), teacher_scores=torch.zeros(3, 5))


BANKING = (
    Path(os.environ.get("GRKD_DATA", Path(__file__).parents[2] / "../shared/data")) / "classification" / "intent_text"
)


@pytest.mark.slow
@pytest.mark.skipif(not (BANKING / "banking77_train.csv").is_file(), reason="banking77 is not there; set GRKD_DATA")
def test_real_intents_are_learnt_from_their_features() -> None:
    data: ClassificationData = labelled_text(
        BANKING / "banking77_train.csv", BANKING / "banking77_test.csv", label="category", heldout_fraction=0.1, seed=0
    )
    with (BANKING / "banking77_train.csv").open(encoding="utf-8", newline="") as stream:
        counts = collections.Counter(row["category"] for row in csv.DictReader(stream))
    assert (data.classes, len(data.heldout_labels)) == (77, 3080)
    assert np.bincount(data.train_labels).tolist() == [counts[name] for name in data.class_names]

    features = TfidfFeatures(data.train_inputs)
    train, heldout = features(data.train_inputs), features(data.heldout_inputs)
    assert (train.shape, heldout.shape) == ((10003, 4096), (3080, 4096))
    torch.manual_seed(0)
    model = torch.nn.Linear(4096, 77)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03, weight_decay=0.0)
    for _ in range(4):
        for rows in torch.randperm(len(train)).split(256):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(train[rows]), data.train_labels[rows]).backward()
            optimizer.step()
    accuracy = (model(heldout).argmax(-1) == data.heldout_labels).float().mean().item()
    assert accuracy > 0.80
