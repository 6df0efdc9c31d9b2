"""merge(): one posterior from the posteriors of shards of the data."""

from __future__ import annotations

import datetime
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.assembly import MethodRecord, draws_tree
from bayes.compilation import computing
from bayes.diagnostics.checks import judge_draws
from bayes.errors import ConvergenceWarning, SettingsError, UnsupportedModelError
from bayes.fingerprint import versions
from bayes.inference.randomness import Purpose, generator_of
from bayes.inference.settings import require_whole
from bayes.merged_normals import FORMS, Form, given_prior, narrowness, newton, normal_of, product
from bayes.method import Draws, count_non_finite
from bayes.normals import Normal, log_prob, push
from bayes.posterior import Posterior
from bayes.problem import Problem
from bayes.seeds import require_seed
from bayes.shards import Shards
from bayes.threefry import seed_key

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["merge"]

_DENSE = 5000
"""Dimensions up to which matrices are dense."""


def merge(
    posteriors: Sequence[Posterior],
    prior: Normal | tuple[Any, Any] | None = None,
    *,
    form: str = "full",
    rounds: int = 0,
    draws: int = 4000,
    seed: int = 0,
    data: Any = None,
) -> Posterior:
    """Merge posteriors of shards of the data into the posterior of all data.

    The posteriors' normals on the unconstrained space are multiplied, and the prior that each of
    them holds is counted once: with precisions L_m, means m_m and the prior's L_0, m_0,

        L = sum_m L_m - (M - 1) L_0,    m = L^-1 (sum_m L_m m_m - (M - 1) L_0 m_0).

    That is exact where posteriors and prior are normal. A prior that is not is expanded to second
    order at the merged mean. The verdict holds the draws against the log density that follows from
    the shards, sum_m log p_m - (M - 1) log p_0, so that it tells where the normals do not do.

    Parameters
    ----------
    posteriors : sequence of Posterior
        Posteriors of the same program, each of its own shard of the data; given the parameters,
        observations of different shards must be independent. The normal of an approximation is its
        own; else it is that of the mean and the covariance of the draws.
    prior : Normal or (mean, covariance), optional
        What stands for the prior on the unconstrained space, of shape (d,) and (d, d); by default
        it follows from the program. The verdict is always of the program's own prior.
    form : {"full", "diagonal"}
        ``"diagonal"`` takes the diagonals of the precisions alone (Fisher-weighted averaging),
        for models of many parameters. It leaves correlations out: where there are any, its
        standard deviations are too small.
    rounds : int
        Newton steps on the log density of all data, each from the gradients and Hessians of the
        shards at the current mean, and never to a lower density.
    draws : int
        Draws of the merged normal.
    seed : int
        Seed of the draws.
    data : dict, pandas.DataFrame, xarray.Dataset or polars.DataFrame, optional
        All data, for predictions and what else needs them. Without it the posterior has no model,
        and no deterministic sites that depend on the data.

    Returns
    -------
    Posterior
        One chain of independent draws, with the merged normal in the group ``approximation``.

    Raises
    ------
    ModelError
        Where the posteriors are not of one program, or one has no model.
    UnsupportedModelError
        Where a latent site belongs to a shard, or the merged precision is not positive definite.
    DataError
        Where two posteriors are of the same data, or ``data`` is not what the shards make up.
    SettingsError
        An option that makes no sense.

    Warns
    -----
    ConvergenceWarning
        Where a check of the merged posterior failed, and of what ``form="diagonal"`` leaves out.

    References
    ----------
    Scott et al. (2016), Bayes and big data: the consensus Monte Carlo algorithm. Bardenet, Doucet
    and Holmes (2017), On Markov chain Monte Carlo methods for tall data, section 4. Matena and
    Raffel (2022), Merging models with Fisher-weighted averaging, equation 4.

    Examples
    --------
    >>> parts = [bayes.fit(model, shard, method="laplace") for shard in shards]
    >>> post = bayes.merge(parts, rounds=2)
    """
    begin = time.perf_counter()
    shape = _check_settings(posteriors, form, rounds, draws, seed)
    with computing():
        shards = Shards.of(posteriors)
        whole = None if data is None else shards.bind(data)
        normals = [normal_of(p, i) for i, p in enumerate(posteriors)]
        given = None if prior is None else given_prior(prior, shards.size)
        if form == "full" and shards.size > _DENSE:
            raise SettingsError(
                f"form='full' takes matrices of {shards.size} x {shards.size}; form='diagonal' does"
                " not"
            )
        merged = product(shape, shards, normals, given, patient=rounds > 0)
        found = merged if rounds == 0 else newton(shards, merged, rounds)
        if found.problem:
            raise UnsupportedModelError(found.problem)
        normal = shape.normal(found.mean, found.precision)
        taken = _draw(shards, normal, draws, seed, whole)
        record = MethodRecord(
            "merge",
            {
                "form": form,
                "rounds": rounds,
                "draws": draws,
                "prior": "given" if given is not None else "of the program",
            },
            f"of {shards.count} shards",
            seed,
            time.perf_counter() - begin,
            {**taken.info, "steps": found.steps},
            versions(),
            f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        )
        posterior = _assemble(shards, whole, taken, record, found.notes)
    if form == "diagonal":
        warnings.warn(narrowness(normals), ConvergenceWarning, stacklevel=2)
    if not posterior.diagnostics.ok:
        warnings.warn(posterior.diagnostics.verdict, ConvergenceWarning, stacklevel=2)
    return posterior


