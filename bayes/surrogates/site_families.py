"""Distributions taken apart into a form, which a program is compiled with, and their numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array

from bayes.precision import double_precision

__all__ = ["Constant", "Family", "take_apart"]


class Constant:
    """A value that is the same as itself only; it stands for what has no numbers to take out."""

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclasses.dataclass(frozen=True)
class Family:
    """A distribution without its numbers: how it is made of them, and their names in order."""

    structure: Any
    names: tuple[str, ...]

    def __hash__(self) -> int:  # not every structure has one
        return hash(self.names)

    def made_of(self, numbers: Mapping[str, Any]) -> Any:
        """The distribution with these numbers."""
        if isinstance(self.structure, Constant):
            return self.structure.value
        return jax.tree.unflatten(self.structure, [numbers[n] for n in self.names])


def take_apart(prior: Any) -> tuple[Family, dict[str, np.ndarray]]:
    """A distribution's form, and its numbers by name."""
    leaves, structure = jax.tree.flatten(prior)
    names = _leaf_names(prior)
    if len(names) != len(leaves) or len(set(names)) != len(names):
        names = [f"{i}" for i in range(len(leaves))]
    try:
        numbers = {n: _number(v) for n, v in zip(names, leaves, strict=True)}
        family = Family(structure, tuple(names))
        assert family == Family(jax.tree.structure(prior), tuple(names))
        with double_precision(), numpyro.validation_enabled(False):
            jax.eval_shape(lambda k, v: _run_once(family.made_of(v), k), jax.random.key(0), numbers)
    except Exception:  # its numbers cannot be taken out: it is a constant of the program
        return Family(Constant(prior), ()), {}
    return family, numbers


def _run_once(prior: Any, key: Array) -> Any:
    with jax.numpy_rank_promotion("allow"):
        return prior.log_prob(prior.sample(key))


def _number(leaf: Any) -> np.ndarray:
    """A leaf as an array: Normal(0, 1) and Normal(0.0, 1.0) are of one kind."""
    value = np.asarray(leaf)
    if value.dtype.kind not in "biuf":
        raise TypeError(f"{value.dtype} is no number")
    # Whole numbers of an array may be places or sizes, those of Python are parameters.
    is_real = value.dtype.kind == "f" or type(leaf) is int
    return value.astype(np.float64) if is_real else value


def _leaf_names(value: Any, path: str = "") -> list[str]:
    """Names of a distribution's leaves: their order is another in every process."""
    if isinstance(value, dist.Distribution):
        fields = type(value).gather_pytree_data_fields()
        parts = [_leaf_names(vars(value).get(f), f"{path}{f}.") for f in fields]
        return [name for part in parts for name in part]
    return [f"{path}{i}" for i in range(len(jax.tree.leaves(value)))]
