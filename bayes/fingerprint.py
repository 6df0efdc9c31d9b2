"""What tells one model, and one data set, from another."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import bayes
from bayes.problem import Problem

__all__ = ["data_fingerprint", "model_difference", "model_fingerprint", "versions"]

_PROBES = 3


def model_fingerprint(problem: Problem) -> dict[str, Any]:
    """A model's structure and its log density at a few fixed points.

    Source text is not compared: comments and names of variables may change, priors may not.

    Parameters
    ----------
    problem : Problem
        A model bound to its data.

    Returns
    -------
    dict
        JSON values.
    """
    points = np.random.default_rng(20240229).normal(size=(_PROBES, problem.size)) * 0.5
    density = [float(problem.log_density(p)) for p in points]
    return {
        "sites": [[s.name, s.kind, list(s.shape), s.distribution] for s in problem.sites.values()],
        "sampled": [s.name for s in problem.program.latents],
        "log_density": [repr(v) for v in density],
    }


def model_difference(saved: Mapping[str, Any], current: Mapping[str, Any]) -> str | None:
    """How two fingerprints differ, in words; None where they do not."""
    old = {s[0]: s[1:] for s in saved["sites"]}
    new = {s[0]: s[1:] for s in current["sites"]}
    if old != new:
        gone, added = sorted(set(old) - set(new)), sorted(set(new) - set(old))
        if gone or added:
            return f"sites differ: saved with {gone or 'all of them'}, now also {added or 'none'}"
        name = next(n for n in old if old[n] != new[n])
        return f"site '{name}' differs: saved as {old[name]}, now {new[name]}"
    if saved["sampled"] != current["sampled"]:
        return "the reparametrisation differs"
    a, b = (np.array([float(v) for v in f["log_density"]]) for f in (saved, current))
    if not np.allclose(a, b, rtol=1e-6, atol=1e-6, equal_nan=True):
        return f"the log density differs: {a[0]:.6g} when saved, {b[0]:.6g} now (same point)"
    return None


def data_fingerprint(arguments: Mapping[str, Any]) -> str:
    """SHA-256 of names, shapes, types and bytes of the data."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(dict(arguments))[0]:
        digest.update(jax.tree_util.keystr(path).encode())
        if isinstance(leaf, (str, bool, int)):
            digest.update(repr(leaf).encode())
        else:
            array = np.ascontiguousarray(leaf)
            digest.update(f"{array.shape}{array.dtype.str}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions that the bits of a run depend on."""
    return {"bayes": bayes.__version__, **_others()}


@functools.cache
def _others() -> dict[str, str]:
    names = ("jax", "jaxlib", "numpyro", "numpy")
    return {name: importlib.metadata.version(name) for name in names}
