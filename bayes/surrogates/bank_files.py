"""A bank of simulations as arrays by name and JSON values, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bayes.errors import FileError
from bayes.precision import single_precision
from bayes.surrogates.bank_network import SummaryNetwork, SummarySizes
from bayes.surrogates.bank_summaries import sizes_of
from bayes.surrogates.ground import Ground
from bayes.surrogates.layout import leaves_of, with_leaves

__all__ = [
    "BANK_ARRAYS",
    "digest_of",
    "network_of_arrays",
    "require_arrays",
    "sizes_in",
]

BANK_ARRAYS = ("positions", "summaries", "log_prior", "centre", "spread")
"""Arrays of a bank besides the weights of its network."""


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """What tells one bank from another."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def network_of_arrays(arrays: Mapping[str, np.ndarray], sizes: SummarySizes) -> SummaryNetwork:
    """The network with these weights.

    Raises
    ------
    FileError
        Weights that are missing, or not of these sizes.
    """
    if not 1 <= sizes.layers <= len(arrays) or not 1 <= sizes.heads <= sizes.width:
        raise FileError(f"{sizes} are sizes of no network")
    if sizes.width % sizes.heads:
        raise FileError(f"{sizes.width} is not a multiple of {sizes.heads} heads")
    with single_precision():
        skeleton = {"network": eqx.filter_eval_shape(SummaryNetwork, jax.random.key(0), sizes)}
        found = {}
        for name, leaf in leaves_of(skeleton).items():
            value = arrays.get(name)
            if value is None:
                raise FileError(f"array '{name}' is missing")
            if value.shape != leaf.shape or value.dtype != leaf.dtype:
                raise FileError(
                    f"array '{name}' is {value.dtype}{list(value.shape)}, not "
                    f"{leaf.dtype}{list(leaf.shape)}"
                )
            found[name] = jnp.asarray(value)
        return with_leaves(skeleton, found)["network"]


def sizes_in(values: Mapping[str, Any], ground: Ground) -> SummarySizes:
    """SummarySizes of the network of a bank, from JSON values.

    Raises
    ------
    FileError
        Where there are none, or not those of a network for these data.
    """
    try:
        given = values["sizes"]
        sources, rows = (tuple(int(v) for v in given[name]) for name in ("sources", "rows"))
        others = [int(given[name]) for name in ("extra", "width", "layers", "heads")]
        sizes = SummarySizes(int(given["unknowns"]), sources, rows, *others)
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"the sizes of a bank's network are not whole: {error!r}") from error
    wanted = sizes_of(ground.layout, len(ground.location))
    for name in ("unknowns", "sources", "rows", "extra"):
        if getattr(sizes, name) != getattr(wanted, name):
            raise FileError(
                f"the network has {name} {getattr(sizes, name)}, the data {getattr(wanted, name)}"
            )
    return sizes


def require_arrays(arrays: Mapping[str, np.ndarray], ground: Ground) -> None:
    """Refuse arrays of a bank that are missing, or not of the shapes that the ground asks for.

    Raises
    ------
    FileError
        Which.
    """
    missing = [name for name in BANK_ARRAYS if name not in arrays]
    if missing:
        raise FileError(f"the array '{missing[0]}' is missing")
    n, d = len(arrays["log_prior"]), len(ground.location)
    s = d + any(source.resizable for source in ground.layout.sources)
    shapes = {
        "positions": ((n, d), np.float32),
        "summaries": ((n, s), np.float32),
        "log_prior": ((n,), np.float32),
        "centre": ((s,), np.float64),
        "spread": ((s,), np.float64),
    }
    for name, (shape, kind) in shapes.items():
        found = arrays[name]
        if found.shape != shape or found.dtype != kind:
            raise FileError(
                f"the array '{name}' is {found.dtype} of shape {found.shape}; "
                f"{np.dtype(kind)} of shape {shape} was expected"
            )
