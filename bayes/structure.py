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
from bayes.errors import DataError, ModelError, ShapeError, UnsupportedModelError
from bayes.program import is_factor
from bayes.supports import base_distribution

__all__ = ["Site", "explain", "read_sites", "site_kind", "trace_program"]


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


_SHAPE_WORDS = (
    "broadcast",
    "incompatible",
    "shape",
    "dimension",
    "mismatch",
    "dot_general",
    "unsized object",
    "has no len()",
    "tuple index out of range",
    "too many indices",
)


def _is_whole(value: Any) -> bool:
    """Whether an array holds whole numbers as real ones, as a frame's column with gaps does."""
    if not hasattr(value, "dtype") or value.dtype.kind != "f":
        return False
    return bool(np.all(np.asarray(value) % 1 == 0))


def _among(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def explain(error: Exception, data: Data) -> Exception:
    """Say what an error raised inside a program means."""
    text = str(error)
    lower = text.lower()
    if isinstance(error, AssertionError) and "unique names" in text:
        return ModelError(f"a site name is used twice: {text}")
    if isinstance(error, IndexError) and "out of bounds" in lower:
        return DataError(
            f"the program indexes an array out of its bounds (data: {data.shapes_text()}): {text}; "
            "indices count from 0"
        )
    if isinstance(error, TypeError) and "indexer must have integer" in lower:
        whole = [n for n, v in data.arrays.items() if _is_whole(v)]
        return DataError(
            f"the program indexes an array with real numbers{_among(whole)}; make the column "
            "integers or a category: "
            f"frame['{whole[0] if whole else 'column'}'].astype('category')"
        )
    if isinstance(error, (ValueError, TypeError, AssertionError, IndexError)) and any(
        words in lower for words in _SHAPE_WORDS
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


def site_kind(site: Mapping[str, Any]) -> str:
    """A site's part in the model."""
    if site["type"] == "deterministic":
        return "deterministic"
    if site["is_observed"]:
        return "factor" if is_factor(site) else "observed"
    return "discrete" if site["fn"].support.is_discrete else "latent"


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
        fn, kind = site["fn"], site_kind(site)
        if kind == "latent" and isinstance(fn, dist.Delta):
            raise ModelError(f"site '{name}' is a Delta: use numpyro.deterministic instead")
        plates = tuple((f.name, f.dim, f.size) for f in site["cond_indep_stack"])
        sites[name] = Site(
            name,
            kind,
            tuple(np.shape(site["value"])),
            fn.event_dim,
            type(base_distribution(fn)).__name__,
            "" if kind == "factor" else str(fn.support),
            plates,
        )
    if any(site.kind == "discrete" for site in sites.values()):
        _require_plates(trace, sites)
    return sites


def _require_plates(trace: Mapping[str, Any], sites: Mapping[str, Site]) -> None:
    """Enumeration puts the values of discrete sites to the left of all plates."""
    for name, site in sites.items():
        if site.kind not in ("latent", "discrete", "observed"):
            continue
        batch = trace[name]["fn"].batch_shape
        declared = {dim for _, dim, _ in site.plates}
        bare = [d for d in range(-len(batch), 0) if d not in declared and batch[d] > 1]
        if bare:
            discrete = ", ".join(s.name for s in sites.values() if s.kind == "discrete")
            raise UnsupportedModelError(
                f"discrete latent sites ({discrete}) are enumerated, which needs every batch "
                f"dimension in a numpyro.plate: site '{name}' has batch shape {tuple(batch)} with "
                f"{len(declared)} plate(s); add a plate, or .to_event() where it is one event"
            )
