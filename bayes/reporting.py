"""From a posterior to its report: the groups that it is written from, and the facts of the run."""

from __future__ import annotations

import copy
import datetime
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.card import data_facts, model_facts
from bayes.compilation import computing
from bayes.diagnostics.report.contents import Case
from bayes.diagnostics.report.report import Report, require_writable, write_report
from bayes.errors import BayesError, SettingsError
from bayes.method import describe, methods
from bayes.seeds import require_seed
from bayes.stored_data import unpack_data

if TYPE_CHECKING:
    import xarray as xr

    from bayes.posterior import Posterior
    from bayes.problem import Problem

__all__ = ["report"]

_AT_DRAWS = ("posterior_predictive", "log_likelihood", "log_prior")
_GROUPS = ("prior", "prior_predictive", *_AT_DRAWS)

_MOST_NUMBERS = 16_000_000
"""Draws times the elements of the largest group (128 MB); with more, draws are left out."""
_FEW_DRAWS = 1000
_PRIOR_DRAWS, _PRIOR_NUMBERS, _FEWEST = 1000, 8_000_000, 200
_MEMORY = 2**29

_NO_MODEL = "the posterior was loaded without its model: bayes.load(path, model=...)"


def report(
    posterior: Posterior,
    path: str | os.PathLike | None = None,
    *,
    title: str | None = None,
    seed: int = 0,
    against_nuts: bool = False,
) -> Report:
    """Write the report of a posterior; see :meth:`bayes.Posterior.report`.

    Parameters
    ----------
    posterior : Posterior
        The posterior, which stays as it is.
    path : path, optional
        Where to save it: ``.html``, ``.md`` or ``.json``.
    title : str, optional
        Heading.
    seed : int
        Seed of prior and predictive draws.
    against_nuts : bool
        Whether to hold an approximation's draws against a short NUTS run (group ``nuts``).

    Returns
    -------
    Report

    Raises
    ------
    SettingsError
        Where the path or an option makes no sense, before anything is computed.
    """
    require_seed(seed)
    if path is not None:
        require_writable(path)
    if against_nuts and _is_exact(posterior.method.name):
        raise SettingsError(
            f"against_nuts checks an approximation; {posterior.method.name} draws from the "
            "posterior itself"
        )
    tree = posterior.data.copy()
    absent, thinned = _add_groups(posterior, tree, seed)
    if against_nuts:
        _add_nuts(posterior, tree, seed, absent)
    card = _card(posterior, thinned)
    case = Case(tree, posterior.diagnostics, card, absent)
    made = write_report(case, title or f"Posterior of {card['model']['name']}")
    if path is not None:
        made.save(path)
    return made


def _is_exact(name: str) -> bool:
    known = methods()
    return name in known and known[name].exact


# ------------------------------------------------------------------------ groups


