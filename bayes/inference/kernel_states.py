"""States of NumPyro's kernels: as plain arrays, and what they tell of a transition."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from numpyro.infer import MixedHMC
from numpyro.infer.mcmc import MCMCKernel

__all__ = ["as_arrays", "from_arrays", "potential", "report"]


def _is_key(leaf: Any) -> bool:
    """Whether a leaf of a state is a random key, which no file can hold as it is."""
    # Some kernels begin with plain numbers.
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def as_arrays(state: Any) -> list[Array]:
    """Leaves of a state, keys as their data."""
    leaves = map(jnp.asarray, jax.tree.leaves(state))
    return [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in leaves]


def from_arrays(leaves: list[Array], template: Any) -> Any:
    """A state of a template's structure and types."""
    like, structure = jax.tree.flatten(template)
    pairs = zip(leaves, like, strict=True)
    return jax.tree.unflatten(
        structure, [jax.random.wrap_key_data(v) if _is_key(w) else v for v, w in pairs]
    )


def _parts(state: Any) -> list[Any]:
    """A state and those inside of it, the last one first: it has seen what the others did."""
    found = [state]
    for name in ("inner_state", "hmc_state"):
        found += [getattr(state, name)] if hasattr(state, name) else []
    return [*reversed([*found, *getattr(state, "block_states", ())])]


def _first(state: Any, name: str) -> Any:
    return next((getattr(part, name) for part in _parts(state) if hasattr(part, name)), None)


def potential(state: Any) -> Any:
    """Negative log density of a state; None where it does not say."""
    return _first(state, "potential_energy")


def report(kernel: MCMCKernel, state: Any) -> dict[str, Any]:
    """Statistics of the transition that led to a state, as far as it has them."""
    energy = potential(state)
    found = {
        "lp": None if energy is None else -energy,
        "acceptance_rate": _first(state, "accept_prob"),
        "step_size": getattr(_first(state, "adapt_state"), "step_size", None),
        "n_steps": _first(state, "num_steps"),
    }
    if found["n_steps"] is not None:
        # Of trajectories: what sample-adaptive MCMC calls diverging is a proposal that is far off.
        found["diverging"] = _first(state, "diverging")
        # Mixed HMC changes the energy in between: it is that of a part of the trajectory.
        found["energy"] = None if isinstance(kernel, MixedHMC) else _first(state, "energy")
    return {name: value for name, value in found.items() if value is not None}
