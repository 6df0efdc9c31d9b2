"""BlackJAX's Pathfinder with several paths, and its draws weighted, as it weights them."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from blackjax_engine import uniform_start
from engines import jax_cache
from vi_engines import DRAWS, Engine, Outcome
from vi_peers import Maps, choose

_PATHS = 8


class BlackJaxPathfinder(Engine):
    """Eight paths with defaults: 200 draws a path, all alike at first, then by their weights."""

    weighs = True

    @staticmethod
    def environment(cache: pathlib.Path) -> dict[str, str]:
        """One BLAS thread, and a compilation cache."""
        return {"OPENBLAS_NUM_THREADS": "1", **jax_cache(cache)}

    def __init__(self) -> None:
        import blackjax
        import jax
        from blackjax.vi import multipathfinder  # ImportError in versions that lack it

        jax.config.update("jax_enable_x64", True)
        self._jax, self._multipath, self._version = jax, multipathfinder, blackjax.__version__
        self._run: Any = None

    def prepare(self, target: Any) -> None:
        """Remember program and data."""
        self._target = target

    def fit(self, seed: int) -> None:
        """Run; the compiled function serves a second fit as well."""
        if self._run is None:
            self._maps = Maps(self._target.program, self._target.data)
            self._run = self._jax.jit(self._build())
        self._state = self._run(self._jax.random.key(seed))
        pool = self._state.samples
        self._z = self._jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), pool)
        self._draws = self._maps.constrain(self._z)
        self._khat = None

    def weigh(self, seed: int) -> None:
        """Choose among the draws of all paths by BlackJAX's weights."""
        weights, khat = self._multipath.psis_weights(self._state)
        weights, self._khat = np.nan_to_num(np.exp(np.asarray(weights))), float(khat)
        if weights.sum() > 0:
            chosen = choose(weights / weights.sum(), DRAWS, seed)
            self._draws = {k: v[:, chosen] for k, v in self._draws.items()}

    def outcome(self) -> Outcome:
        """Draws, and k-hat once they are weighted."""
        return Outcome(self._draws, self._khat)

    def _build(self) -> Any:
        jax, log_density = self._jax, self._maps.log_density
        from numpyro.infer.util import initialize_model

        found = initialize_model(
            jax.random.key(0),
            self._target.program,
            model_kwargs=self._target.data,
            validate_grad=False,
        )
        template = found.param_info.z

        def run(key: Any) -> Any:
            start_key, key = jax.random.split(key)

            def start(one: Any) -> Any:
                return uniform_start(jax, log_density, template, one)

            starts = jax.vmap(start)(jax.random.split(start_key, _PATHS))
            return self._multipath.multi_approximate(key, log_density, starts)[0]

        return run
