"""What every test starts from: fixed seeds, and programs that an earlier run has compiled."""

import importlib.util
import os
import pathlib
import random

CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"

# Before JAX is imported, and in the environment, so that processes started by tests have it too.
# Only with a size limit does JAX lock the cache; without the lock a worker reads what another has
# half written and warns, which fails its test. The lock needs filelock.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ and importlib.util.find_spec("filelock"):
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(256 * 2**20)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax
import jaxtyping
import numpy as np
import pytest

# Our own code promotes no ranks; a user's program may, and bayes allows it there.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def _fixed_seeds():
    """What draws without a seed of its own draws the same in every run, alone or among others."""
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def _same_precision():
    """No test may leave JAX in another precision than it found: bayes promises not to touch it."""
    before = jax.config.jax_enable_x64
    yield
    after = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", before)
    assert after == before, f"the test left jax_enable_x64={after}"


@pytest.fixture
def key():
    """A key of JAX."""
    return jax.random.key(0)


@pytest.fixture
def rng():
    """A generator of NumPy."""
    return np.random.default_rng(0)


@pytest.fixture
def unchecked():
    """Run without the type checks, as users do: to see what bayes itself says to a wrong type."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