def _check_settings(posteriors: Any, form: str, rounds: int, draws: int, seed: int) -> Form:
    if not isinstance(posteriors, Sequence):
        raise SettingsError(f"posteriors is a sequence, got {type(posteriors).__name__}")
    if len(posteriors) < 2:
        raise SettingsError(f"merge takes at least two posteriors, got {len(posteriors)}")
    for i, posterior in enumerate(posteriors):
        if not isinstance(posterior, Posterior):
            raise SettingsError(f"posteriors[{i}] is not a Posterior: {type(posterior).__name__}")
    if form not in FORMS:
        raise SettingsError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    require_whole("rounds", rounds, least=0)
    require_whole("draws", draws)
    require_seed(seed)
    if rounds and form != "full":
        raise SettingsError(f"rounds={rounds} takes Hessians, which form={form!r} leaves out")
    return FORMS[form]


def _draw(shards: Shards, normal: Normal, count: int, seed: int, whole: Problem | None) -> Draws:
    """Draws of the merged normal, with the log density of all data."""
    generator = generator_of(seed_key(seed), Purpose.DRAWS)
    x = normal.mean + push(normal, generator.standard_normal((count, shards.size)))
    bound = shards.first if whole is None else whole
    values = bound.constrain(x[None])
    if whole is None:
        values = {n: v for n, v in values.items() if n in shards.common}
    info = {
        "independent": True,
        "route": "raw",
        "not_converged": "",
        "shards": [
            {"method": m, "failed": f} for m, f in zip(shards.methods, shards.failed, strict=True)
        ],
    }
    return Draws(
        values,
        {"lp": shards.log_density(x)[None]},
        chains=1,
        positions=x[None],
        log_q=log_prob(normal, x)[None],
        info=info,
        normal=normal,
    )


def _assemble(
    shards: Shards,
    whole: Problem | None,
    draws: Draws,
    record: MethodRecord,
    notes: Sequence[str],
) -> Posterior:
    """Groups and verdict; without all data, what is of one shard's is left out."""
    bound = shards.first if whole is None else whole
    left_out = [n for n in bound.parameters if n not in draws.values]
    notes = [*(bound.notes if whole is not None else []), *shards.notes, *notes]
    if whole is None:
        text = "without data= the merged posterior has no model, observed data or predictions"
        notes.append(text + (f", nor draws of {', '.join(left_out)}" if left_out else ""))
    assert draws.log_q is not None
    info = {
        **draws.info,
        "non_finite": count_non_finite({n: np.asarray(v) for n, v in draws.values.items()}),
        "frozen": [] if whole is None else whole.frozen,
        "sampled": list(bound.judged),
        "notes": notes,
    }
    own = {n: draws.values[n] for n in bound.parameters if n in draws.values}
    stats: Mapping[str, np.ndarray] = {**draws.stats, "log_q": draws.log_q}
    verdict = judge_draws(own, stats, info)

    def tree() -> xr.DataTree:
        with computing():
            made = draws_tree(bound, draws)
        if whole is None:
            for group in ("observed_data", "constant_data"):
                if group in made.children:
                    del made[group]
        about = {"model": bound.model.name, "method": record.name, "seed": record.seed}
        made["posterior"].attrs.update(about)
        return made

    return Posterior(tree, record, verdict, whole)
