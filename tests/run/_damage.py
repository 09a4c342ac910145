"""What the tests of damaged runs share."""

from pathlib import Path

from grkd import cli


def again(run: Path) -> int:
    return cli.main(["run", str(run.parent / "recipe.yaml")])


def altered(path: Path) -> None:
    """Another byte in the middle, the same size."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)
