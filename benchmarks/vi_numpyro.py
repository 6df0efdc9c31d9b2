"""NumPyro's stochastic variational inference as in its examples, and its draws weighted."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from engines import jax_cache
from vi_engines import DRAWS, Engine, Outcome
from vi_peers import Maps, choose, smoothed_weights

_STEPS, _RATE = 8000, 0.005


class NumPyroSVI(Engine):
    """8000 Adam steps on the ELBO in double precision, from a guide's default start.

    Parameters
    ----------
    guide : str
        A class of ``numpyro.infer.autoguide``.
    """

    weighs = True

    @staticmethod
    def environment(cache: pathlib.Path) -> dict[str, str]:
        """One BLAS thread; and a compilation cache, as ``SVI.run`` traces anew each time."""
        return {"OPENBLAS_NUM_THREADS": "1", **jax_cache(cache)}

    def __init__(self, guide: str) -> None:
        import numpyro
        from numpyro.infer import autoguide

        numpyro.enable_x64()
        self._guide_class = getattr(autoguide, guide)
        self._svi: Any = None

    def prepare(self, target: Any) -> None:
        """Remember program and data."""
        self._target = target

    def fit(self, seed: int) -> None:
        """Run, and draw; a second fit runs the same objects, as a user would."""
        import jax
        import numpyro
        from numpyro.infer import SVI, Trace_ELBO

        data = self._target.data
        if self._svi is None:
            self._guide = self._guide_class(self._target.program)
            optimiser = numpyro.optim.Adam(_RATE)
            self._svi = SVI(self._target.program, self._guide, optimiser, Trace_ELBO())
            self._maps = Maps(self._target.program, data)
            self._sample = jax.jit(self._draw)
        run_key, draw_key = jax.random.split(jax.random.key(seed))
        result = self._svi.run(run_key, _STEPS, progress_bar=False, **data)
        self._z, self._log_q = self._sample(draw_key, result.params)
        self._draws = self._maps.constrain(self._z)
        self._last = float(result.losses[-_STEPS // 20 :].mean())
        self._khat = None

    def weigh(self, seed: int) -> None:
        """Choose among the draws by their smoothed weights."""
        weights, self._khat = smoothed_weights(
            self._maps.densities(self._z), np.asarray(self._log_q)
        )
        chosen = choose(weights, DRAWS, seed)
        self._draws = {k: v[:, chosen] for k, v in self._draws.items()}

    def outcome(self) -> Outcome:
        """Draws, and k-hat once they are weighted."""
        return Outcome(self._draws, self._khat, about={"loss": self._last})

    def _draw(self, key: Any, params: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """Unconstrained draws and their log density under the guide."""
        import jax
        import numpyro.distributions as dist

        if hasattr(self._guide, "get_posterior"):
            q = self._guide.get_posterior(params)
            flat = q.sample(key, (DRAWS,))
            log_q = q.log_prob(flat)
            z = jax.vmap(self._guide._unpack_latent)(flat)
            return z, log_q.sum(axis=1) if log_q.ndim > 1 else log_q
        # AutoNormal: a location and a scale a site.
        z, log_q = {}, 0.0
        names = [k.removesuffix("_auto_loc") for k in params if k.endswith("_auto_loc")]
        for name, site_key in zip(names, jax.random.split(key, len(names)), strict=True):
            q = dist.Normal(params[f"{name}_auto_loc"], params[f"{name}_auto_scale"])
            z[name] = q.sample(site_key, (DRAWS,))
            log_q = log_q + q.log_prob(z[name]).reshape(DRAWS, -1).sum(axis=1)
        return z, log_q
