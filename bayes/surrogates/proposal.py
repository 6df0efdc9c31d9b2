"""What a network says of a posterior, and what of that can be used."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bayes.errors import NoDrawsError
from bayes.inference.mixtures import Mixture as Components
from bayes.inference.mixtures import mixture_of
from bayes.normals import normal_of_covariance
from bayes.surrogates.mixtures import Mixture, covariances

__all__ = ["Proposal", "components_of", "is_far", "notes_of"]


class Proposal(NamedTuple):
    """What a network says of a posterior.

    Parameters
    ----------
    mixture : Mixture
        On the problem's flat unconstrained space, in double precision.
    info : dict
        JSON values: ``distance`` of the data from those of training, in units of the surrogate's
        own, and ``distance_limit``, beyond which they are unlike them; ``out_of_range``, sentences
        on what lies outside of what training has seen; and whatever else is to be on record.
    """

    mixture: Mixture
    info: dict[str, Any]


def components_of(mixture: Mixture, name: str) -> Components:
    """The components whose covariance is one, numerically; that with most weight first.

    Parameters
    ----------
    mixture : Mixture
        What the network gave.
    name : str
        What to call the network where it is refused.

    Raises
    ------
    NoDrawsError
        Where there is none.
    """
    parts = [np.asarray(part, float) for part in mixture]
    rows = [part.reshape(mixture.components, -1) for part in parts]
    fine = np.flatnonzero(np.isfinite(np.concatenate(rows, axis=1)).all(axis=1))
    order = fine[np.argsort(-parts[0][fine], kind="stable")]
    kept = Mixture(*(part[order] for part in parts))
    normals, log_weights = [], []
    with np.errstate(all="ignore"):  # what overflows is left out
        for log_weight, mean, sigma in zip(
            kept.log_weights, kept.means, covariances(kept), strict=True
        ):
            try:
                normals.append(normal_of_covariance(np.asarray(mean), sigma))
            except np.linalg.LinAlgError:
                continue
            log_weights.append(float(log_weight))
    if not normals:
        raise NoDrawsError(
            f"{name} gives these data no component with a covariance that is finite and positive "
            "definite: they may be far from those it was trained on; method='nuts'"
        )
    return mixture_of(normals, np.exp(np.asarray(log_weights) - max(log_weights)))


def is_far(info: dict[str, Any]) -> bool:
    """Whether data are further from those of training than nearly all of these."""
    return "distance" in info and not info["distance"] <= info.get("distance_limit", np.inf)


def notes_of(info: dict[str, Any]) -> list[str]:
    """Sentences on data that the network has not seen the like of; none where it has."""
    far = []
    if is_far(info):
        found, limit = info["distance"], info["distance_limit"]
        far = [f"the data are {found:.3g} away from those of training, beyond {limit:.3g}"]
    return far + [str(sentence) for sentence in info.get("out_of_range", ())]
