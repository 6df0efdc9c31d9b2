"""amortize(): train a surrogate for a program."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bayes.checkpoint import Checkpoint
from bayes.compilation import computing
from bayes.errors import ConvergenceWarning, SettingsError
from bayes.fingerprint import data_fingerprint, model_fingerprint, versions
from bayes.model import as_model
from bayes.seeds import require_seed
from bayes.surrogates.amortizer import Amortizer
from bayes.surrogates.distribution_transformer import DistributionTransformer
from bayes.surrogates.simulator import Simulator
from bayes.surrogates.surrogate import Surrogate
from bayes.surrogates.validation import validate
from bayes.threefry import seed_key, split_key

__all__ = ["amortize"]


def amortize(
    model: Any,
    data: Any,
    method: Amortizer | None = None,
    *,
    seed: int = 0,
    design: Callable | None = None,
    rows: int | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    reparam: Any = None,
    budget: float | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> Surrogate:
    """Train a surrogate: a method that maps data, and a prior, to a posterior in milliseconds.

    Parameters and data are drawn from the program itself. In plates whose size the program takes
    from its data, data sets have between one row and as many as ``rows``; their covariates are
    drawn from the rows given.

    Parameters
    ----------
    model : callable or Model
        A NumPyro program with at most 32 continuous unknowns.
    data : dict, pandas.DataFrame, xarray.Dataset or polars.DataFrame
        Covariates and sizes. Observed arguments may be left out where each has the name of the
        site that observes it; otherwise only their shapes matter.
    method : Amortizer
        What is trained; a ``DistributionTransformer`` by default.
    seed : int
        All randomness comes from it.
    design : callable, optional
        From a key to a dict of array arguments, in JAX: what differs between data sets, such as
        covariates, or hyperparameters of priors that are arguments of the program.
    rows : int, optional
        Largest number of rows; by default that of the data.
    dims, coords : mapping, optional
        See :func:`bayes.fit`.
    reparam : None, "auto", mapping or callable, optional
        What the model says, or else ``"auto"``: location-scale sites with latent parents are
        non-centred, as mixtures of normals cannot follow a funnel.
    budget : float, optional
        Seconds for the training. The schedule ends with them, so that what is learned then depends
        on the machine's speed; without a budget the same seed gives the same surrogate.
    checkpoint : path, optional
        A folder that is written every ten seconds; the same call goes on from it.
    progress : bool, optional
        Whether to show a progress line; by default where stderr is a terminal. Ctrl-C ends the
        training with what is learned.

    Returns
    -------
    Surrogate
        A trained method for ``bayes.fit``.

    Raises
    ------
    UnsupportedModelError
        What cannot be amortized, and why.
    SettingsError
        An option that makes no sense.

    Warns
    -----
    ConvergenceWarning
        Where the surrogate fails a global check on a thousand simulations. On the ladder its
        posteriors are corrected all the same; ``route="raw"`` is then not to be trusted.

    Examples
    --------
    >>> dt = bayes.amortize(schools, data, bayes.DistributionTransformer(components=8), seed=0)
    >>> post = bayes.fit(schools, other_data, method=dt)
    """
    require_seed(seed)
    chosen = DistributionTransformer() if method is None else method
    if not isinstance(chosen, Amortizer):
        raise SettingsError(
            "method is a configured surrogate such as bayes.DistributionTransformer(); got "
            f"{method!r}"
        )
    number = isinstance(budget, (int, float, np.number)) and not isinstance(budget, bool)
    if budget is not None and not (number and np.isfinite(budget) and budget > 0):
        raise SettingsError(f"budget is a positive number of seconds, got {budget!r}")
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
        raise SettingsError(f"rows is a whole number, 1 at least; got {rows!r}")
    bound = as_model(model).replace(dims=dims, coords=coords, reparam=reparam)
    if bound.reparam is None:
        bound = bound.replace(reparam="auto")
    with computing():
        simulator = Simulator(bound, data, design, rows)
        kept = None
        if checkpoint is not None:
            kept = Checkpoint(checkpoint, _identity(simulator, chosen, seed))
        run, after = split_key(seed_key(seed))
        trained = chosen.train(simulator, run, budget=budget, checkpoint=kept, progress=progress)
        checks = validate(simulator, trained.mixtures, after)
    if not checks.ok:
        warnings.warn(f"{chosen.name}: {checks.verdict}", ConvergenceWarning, stacklevel=2)
    return trained.replace(checks=checks.to_dict())


def _identity(simulator: Simulator, method: Amortizer, seed: int) -> dict[str, Any]:
    """What a checkpoint must agree with to be gone on from."""
    reference = simulator.reference
    return {
        "model": model_fingerprint(reference),
        "data": data_fingerprint(reference.data.arguments),
        "method": method.name,
        "settings": {**method.settings(), "rows": simulator.rows},
        "seed": int(seed),
        "versions": versions(),
    }
