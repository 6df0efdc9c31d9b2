"""A network as arrays by name and JSON values, and back, once these fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bayes.errors import FileError
from bayes.precision import single_precision
from bayes.surrogates.layout import leaves_of, with_leaves
from bayes.surrogates.network import Network, Sizes

__all__ = ["arrays_of", "network_of", "require_arrays", "sizes_of"]


def arrays_of(network: eqx.Module) -> dict[str, np.ndarray]:
    """The weights of a network by name."""
    return {name: np.asarray(leaf) for name, leaf in leaves_of({"network": network}).items()}


def sizes_of(values: Mapping[str, Any], wanted: Mapping[str, Any]) -> Sizes:
    """Sizes of a network from JSON values.

    Parameters
    ----------
    values : mapping
        All sizes by name.
    wanted : mapping
        Those that follow from the program.

    Raises
    ------
    FileError
        Where they are others, or those of a network that cannot be.
    """
    found: Any = {n: values[n] for n in Sizes._fields}
    found = {n: tuple(v) if isinstance(v, list) else v for n, v in found.items()}
    for name, value in found.items():
        if not all(isinstance(v, int) for v in (value if isinstance(value, tuple) else [value])):
            raise FileError(f"{name} of the network are {value!r}, no whole numbers")
    for name, value in wanted.items():
        if found[name] != value:
            raise FileError(f"{name} of the network are {found[name]}, not {value}")
    sizes = Sizes(**found)
    if sizes.layers < 1 or not 1 <= sizes.heads <= sizes.width:
        raise FileError(f"{sizes} are sizes of no network")
    if sizes.width % sizes.heads:
        raise FileError(f"{sizes.width} is not a multiple of {sizes.heads} heads")
    return sizes


def network_of(arrays: Mapping[str, np.ndarray], sizes: Sizes) -> Network:
    """The network with these weights, and no others.

    Raises
    ------
    FileError
        Where weights are missing, or have shapes or types that the sizes do not give.
    """
    if sizes.layers > len(arrays):  # every layer has some: its skeleton is made in bounded time
        raise FileError(f"{sizes} are not the sizes of {len(arrays)} arrays")
    with single_precision():
        skeleton = {"network": eqx.filter_eval_shape(Network, jax.random.key(0), sizes)}
        require_arrays(arrays, leaves_of(skeleton))
        return with_leaves(skeleton, {n: jnp.asarray(v) for n, v in arrays.items()})["network"]


def require_arrays(arrays: Mapping[str, np.ndarray], wanted: Mapping[str, Any]) -> None:
    """Refuse arrays that have not these names, shapes and types.

    Raises
    ------
    FileError
        The first that differs.
    """
    missing, foreign = sorted(set(wanted) - set(arrays)), sorted(set(arrays) - set(wanted))
    if missing or foreign:
        what = f"array '{missing[0]}' is missing" if missing else f"'{foreign[0]}' is no array"
        raise FileError(f"{what} of a network of these sizes")
    for name, leaf in wanted.items():
        found = arrays[name]
        if found.shape != leaf.shape or found.dtype != leaf.dtype:
            raise FileError(
                f"array '{name}' is {found.dtype}{list(found.shape)}, not "
                f"{leaf.dtype}{list(leaf.shape)}"
            )
