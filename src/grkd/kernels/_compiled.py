"""Kernels and torch.compile: a kernel runs as it is, between the graphs of what surrounds it."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def outside_graphs(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, never traced by torch.compile.

    `torch.compiler.disable` as a decorator imports the whole compiler, which doubles the time of `import grkd`; here it
    is asked only when something is compiled.
    """

    @functools.wraps(function)
    def call(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        if not torch.compiler.is_compiling():
            return function(*arguments, **options)
        untraced: Callable[Arguments, Result] = torch.compiler.disable(function)
        return untraced(*arguments, **options)

    return call
