"""What a program is made of: its sites, read from traces on the real data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer.initialization import init_to_sample

from bayes.data import Data
from bayes.errors import ModelError, ShapeError, UnsupportedModelError
from bayes.program import is_factor

__all__ = ["Site", "read_sites", "trace_program"]


@dataclasses.dataclass(frozen=True)
class Site:
    """A site of the program.

    Parameters
    ----------
    name : str
        Site name.
    kind : {"latent", "discrete", "observed", "factor", "deterministic"}
        Its part in the model.
    shape : tuple of int
        Shape of one value.
    event_ndim : int
        Trailing dimensions that belong to one event.
    distribution, support : str
        Names of its distribution and support; empty for deterministic sites.
    plates : tuple of (name, dim, size)
        Plates it stands in; dim counts from the right of the batch shape.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    event_ndim: int
    distribution: str
    support: str
    plates: tuple[tuple[str, int, int], ...]


def trace_program(fn: Callable, data: Data, seed: int) -> dict[str, Any]:
    """Run a program once on its data with latent values drawn from their priors.

    Raises
    ------
    ModelError, ShapeError
        Where the program itself fails, with the reason in the field's terms.
    """
    seeded = handlers.seed(fn, jax.random.key(seed))
    drawn = handlers.substitute(seeded, substitute_fn=init_to_sample())
    try:
        # Parameters are checked afterwards, where the site's name is known.
        with numpyro.validation_enabled(False), jax.numpy_rank_promotion("allow"):
            return handlers.trace(drawn).get_trace(**data.arguments)
    except Exception as error:
        raise explain(error, data) from error


def explain(error: Exception, data: Data) -> Exception:
    """Say what an error raised inside a program means."""
    text = str(error)
    lower = text.lower()
    if isinstance(error, AssertionError) and "unique names" in text:
        return ModelError(f"a site name is used twice: {text}")
    words = ("broadcast", "incompatible", "shape", "dimension", "mismatch", "dot_general")
    if isinstance(error, (ValueError, TypeError, AssertionError)) and any(
        w in lower for w in words
    ):
        return ShapeError(f"shapes do not fit in the program (data: {data.shapes_text()}): {text}")
    if isinstance(error, (AttributeError, TypeError)) and "NoneType" in text:
        absent = [n for n, v in data.arguments.items() if v is None]
        return ModelError(
            "the program uses an argument that was not given"
            + (f" ({', '.join(absent)})" if absent else "")
            + f": {text}"
        )
    return ModelError(f"the program failed on its data: {type(error).__name__}: {text}")


def _kind(site: Mapping[str, Any]) -> str:
    if site["type"] == "deterministic":
        return "deterministic"
    if site["is_observed"]:
        return "factor" if is_factor(site) else "observed"
    return "discrete" if site["fn"].support.is_discrete else "latent"


def _distribution_name(fn: Any) -> str:
    while isinstance(fn, (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist
    return type(fn).__name__


def read_sites(trace: Mapping[str, Any]) -> dict[str, Site]:
    """The sites of a trace, in program order; refuses what no method can treat."""
    sites: dict[str, Site] = {}
    for name, site in trace.items():
        if site["type"] == "plate":
            size, subsample = site["args"]
            if subsample is not None and subsample < size:
                raise UnsupportedModelError(
                    f"plate '{name}' takes a subsample ({subsample} of {size}); no exact method "
                    "treats subsampled likelihoods: leave subsample_size out"
                )
        if site["type"] in ("param", "mutable"):
            raise UnsupportedModelError(
                f"site '{name}' is a numpyro.{site['type']}, not a random variable: give it a "
                "prior with numpyro.sample or pass it as data"
            )
        if site["type"] == "deterministic":
            stack = site.get("cond_indep_stack") or ()
            plates = tuple((f.name, f.dim, f.size) for f in stack)
            value = np.shape(site["value"])
            sites[name] = Site(name, "deterministic", tuple(value), 0, "", "", plates)
        if site["type"] != "sample":
            continue
        fn, kind = site["fn"], _kind(site)
        if kind == "latent" and isinstance(fn, dist.Delta):
            raise ModelError(f"site '{name}' is a Delta: use numpyro.deterministic instead")
        plates = tuple((f.name, f.dim, f.size) for f in site["cond_indep_stack"])
        sites[name] = Site(
            name,
            kind,
            tuple(np.shape(site["value"])),
            fn.event_dim,
            _distribution_name(fn),
            "" if kind == "factor" else str(fn.support),
            plates,
        )
    return sites
