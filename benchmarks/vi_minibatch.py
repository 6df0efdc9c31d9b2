"""ADVI on subsamples of many rows, beside the normal at the mode of all of them.

    python benchmarks/vi_minibatch.py [--rows N] [--columns N] [--part N] [--family NAME]

Logistic regression, a million made-up rows of ten columns and an intercept, 1000 rows a step. At so
many rows the posterior is normal to all that matters: mode and Hessian are found by Newton's method
in NumPy. Prints seconds of a first fit, compilation included, the most memory of the process before
and after it, the largest error of a mean in standard deviations, and the smallest and largest ratio
of standard deviations. JAX's compilation cache is off.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings

import datasets
import numpy as np
from vi_child import peak_memory


def normal_at_mode(design: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mode and standard deviations of intercept and slopes with standard normal priors.

    Parameters
    ----------
    design : array of shape (row, column)
    y : array of shape (row,)
        Zeros and ones.
    """
    x = np.column_stack([np.ones(len(y)), design])
    mode = np.zeros(x.shape[1])
    for _ in range(50):
        chance = 1.0 / (1.0 + np.exp(-(x @ mode)))
        gradient = x.T @ (y - chance) - mode
        precision = (x * (chance * (1.0 - chance))[:, None]).T @ x + np.eye(len(mode))
        move = np.linalg.solve(precision, gradient)
        mode = mode + move
        if gradient @ move < 1e-16:
            break
    return mode, np.sqrt(np.diag(np.linalg.inv(precision)))


def main() -> None:
    """Fit once, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--part", type=int, default=1000, help="rows of a subsample")
    parser.add_argument("--family", default="mean_field", help="that of ADVI")
    parser.add_argument("--draws", type=int, help="draws in the end, if not the default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["BAYES_CACHE"] = ""
    warnings.simplefilter("ignore")

    import vi_programs

    import bayes
    from bayes.inference.advi import ADVI

    data = datasets.logistic(options.rows, options.columns)
    more = {} if options.draws is None else {"draws": options.draws}
    method = ADVI(family=options.family, **more)
    before = peak_memory()
    begin = time.perf_counter()
    post = bayes.fit(
        vi_programs.logistic_in_parts, {**data, "part": options.part}, method, seed=options.seed
    )
    seconds, after = time.perf_counter() - begin, peak_memory()

    sites = post.data["posterior"]
    draws = np.column_stack([sites["intercept"].values[0], sites["slope"].values[0]])
    mean, sd = normal_at_mode(data["design"], data["y"])
    errors = np.abs(draws.mean(axis=0) - mean) / sd
    ratios = draws.std(axis=0, ddof=1) / sd
    print(f"{options.rows} rows x {options.columns} columns, subsamples of {options.part}")
    print(f"cold fit            {seconds:.1f} s")
    print(f"most memory         {after:.0f} MB, {before:.0f} MB before the fit")
    print(f"largest mean error  {errors.max():.3f} sd ({len(draws)} draws)")
    print(f"ratio of sds        {ratios.min():.3f} to {ratios.max():.3f}")
    print(f"verdict             {post.diagnostics.verdict}")
    told = {k: v for k, v in post.method.info.items() if isinstance(v, (bool, int, float, str))}
    print(f"method              {told}")


if __name__ == "__main__":
    main()
