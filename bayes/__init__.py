"""One NumPyro program, every way to its posterior, one honest answer."""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from bayes.errors import (
    BayesError,
    ConvergenceWarning,
    DataError,
    DataWarning,
    FileError,
    InitError,
    ModelError,
    NoDrawsError,
    SettingsError,
    ShapeError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from bayes import distributions
    from bayes.calibration.result import Calibration
    from bayes.calibration.sbc import sbc
    from bayes.criticism import compare
    from bayes.data import Data
    from bayes.diagnostics.checks import Check, Diagnostics
    from bayes.fit import fit
    from bayes.gallery import gallery
    from bayes.geweke import geweke
    from bayes.inference.advi import ADVI
    from bayes.inference.batch_and_match import BatchAndMatch
    from bayes.inference.dadvi import DADVI
    from bayes.inference.hmc import HMC
    from bayes.inference.kronecker_sbl import KroneckerSBL
    from bayes.inference.laplace import Laplace
    from bayes.inference.numpyro_kernel import NumPyroKernel
    from bayes.inference.nuts import NUTS
    from bayes.inference.pathfinder import Pathfinder
    from bayes.inference.variational import VI
    from bayes.merging import merge
    from bayes.method import Method
    from bayes.model import Model
    from bayes.posterior import Posterior, load
    from bayes.predictive_checks import PredictiveCheck
    from bayes.surrogates.amortize import amortize
    from bayes.surrogates.distribution_transformer import DistributionTransformer
    from bayes.surrogates.drift import chain_drift
    from bayes.surrogates.simulation_bank import SimulationBank
    from bayes.surrogates.surrogate import Surrogate

__version__ = "0.1.0"

__all__ = [
    "ADVI",
    "DADVI",
    "HMC",
    "NUTS",
    "VI",
    "BatchAndMatch",
    "BayesError",
    "Calibration",
    "Check",
    "ConvergenceWarning",
    "Data",
    "DataError",
    "DataWarning",
    "Diagnostics",
    "DistributionTransformer",
    "FileError",
    "InitError",
    "KroneckerSBL",
    "Laplace",
    "Method",
    "Model",
    "ModelError",
    "NoDrawsError",
    "NumPyroKernel",
    "Pathfinder",
    "Posterior",
    "PredictiveCheck",
    "SettingsError",
    "ShapeError",
    "SimulationBank",
    "Surrogate",
    "UnsupportedModelError",
    "amortize",
    "chain_drift",
    "compare",
    "distributions",
    "fit",
    "gallery",
    "geweke",
    "load",
    "merge",
    "sbc",
]

# Loaded at first use, so that importing bayes costs no more than its parts that are used.
_HOMES = {
    "HMC": "bayes.inference.hmc",
    "NUTS": "bayes.inference.nuts",
    "NumPyroKernel": "bayes.inference.numpyro_kernel",
    "ADVI": "bayes.inference.advi",
    "DADVI": "bayes.inference.dadvi",
    "VI": "bayes.inference.variational",
    "BatchAndMatch": "bayes.inference.batch_and_match",
    "KroneckerSBL": "bayes.inference.kronecker_sbl",
    "Laplace": "bayes.inference.laplace",
    "Pathfinder": "bayes.inference.pathfinder",
    "Calibration": "bayes.calibration.result",
    "Check": "bayes.diagnostics.checks",
    "Data": "bayes.data",
    "Diagnostics": "bayes.diagnostics.checks",
    "DistributionTransformer": "bayes.surrogates.distribution_transformer",
    "Method": "bayes.method",
    "Model": "bayes.model",
    "Posterior": "bayes.posterior",
    "PredictiveCheck": "bayes.predictive_checks",
    "SimulationBank": "bayes.surrogates.simulation_bank",
    "Surrogate": "bayes.surrogates.surrogate",
    "amortize": "bayes.surrogates.amortize",
    "chain_drift": "bayes.surrogates.drift",
    "compare": "bayes.criticism",
    "fit": "bayes.fit",
    "gallery": "bayes.gallery",
    "geweke": "bayes.geweke",
    "load": "bayes.posterior",
    "merge": "bayes.merging",
    "sbc": "bayes.calibration.sbc",
}


def __getattr__(name: str) -> Any:
    if name == "distributions":
        return importlib.import_module("bayes.distributions")
    if name not in _HOMES:
        raise AttributeError(f"module 'bayes' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


class _Package(types.ModuleType):
    """The package: importing the module ``bayes.fit`` does not hide the function of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
