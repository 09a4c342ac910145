"""A chat endpoint for the tests of judge and answers."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def server() -> Iterator[Any]:
    """A running endpoint_server.EndpointServer."""
    pytest.importorskip("openai", reason="needs pip install 'grkd[eval]'")
    spec = importlib.util.spec_from_file_location("endpoint_server", Path(__file__).with_name("endpoint_server.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.EndpointServer()
    yield made
    made.close()
