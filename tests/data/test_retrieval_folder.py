"""Retrieval sets in folders, as BEIR has them and as a single file of judgements with a split."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from grkd.data.retrieval_folder import read_retrieval_folder
from grkd.errors import UserError

CRANFIELD = Path(os.environ.get("GRKD_DATA", Path(__file__).parents[2] / "../shared/data")) / "retrieval" / "cranfield"


def write(folder: Path) -> Path:
    folder.mkdir()
    texts = [{"_id": "d1", "title": "Wings", "text": "of birds"}, {"_id": "d2", "text": "of planes"}]
    with gzip.open(folder / "corpus.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(one) + "\n" for one in texts)
    queries = [{"_id": f"q{number}", "text": f"query {number}"} for number in range(3)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
    return folder


def test_beir_splits_by_file_and_a_title_stands_before_its_text(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    (folder / "qrels").mkdir()
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td1\t1\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td2\t2\nq2\td1\t0\n")
    found = read_retrieval_folder(folder)
    assert found.documents == ("Wings of birds", "of planes")
    assert found.judged == {0: {0: 1.0}, 2: {1: 2.0, 0: 0.0}}
    assert found.parts == {0: "train", 2: "test"}


def test_one_file_with_a_split_and_pairs_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    (folder / "qrels.tsv").write_text("query\tdocument\tgrade\nq0\td1\t3\n")
    (folder / "split.tsv").write_text("query\tours\ttheirs\nq0\ttrain\ttest\nq1\tvalidation\ttrain\n")
    (folder / "left_out.tsv").write_text("query\tdocument\nq1\td2\n")
    assert read_retrieval_folder(folder).parts == {0: "train", 1: "validation"}
    assert read_retrieval_folder(folder, split="theirs").parts == {0: "test", 1: "train"}
    assert read_retrieval_folder(folder).left_out == {1: frozenset({1})}
    with pytest.raises(UserError, match=r"data.split: there is no column 'x'; columns: ours, theirs"):
        read_retrieval_folder(folder, split="x")
    (folder / "qrels.tsv").write_text("query\tdocument\tgrade\nq0\td1\t3\nq9\td1\t3\n")
    with pytest.raises(UserError, match=r"qrels.tsv, line 3: there is no query or document with the id 'q9'"):
        read_retrieval_folder(folder)
    (folder / "qrels.tsv").unlink()
    with pytest.raises(UserError, match="has no judgements"):
        read_retrieval_folder(folder)


HEADER = "query\tdocument\tgrade\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("qrels.tsv", "q0\td1\t1\nq1\td1\t1\n", "line 1: is a judgement; put a header line before it"),
        ("qrels.tsv", HEADER + "q0\td1\tnan\n", "line 2: expected a number up to 1000 as the grade, got 'nan'"),
        ("qrels.tsv", HEADER + "q0\td1\t1e9\n", "line 2: expected a number up to 1000 as the grade"),
        ("qrels.tsv", HEADER + "q0\td1\t0.5\n", "line 2: expected a whole number as the grade, got '0.5'; round it"),
        ("left_out.tsv", "q0\td1\nq1\td2\n", "line 1: begins with the id of a query; put a line with names"),
        ("split.tsv", "q0\ttrain\nq1\ttest\n", "line 1: begins with the id of a query"),
        ("qrels.tsv", HEADER + "q0\td1\t1\nq0\td1\t2\n", "line 3: query 'q0' and document 'd1' have another grade"),
        ("qrels.tsv", HEADER + "q0 d1 1\n", "line 2: expected 3 columns separated by tabs, got 1"),
        ("qrels.tsv", b"\xff\xfe", "not UTF-8"),
        ("queries.jsonl", '{"_id": "q0", "text": " "}\n', "line 1: text is empty; fill it in, or drop 'q0'"),
        ("queries.jsonl", '{"_id": true, "text": "a"}\n', "line 1: expected _id (or id), text or a whole number"),
        ("queries.jsonl", '{"_id": "q0", "text": "a", "title": 3}\n', "line 1: title must be text"),
        ("queries.jsonl", '{"_id": "q0", "text": "a"}\n' * 2, "line 2: the id 'q0' appears twice"),
        ("corpus.jsonl.gz", b"no gzip", "damaged, not UTF-8 text in gzip"),
        ("corpus.jsonl.gz", gzip.compress(b"{}", mtime=0)[:-9], "damaged, not UTF-8 text in gzip"),
        ("split.tsv", "query\tours\nq0\tnowhere\n", "line 2: unknown part 'nowhere'"),
        ("split.tsv", "", "data.split: there is no column None"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    folder = write(tmp_path / "set")
    (folder / "qrels.tsv").write_text(HEADER + "q0\td1\t3\n")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read_retrieval_folder(folder)
    assert str(caught.value).startswith(str(folder / name))
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_query_of_two_parts_and_junk(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    (folder / "qrels").mkdir()
    (folder / "qrels" / "train.tsv").write_text(HEADER + "q0\td1\t-1\n")
    assert read_retrieval_folder(folder).judged == {0: {0: 0.0}}
    with pytest.raises(UserError, match=r"data\.split names a column of split\.tsv"):
        read_retrieval_folder(folder, split="ours")
    (folder / "qrels" / "test.tsv").write_text(HEADER + "q0\td2\t1\n")
    with pytest.raises(UserError, match=r"(train|test)\.tsv, line 2: query 'q0' is also in (train|test)"):
        read_retrieval_folder(folder)


@pytest.mark.skipif(not CRANFIELD.is_dir(), reason="no cranfield there; set GRKD_DATA")
def test_cranfield() -> None:
    found = read_retrieval_folder(CRANFIELD)
    assert (len(found.documents), len(found.queries)) == (1398, 225)
    assert sum(map(len, found.judged.values())) == 1611
    assert Counter(found.parts.values()) == {"train": 106, "validation": 40, "test": 79}
    assert all(len(one) == 1 for one in found.left_out.values())
