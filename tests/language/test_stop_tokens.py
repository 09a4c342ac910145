"""A teacher that ends its turns with a token of its own, and a student whose tokenizer names another."""

import json
from pathlib import Path

import pyarrow.parquet as pq
from transformers import AutoModelForCausalLM

from grkd import cli
from tests.conftest import word_tokenizer


def test_the_teachers_end_ends_its_responses_and_becomes_the_students(tmp_path: Path, tiny_teacher: Path) -> None:
    base = word_tokenizer()
    base.chat_template, base.eos_token = None, "<turn>"
    student = AutoModelForCausalLM.from_pretrained(tiny_teacher)
    own_end, teachers_end = base.eos_token_id, student.generation_config.eos_token_id
    assert own_end != teachers_end
    student.generation_config.eos_token_id = student.config.eos_token_id = own_end
    student.save_pretrained(tmp_path / "student")
    base.save_pretrained(tmp_path / "student")
    prompts = "".join(json.dumps({"prompt": f"w{n} w{n + 1}"}) + "\n" for n in range(24))
    (tmp_path / "p.jsonl").write_text(prompts)
    path = tmp_path / "r.yaml"
    path.write_text(
        f"task: language_model\noutput: {tmp_path / 'run'}\ndevice: cpu\nteacher: {{model: {tiny_teacher}}}\n"
        f"student: {{model: {tmp_path / 'student'}}}\ndata: {{train: {tmp_path / 'p.jsonl'}, heldout_fraction: 0.25}}\n"
        "responses: {source: teacher, max_new_tokens: 24, top_p: 1.0, batch_size: 8}\nmethods: [kd]\n"
        "training: {steps: 1, batch_size: 4}\nevaluation: {samples: 0}\n"
    )
    assert cli.main(["run", str(path)]) == 0
    responses = [
        (record["response_ids"], record["finished"])
        for shard in (tmp_path / "run" / "respond").rglob("*.parquet")
        for record in pq.read_table(shard).to_pylist()
    ]
    ended = [ids for ids, finished in responses if finished]
    assert ended
    assert all(ids[-1] == own_end for ids in ended)
    assert not any(teachers_end in ids for ids, _ in responses)
