"""BlackJAX: window adaptation and NUTS, all chains in one compiled function of key and data."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from engines import CHAINS, DRAWS, WARMUP, Engine, Outcome, jax_cache

_TRIES = 100


class BlackJax(Engine):
    """Density by NumPyro, chains vectorised, double precision, JAX's persistent cache."""

    name = "blackjax"

    @staticmethod
    def environment(cache: pathlib.Path) -> dict[str, str]:
        """One BLAS thread, and a compilation cache."""
        return {"OPENBLAS_NUM_THREADS": "1", **jax_cache(cache)}

    def __init__(self) -> None:
        import blackjax
        import jax
        import numpyro

        jax.config.update("jax_enable_x64", True)
        self._jax, self._blackjax, self._numpyro = jax, blackjax, numpyro
        self._run: Any = None

    def prepare(self, target: Any) -> None:
        """Split the data in arrays, which are arguments, and numbers, which are constants."""
        self._program = target.program
        self._arrays = {k: v for k, v in target.data.items() if isinstance(v, np.ndarray)}
        self._static = {k: v for k, v in target.data.items() if k not in self._arrays}

    def fit(self, seed: int) -> None:
        """Run; the compiled function serves a second fit as well."""
        if self._run is None:
            self._run = self._jax.jit(self._build())
        draws, stats = self._run(self._jax.random.key(seed), self._arrays)
        self._draws = {k: np.asarray(v) for k, v in draws.items()}
        self._stats = {k: np.asarray(v) for k, v in stats.items()}

    def show(self) -> None:
        """Print a summary; BlackJAX has none of its own, so it is NumPyro's."""
        from numpyro.diagnostics import print_summary

        print_summary(self._draws)

    def outcome(self) -> Outcome:
        """Draws and statistics."""
        steps = self._stats["steps"]
        return Outcome(
            self._draws,
            int(self._stats["diverging"].sum()),
            float(steps.mean()),
            int(steps.sum() + self._stats["warmup_steps"].sum()),
        )

    def _build(self) -> Any:
        jax, blackjax = self._jax, self._blackjax
        jnp = jax.numpy
        info = self._numpyro.infer.util.initialize_model(
            jax.random.key(0),
            self._program,
            dynamic_args=True,
            model_kwargs={**self._arrays, **self._static},
            validate_grad=False,
        )
        template = info.param_info.z

        def chain(key: Any, arrays: dict[str, Any]) -> tuple[dict, dict]:
            data = {**arrays, **self._static}
            potential = info.potential_fn(**data)

            def log_density(z: Any) -> Any:
                return -potential(z)

            start_key, warmup_key, draw_key = jax.random.split(key, 3)
            start = uniform_start(jax, log_density, template, start_key)
            warmup = blackjax.window_adaptation(
                blackjax.nuts,
                log_density,
                # Nothing but the cost: the states of the warm-up would take as much memory again.
                adaptation_info_fn=lambda state, info, adaptation: info.num_integration_steps,
            )
            (state, parameters), warmup_steps = warmup.run(warmup_key, start, WARMUP)
            step = blackjax.nuts(log_density, **parameters).step

            def draw(state: Any, key: Any) -> tuple[Any, tuple]:
                state, info = step(key, state)
                return state, (state.position, info.num_integration_steps, info.is_divergent)

            keys = jax.random.split(draw_key, DRAWS)
            _, (z, steps, diverging) = jax.lax.scan(draw, state, keys)
            draws = jax.lax.map(info.postprocess_fn(**data), z)
            return draws, {"steps": steps, "warmup_steps": warmup_steps, "diverging": diverging}

        def run(key: Any, arrays: dict[str, Any]) -> tuple[dict, dict]:
            arrays = jax.tree.map(jnp.asarray, arrays)
            return jax.vmap(chain, in_axes=(0, None))(jax.random.split(key, CHAINS), arrays)

        return run


def uniform_start(jax: Any, log_density: Any, template: Any, key: Any) -> Any:
    """A point within two units of zero, drawn anew until its density is finite."""
    jnp = jax.numpy
    flat, unravel = jax.flatten_util.ravel_pytree(template)

    def draw(key: Any) -> Any:
        return jax.random.uniform(key, flat.shape, flat.dtype, -2.0, 2.0)

    def bad(carry: tuple) -> Any:
        _, z, tries = carry
        return ~jnp.isfinite(log_density(unravel(z))) & (tries < _TRIES)

    def again(carry: tuple) -> tuple:
        key, next_key = jax.random.split(carry[0])
        return next_key, draw(key), carry[2] + 1

    key, first = jax.random.split(key)
    return unravel(jax.lax.while_loop(bad, again, (key, draw(first), 1))[1])
