"""What a program is made of: its sites, read from traces on the real data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpyro.distributions as dist

from bayes.errors import ModelError, UnsupportedModelError
from bayes.program import is_factor
from bayes.reading import trace_program
from bayes.supports import base_distribution

__all__ = ["Site", "SubsampledPlate", "read_sites", "site_kind", "trace_program"]


class SubsampledPlate(UnsupportedModelError):
    """A plate takes a subsample, so that a run of the program is not of all data."""


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


def site_kind(site: Mapping[str, Any]) -> str:
    """A site's part in the model."""
    if site["type"] == "deterministic":
        return "deterministic"
    if site["is_observed"]:
        return "factor" if is_factor(site) else "observed"
    return "discrete" if site["fn"].support.is_discrete else "latent"


def read_sites(trace: Mapping[str, Any], *, enumerated: bool = True) -> dict[str, Site]:
    """The sites of a trace, in program order; refuses what no method can treat.

    Parameters
    ----------
    trace : mapping
        A trace.
    enumerated : bool
        Whether discrete latent sites are to be summed out.
    """
    sites: dict[str, Site] = {}
    for name, site in trace.items():
        if site["type"] == "plate":
            size, subsample = site["args"]
            if subsample is not None and subsample < size:
                raise SubsampledPlate(f"plate '{name}' takes a subsample ({subsample} of {size})")
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
    if enumerated and any(site.kind == "discrete" for site in sites.values()):
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
