"""The engines of the benchmark of approximations by name: where each is, and its settings."""

from __future__ import annotations

import importlib
from typing import Any

_BAYES, _NUMPYRO = ("vi_engines", "Bayes"), ("vi_numpyro", "NumPyroSVI")
_ENGINES: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {
    "vi": (_BAYES, {"method": "vi"}),
    "vi-nuts": (_BAYES, {"method": "vi", "refine": "nuts"}),
    "pathfinder": (_BAYES, {"method": "pathfinder"}),
    "laplace": (_BAYES, {"method": "laplace"}),
    "advi": (_BAYES, {"method": "advi", "family": "mean_field"}),
    "advi-full-rank": (_BAYES, {"method": "advi", "family": "full_rank"}),
    "dadvi": (_BAYES, {"method": "dadvi"}),
    "bam": (_BAYES, {"method": "bam"}),
    "nuts": (_BAYES, {"method": "nuts"}),
    "numpyro-normal": (_NUMPYRO, {"guide": "AutoNormal"}),
    "numpyro-mvn": (_NUMPYRO, {"guide": "AutoMultivariateNormal"}),
    "numpyro-lowrank": (_NUMPYRO, {"guide": "AutoLowRankMultivariateNormal"}),
    "blackjax-pathfinder": (("vi_blackjax", "BlackJaxPathfinder"), {}),
}

NAMES = tuple(_ENGINES)
PEERS = tuple(name for name, (place, _) in _ENGINES.items() if place != _BAYES)


def engine_class(name: str) -> Any:
    """The class of an engine; its libraries are imported when it is made."""
    (module, attribute), _ = _ENGINES[name]
    return getattr(importlib.import_module(module), attribute)


def settings(name: str) -> dict[str, Any]:
    """What an engine is made with."""
    return dict(_ENGINES[name][1])