def _add_groups(
    posterior: Posterior, tree: xr.DataTree, seed: int
) -> tuple[dict[str, str], str | None]:
    """Add the groups that are not there; why some cannot be, and what was thinned."""
    import xarray as xr

    wanted = [group for group in _GROUPS if group not in tree.children]
    if not posterior.has_model:
        return dict.fromkeys(wanted, _NO_MODEL), None
    if not {s.kind for s in posterior.problem.sites.values()} & {"observed", "factor"}:
        wanted = [group for group in wanted if group in ("prior", "log_prior")]  # its own prior
    absent: dict[str, str] = {}
    whole = _copy_with(posterior, tree)
    sizes = _elements(posterior.problem)
    step = _thinning(tree, max(sizes.values()))
    prior_draws = min(_PRIOR_DRAWS, max(_FEWEST, _PRIOR_NUMBERS // max(1, sum(sizes.values()))))
    few = _copy_with(posterior, _every(tree, step)) if step > 1 else whole

    def add(group: str, to: Posterior) -> None:
        failure = _attempt(lambda: to.extend(group, seed=seed, draws=prior_draws, memory=_MEMORY))
        if failure is not None:
            absent[group] = failure

    if "prior" in wanted or "prior_predictive" in wanted:
        add("prior", whole)
        if "prior_predictive" in wanted and "prior_predictive" not in tree.children:
            absent["prior_predictive"] = absent.get("prior", "the program has no observed site")
    for group in (g for g in _AT_DRAWS if g in wanted):
        add(group, few)
        if few is not whole and group not in absent:
            labels = few.data["posterior"]["draw"].values
            found = few.data[group].to_dataset().assign_coords(draw=labels)
            tree[group] = xr.DataTree(found)
    if step == 1:
        return absent, None
    draws = tree["posterior"].sizes["draw"]
    kept = len(range(0, draws, step))
    computed = ", ".join(g for g in _AT_DRAWS if g in wanted and g not in absent)
    said = f"{computed}: {kept} of {draws} draws a chain, which keeps memory small"
    return absent, said if computed else None


def _copy_with(posterior: Posterior, tree: xr.DataTree) -> Posterior:
    other = copy.copy(posterior)
    other.data = tree
    return other


def _elements(problem: Problem) -> dict[str, int]:
    """Numbers in one draw of all latent and of all observed sites."""
    sizes = {"latent": 0, "observed": 0}
    for site in problem.sites.values():
        if site.kind in sizes:
            sizes[site.kind] += int(np.prod(site.shape, dtype=int))
    return sizes


def _thinning(tree: xr.DataTree, elements: int) -> int:
    """Of how many draws one is kept where a group is computed at draws."""
    sizes = tree["posterior"].sizes
    draws = sizes["chain"] * sizes["draw"]
    return 1 if draws * elements <= _MOST_NUMBERS else -(-draws // _FEW_DRAWS)


def _every(tree: xr.DataTree, step: int) -> xr.DataTree:
    """The groups of draws with one of so many draws."""
    import xarray as xr

    groups = {
        name: tree[name].to_dataset().isel(draw=slice(None, None, step))
        for name in ("posterior", "auxiliary")
        if name in tree.children
    }
    return xr.DataTree.from_dict(groups)


def _add_nuts(posterior: Posterior, tree: xr.DataTree, seed: int, absent: dict[str, str]) -> None:
    """Draws of a short NUTS run of the same model and data."""
    import xarray as xr

    from bayes.fit import fit
    from bayes.inference.nuts import NUTS

    if not posterior.has_model:
        absent["nuts"] = _NO_MODEL
        return
    problem = posterior.problem

    def add() -> None:
        run = fit(problem.model, problem.data, NUTS(warmup=500, draws=500), seed=seed)
        tree["nuts"] = xr.DataTree(run.data["posterior"].to_dataset())

    failure = _attempt(add)
    if failure is not None:
        absent["nuts"] = failure


def _attempt(work: Callable[[], Any]) -> str | None:
    """Do what a report can do without; why it failed, where it did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            work()
        except BayesError as error:
            return " ".join(str(error).split())
        except Exception as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


# ------------------------------------------------------------------------- facts


def _card(posterior: Posterior, thinned: str | None) -> dict[str, Any]:
    method, sizes = posterior.method, posterior.data["posterior"].sizes
    card = {
        **_model_and_data(posterior),
        "draws": {"chains": sizes["chain"], "draws": sizes["draw"]},
        "method": {
            "name": method.name,
            "settings": describe(method.settings),
            "reason": method.reason,
            "seed": method.seed,
            "seconds": method.seconds,
            "finished": method.finished,
            "info": describe(method.info),
        },
        "versions": dict(method.versions),
        "created": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
    }
    return card if thinned is None else {**card, "thinned": thinned}


def _model_and_data(posterior: Posterior) -> dict[str, Any]:
    """Facts about model and data: from the problem, else from the posterior's file."""
    if posterior.has_model:
        problem = posterior.problem
        with computing():
            model = model_facts(problem)
        return {"model": model, "data": data_facts(problem.data, problem.observed_arguments)}
    stored = posterior.stored
    if stored is None:
        name = posterior.data["posterior"].attrs.get("model", "a model")
        return {"model": {"name": name, "sites": []}, "data": []}
    sites = [
        {
            "name": name,
            "kind": kind,
            "shape": list(shape),
            "distribution": distribution,
            "support": "",
            "plates": [],
            "parents": [],
        }
        for name, kind, shape, distribution in stored.model["sites"]
    ]
    model = {
        "name": stored.model["name"],
        "reparametrised": stored.model["reparametrised"],
        "sites": sites,
    }
    return {"model": model, "data": data_facts(unpack_data(stored.skeleton, stored.arrays))}
