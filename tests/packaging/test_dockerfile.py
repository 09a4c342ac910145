"""The Dockerfile against what it names: a check of its text, since no builder is at hand where the tests run."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def instructions() -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines() if line.strip()]


def test_stages_copies_and_extras_exist() -> None:
    found = instructions()
    assert {name for name, _ in found} <= {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}
    stages = [re.findall(r"(\S+) AS (\w+)", rest)[0] for name, rest in found if name == "FROM"]
    assert [stage for _, stage in stages] == ["base", "cpu", "gpu", "final"]
    assert {stage: parent for parent, stage in stages}["final"] == "${VARIANT}"
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name, rest in found:
        if name == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, source
    extras = {extra for one in re.findall(r"\.\[([\w,]+)\]", TEXT) for extra in one.split(",")}
    assert extras <= set(PROJECT["optional-dependencies"])


def test_versions_users_and_pins() -> None:
    found = instructions()
    (version,) = set(re.findall(r"python:(3\.\d+)-slim", TEXT))
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    pinned = re.findall(r"torch==([\d.]+)", TEXT)
    assert f"torch=={pinned[0]}" in (ROOT / "constraints-cpu.txt").read_text(encoding="utf-8")
    assert [rest for name, rest in found if name == "USER"] == ["1000"]  # not root, and before the entry point
    names = [name for name, _ in found]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert ("ENTRYPOINT", '["grkd"]') in found
    assert not re.search(r":latest|sudo |ADD ", TEXT)
    # Packages of the system: what Triton needs, and no list of them stays behind.
    (packages,) = [rest for name, rest in found if name == "RUN" and "apt-get" in rest]
    assert re.search(
        r"apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/\*$", packages
    )


def test_another_base_image_can_be_given() -> None:
    found = instructions()
    first = next(place for place, (name, _) in enumerate(found) if name == "FROM")
    given = dict(rest.split("=", 1) for name, rest in found[:first] if name == "ARG")
    assert given == {"VARIANT": "cpu", "PYTHON_IMAGE": "python:3.12-slim-bookworm"}
    assert found[first] == ("FROM", "${PYTHON_IMAGE} AS base")
