"""Settings of a fit's computations that end with the fit: compilation cache, BLAS threads."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache
from threadpoolctl import threadpool_limits

from bayes.precision import double_precision

__all__ = ["computing"]

_CACHE_BYTES = 2**30


def _cache_folder() -> str | None:
    """Where compiled functions are kept: BAYES_CACHE, else the user's cache folder.

    An empty BAYES_CACHE turns the cache off.
    """
    if "BAYES_CACHE" in os.environ:
        return os.environ["BAYES_CACHE"] or None
    base = os.environ.get("XDG_CACHE_HOME") or str(pathlib.Path.home() / ".cache")
    return str(pathlib.Path(base) / "bayes" / "compiled")


@contextlib.contextmanager
def _compilation_cache() -> Iterator[None]:
    folder = _cache_folder()
    if jax.config.jax_compilation_cache_dir is not None or folder is None:
        yield
        return
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError:  # a home that cannot be written to: compile anew
        yield
        return
    settings = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        # The limit bounds the folder, and makes JAX lock it against other processes.
        "jax_compilation_cache_max_size": _CACHE_BYTES,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """The settings under which a fit computes.

    Double precision; JAX's persistent compilation cache unless the user has set one; one BLAS
    thread a call, because chains run side by side and OpenBLAS threads of several small
    factorisations only wait for each other (25 times slower at 100 x 100 on two cores).
    """
    with _compilation_cache(), double_precision(), threadpool_limits(1, user_api="blas"):
        yield
