"""ArviZ's summary table, with the statistics of all elements of a site computed at once."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.diagnostics.blocks import by_block, halves
from bayes.diagnostics.effective_size import centre, effective_size
from bayes.diagnostics.ranks import bulk_ess, mean_ess, rank_rhat, tail_ess

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["summary", "summary_kind"]


def summary(data: xr.DataTree, **options: Any) -> Any:
    """What ``arviz_stats.summary`` gives, sooner.

    Parameters
    ----------
    data : xarray.DataTree
        Group posterior.
    **options
        Go to ``arviz_stats.summary``.

    Returns
    -------
    pandas.DataFrame
        One row an element.
    """
    import arviz_base
    import arviz_stats

    # ArviZ takes its statistics from whatever object this setting names.
    with arviz_base.rc_context({"stats.module": _statistics()}):
        return arviz_stats.summary(data, **options)


def summary_kind(tree: xr.DataTree) -> str:
    """What of ArviZ's table says something of a posterior's draws.

    Those of an approximation are independent: R-hat and effective sample sizes are of it, whatever
    the posterior is.
    """
    if tree["posterior"].attrs.get("independent"):
        return "stats"
    stats = tree.children.get("sample_stats")
    return "stats" if stats is not None and "log_q" in stats.data_vars else "all"


@functools.cache
def _statistics() -> Any:
    """ArviZ's statistics, but for those that it computes element by element."""
    from arviz_stats.base.array import BaseArray
    from arviz_stats.base.dataarray import BaseDataArray

    class Batched(BaseArray):
        def ess(self, ary: Any, *axes: Any, **options: Any) -> Any:
            fast = {"bulk": bulk_ess, "mean": mean_ess, "tail": functools.partial(_tail, options)}
            statistic = fast.get(options.get("method", "bulk"))
            if statistic is None or options.get("relative") or not _ordered(ary, axes, options):
                return super().ess(ary, *axes, **options)
            return _by_element(statistic, ary)

        def rhat(self, ary: Any, *axes: Any, **options: Any) -> Any:
            if options.get("method", "rank") != "rank" or not _ordered(ary, axes, options):
                return super().rhat(ary, *axes, **options)
            return _by_element(rank_rhat, ary)

        def mcse(self, ary: Any, *axes: Any, **options: Any) -> Any:
            fast = {"mean": _mean_error, "sd": _spread_error}
            statistic = fast.get(options.get("method", "mean"))
            if statistic is None or options.get("circular") or not _ordered(ary, axes, options):
                return super().mcse(ary, *axes, **options)
            return _by_element(statistic, ary)

    return BaseDataArray(array_class=Batched())


def _ordered(ary: Any, axes: tuple, options: dict[str, Any]) -> bool:
    """Whether chain and draw are the last dimensions, of which the rest here is sure."""
    places = options.get("chain_axis", -2), options.get("draw_axis", -1)
    return not axes and places == (-2, -1) and np.ndim(ary) > 1


def _by_element(statistic: Any, ary: Any) -> np.ndarray:
    rows = np.asarray(ary, dtype=float).reshape(-1, *np.shape(ary)[-2:])
    return statistic(np.moveaxis(rows, 0, 2)).reshape(np.shape(ary)[:-2])


def _tail(options: dict[str, Any], values: np.ndarray) -> np.ndarray:
    prob = options["prob"]
    low, high = sorted((prob, 1 - prob)) if np.ndim(prob) == 0 else prob
    return tail_ess(values, (float(low), float(high)))


def _mean_error(values: np.ndarray) -> np.ndarray:
    return values.std(axis=(0, 1), ddof=1) / np.sqrt(mean_ess(values))


def _spread_error(values: np.ndarray) -> np.ndarray:
    """Monte Carlo error of a standard deviation by the delta method, as ArviZ has it."""
    return by_block(values, _spread_errors, 1)[0]


def _spread_errors(rows: np.ndarray) -> np.ndarray:
    squares = np.square(rows - rows.mean(axis=(1, 2), keepdims=True))
    size = effective_size(centre(halves(squares)))
    mean, fourth = squares.mean(axis=(1, 2)), np.square(squares).mean(axis=(1, 2))
    return np.sqrt((fourth - mean**2) / size / mean / 4)[None]
