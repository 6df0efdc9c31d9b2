"""Where observations lie in their predictive distributions: probability integral transforms."""

from __future__ import annotations

import numpy as np

from bayes.diagnostics.report.contents import Figure
from bayes.diagnostics.report.figures import COLOURS, drawing, picture

__all__ = ["evenly", "pit_figure", "plain_pit"]

UNIFORM = 0.05
_MOST = 1000


def plain_pit(values: np.ndarray, replicates: np.ndarray) -> np.ndarray:
    """Share of replicates below each observation, ties at random.

    Parameters
    ----------
    values : array of shape (observation,)
        Observations.
    replicates : array of shape (draw, observation)
        Predictions of them.

    Returns
    -------
    array of shape (observation,)
        Of at most 1000 observations, evenly chosen; inside (0, 1).
    """
    chosen = evenly(len(values))
    rng = np.random.default_rng(0)
    below = (replicates[:, chosen] < values[chosen]).sum(axis=0)
    equal = (replicates[:, chosen] == values[chosen]).sum(axis=0)
    # With one observation among so many replicates, each of the places between them is as likely.
    return (below + rng.uniform(size=len(chosen)) * (equal + 1)) / (len(replicates) + 1)


def evenly(count: int, most: int = _MOST) -> np.ndarray:
    """Places of at most so many observations, evenly chosen."""
    return np.linspace(0, count - 1, min(count, most)).astype(int)


def pit_figure(pit: np.ndarray, site: str, *, loo: bool) -> tuple[Figure, float, str]:
    """The difference of the transforms' distribution from the uniform one, tested.

    Parameters
    ----------
    pit : array of shape (observation,)
        Probability integral transforms.
    site : str
        The observed site.
    loo : bool
        Whether each is given the other observations only.

    Returns
    -------
    Figure
    float
        p-value of uniformity.
    str
        What it says of the model; empty where nothing speaks against uniformity.

    References
    ----------
    Tesso et al. (2026), LOO-PIT predictive model checking: the test allows for the dependence of
    the transforms.
    """
    import arviz_base
    import arviz_plots
    from arviz_stats.base import array_stats

    what = "LOO-PIT" if loo else "PIT"
    p = float(array_stats.uniformity_test(pit)[0])
    tree = arviz_base.from_dict(
        {"pit": {site: pit}}, dims={site: ["observation"]}, sample_dims=["observation"]
    )
    with drawing() as plt:
        ink = plt.rcParams["text.color"]
        collection = arviz_plots.plot_ecdf_pit(
            tree,
            group="pit",
            sample_dims=["observation"],
            method="pot_c",
            envelope_prob=1 - UNIFORM,
            backend="matplotlib",
            visuals={
                "ecdf_lines": {"color": COLOURS[0]},
                "suspicious_points": {"color": COLOURS[1]},
                "p_value_text": False,
                "title": False,
                "xlabel": {"text": what, "color": ink},
                "ylabel": {"text": "difference from uniform", "color": ink},
            },
            figure_kwargs={"figsize": (6.4, 2.6), "figsize_units": "inches"},
        )
        figure = collection.viz["figure"].item()
        collection.viz["ref_line"][site].item().set(color=ink, alpha=0.6)
        given = " given the other observations" if loo else ""
        finding = _shape(pit) if p < UNIFORM else ""
        caption = (
            f"Where each observation of {site} lies in its predictive distribution{given} "
            f"({what}): empirical minus uniform distribution function. A calibrated model stays "
            "near 0; below 0 on the left and above 0 on the right is a predictive distribution "
            "that is too wide, the reverse one that is too narrow, one sign throughout a bias. "
            f"Here p = {p:.2g} for uniformity: {finding or 'nothing speaks against it'}."
        )
        summary = f"{what} of {site} against the uniform distribution."
        return picture(figure, caption, summary), p, finding


def _shape(pit: np.ndarray) -> str:
    """How transforms differ from uniform ones: at the ends, by their place, by their spread.

    Each is named where uniform transforms would come so far once in some 400 cases.
    """
    count = len(pit)
    end = float(np.minimum(pit, 1 - pit).min()) * 2 * count
    place = (pit.mean() - 0.5) * np.sqrt(12 * count)
    spread = (np.square(pit - 0.5).mean() - 1 / 12) * np.sqrt(180 * count)
    found = []
    if end < 0.0025:
        found.append("observations lie farther out than its tails reach (a Student t's would)")
    if abs(place) > 3:
        found.append(f"the data are {'larger' if place > 0 else 'smaller'} than predicted")
    if abs(spread) > 3:
        found.append(f"most predictions are too {'narrow' if spread > 0 else 'wide'}")
    return "; ".join(found) or "their places are uneven, see where the line leaves 0"
