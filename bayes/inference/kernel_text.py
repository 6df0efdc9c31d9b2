"""A NumPyro kernel in words: its class and those of its settings that are not the defaults."""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from typing import Any

import numpy as np
from numpyro.infer.mcmc import MCMCKernel

__all__ = ["kernel_text"]

_DEEPEST, _LONGEST = 5, 12
_IMPLIED = ("euclidean_kinetic_energy",)
"""What stands for a default of None."""


def kernel_text(kernel: MCMCKernel) -> str:
    """A kernel's class and settings, by which a checkpoint knows it again."""
    return _text(kernel, 0)


def _text(value: Any, depth: int) -> str:
    if depth > _DEEPEST:
        return "..."
    one = functools.partial(_text, depth=depth + 1)
    if isinstance(value, MCMCKernel):
        return f"{type(value).__name__}({', '.join(_settings(value, depth))})"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{one(k)}: {one(v)}' for k, v in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(one, value))}]"
    if isinstance(value, functools.partial):
        given = [*map(one, value.args), *(f"{k}={one(v)}" for k, v in value.keywords.items())]
        return f"{one(value.func)}({', '.join(given)})"
    if hasattr(value, "shape"):
        return _array_text(np.asarray(value))
    if isinstance(value, types.FunctionType):
        # A proxy or a move is a function that has its settings from where it was made.
        cells = [_cell_text(cell, depth) for cell in value.__closure__ or ()]
        return value.__name__ + (f"({', '.join(cells)})" if cells else "")
    return getattr(value, "__name__", type(value).__name__)


def _cell_text(cell: Any, depth: int) -> str:
    try:
        return _text(cell.cell_contents, depth + 1)
    except ValueError:  # empty, as yet
        return "..."


def _array_text(value: np.ndarray) -> str:
    if value.size <= _LONGEST:
        return str(value.tolist())
    digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:12]
    return f"array{value.shape}:{digest}"


def _settings(kernel: MCMCKernel, depth: int) -> list[str]:
    """Settings by the names of the constructor's arguments; kernels keep them by these."""
    found = []
    for name, parameter in inspect.signature(type(kernel).__init__).parameters.items():
        if name in ("self", "model", "potential_fn"):
            continue
        value = getattr(kernel, f"_{name}", getattr(kernel, name, parameter.default))
        text = _text(value, depth + 1)
        if text not in (_text(parameter.default, depth + 1), *_IMPLIED):
            found.append(f"{name}={text}")
    return found
