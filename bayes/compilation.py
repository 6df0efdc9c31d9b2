"""Settings of a fit's computations that end with the fit: compilation cache, BLAS threads."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

import filelock
import jax
from jax.experimental.compilation_cache import compilation_cache
from threadpoolctl import threadpool_limits

from bayes.precision import double_precision

__all__ = ["computing"]

_CACHE_BYTES = 2**30
_CACHE_ENTRIES = 500
"""More are not kept: with each that JAX adds it looks at all of them."""
_pruned: set[str] = set()


def _cache_folder() -> str | None:
    """Where compiled functions are kept: BAYES_CACHE, else the user's cache folder.

    An empty BAYES_CACHE turns the cache off.
    """
    if "BAYES_CACHE" in os.environ:
        return os.environ["BAYES_CACHE"] or None
    base = os.environ.get("XDG_CACHE_HOME") or str(pathlib.Path.home() / ".cache")
    return str(pathlib.Path(base) / "bayes" / "compiled")


def _prune(folder: str) -> None:
    """Remove the entries that were not used for longest, where there are too many.

    JAX keeps the time of an entry's last use in a file beside it, and holds the lock taken here
    while it reads or writes.
    """
    suffix = "-atime"
    with contextlib.suppress(OSError, filelock.Timeout):
        used = [e for e in os.scandir(folder) if e.name.endswith(suffix)]
        if len(used) <= _CACHE_ENTRIES:
            return
        with filelock.FileLock(pathlib.Path(folder) / ".lockfile", timeout=0):
            used.sort(key=lambda e: e.stat().st_mtime)
            for entry in used[: len(used) - _CACHE_ENTRIES // 2]:
                path = pathlib.Path(entry.path)
                path.with_name(entry.name.removesuffix(suffix) + "-cache").unlink(missing_ok=True)
                path.unlink(missing_ok=True)


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
    if folder not in _pruned:
        _pruned.add(folder)
        _prune(folder)
    settings = {
        "jax_compilation_cache_dir": folder,
        # To read an entry takes some milliseconds, a tenth of the quickest compilation.
        "jax_persistent_cache_min_compile_time_secs": 0.02,
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
