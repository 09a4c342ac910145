"""`grkd export`: a finished student in another form."""

import argparse
from pathlib import Path

from grkd.errors import UserError

SUMMARY = "write a student as a GGUF file"
DESCRIPTION = """\
Write a language model as one GGUF file, for llama.cpp and tools built on it. Supported: Llama's architecture (Llama,
SmolLM2) with a byte-level BPE tokenizer. For other models, a message says what to use. Needs pip install 'grkd[gguf]'.

  grkd export runs/mine/train/grkd-seed0/student --gguf student.gguf
  grkd export runs/mine/train/grkd-seed0/student --gguf student.gguf --dtype float32
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("student", type=Path, metavar="STUDENT", help="a model's folder")
    command.add_argument("--gguf", type=Path, required=True, metavar="FILE", help="the file to write")
    command.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="dtype of the weights")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    if options.gguf.suffix != ".gguf":
        raise UserError(f"--gguf {options.gguf}: the file's name must end in .gguf")
    from grkd.models.gguf_export import export_gguf

    export_gguf(options.student, options.gguf, precision=options.dtype)
    print(f"written: {options.gguf}")
    return 0
