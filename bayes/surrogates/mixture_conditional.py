"""Sites that together have a mixture of normals, each given those before it."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions.transforms import biject_to
from numpyro.distributions.util import sum_rightmost

from bayes.surrogates.mixtures import Mixture, conditional_sample, element_log_probs, head

__all__ = ["MixtureConditional", "MixtureRun"]


class MixtureRun:
    """One run of a program whose latent sites together have a mixture.

    Site by site, every conditional would be worked out from all elements before it. A run that
    draws its sites takes all that is left of a draw from the first of them; one that is given
    values of all sites has their conditional densities worked out at once, at its end.

    Parameters
    ----------
    mixture : Mixture
        Of the flat unconstrained elements of all sites.
    """

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture
        self.flat: list[Array] = []  # unconstrained elements of each site so far
        self._values: list[Any] = []
        self._each: Array | None = None
        self._drawn: tuple[Any, Array] | None = None
        self._ahead: Array | None = None
        self._ahead_from = 0
        self._any_drawn = False

    @property
    def place(self) -> int:
        """Elements of the sites so far."""
        return sum(v.size for v in self.flat)

    def draw(self, conditional: MixtureConditional, key: Array) -> Array | None:
        """A draw of the next site, or None where that site has its value already."""
        if conditional.start != self.place or self._drawn is not None:
            return None
        ahead = self._ahead
        if ahead is None:
            ahead = conditional_sample(self.mixture, joined(self.flat), key)
            self._ahead, self._ahead_from = ahead, conditional.start
        ends = conditional.start - self._ahead_from, conditional.stop - self._ahead_from
        flat = jax.lax.slice_in_dim(ahead, *ends)
        value = conditional.constrained(flat)
        self._drawn = value, flat
        return value

    def record(self, conditional: MixtureConditional, value: Any) -> None:
        """Take note of a site's value; after the last one, work out the densities."""
        if self._drawn is not None and value is self._drawn[0]:
            flat = self._drawn[1]
            self._any_drawn = True
        else:  # the rest of a draw belongs to what was drawn, not to this value
            flat = conditional.unconstrained(value).reshape(-1)
            self._ahead = None
        self._drawn = None
        self.flat.append(flat)
        self._values.append(value)
        if self.place == self.mixture.size and not self._any_drawn:
            self._each = element_log_probs(self.mixture, joined(self.flat))

    def density(self, conditional: MixtureConditional, value: Any) -> tuple[Array, Array] | None:
        """Unconstrained elements of a site's value and their log densities, if they are known."""
        index = len(conditional.before)
        if self._each is None or value is not self._values[index]:
            return None
        each = jax.lax.slice_in_dim(self._each, conditional.start, conditional.stop)
        return self.flat[index], each


def joined(parts: Any) -> Array:
    """One flat vector of many."""
    return jnp.concatenate(parts) if len(parts) else jnp.zeros(0)


class MixtureConditional(dist.Distribution):
    """A site's elements given those of earlier sites, all of them together of a mixture.

    Parameters
    ----------
    mixture : Mixture
        Of the flat unconstrained elements of all sites.
    before : tuple of array
        The elements of each earlier site.
    support : Constraint
        Support of the site.
    batch_shape, event_shape, flat_shape : tuple of int
        Shapes of the site, and of its unconstrained values.
    start, stop : int
        Places of its elements among all of them.
    run : MixtureRun, optional
        The run of the program that the site is part of.
    """

    # Not a field: what a run found out is not handed on to copies.
    __slots__ = ("_run",)

    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("mixture", "before", "_support")
    pytree_aux_fields = ("flat_shape", "start", "stop")

    joint_ndim = property(lambda self: len(self.batch_shape) + len(self.event_shape))
    """Trailing dimensions whose elements are not independent: all of them, plates or not."""

    def __init__(
        self,
        mixture: Mixture,
        before: tuple[Any, ...],
        support: Any,
        batch_shape: tuple[int, ...],
        event_shape: tuple[int, ...],
        flat_shape: tuple[int, ...],
        start: int,
        stop: int,
        run: MixtureRun | None = None,
    ) -> None:
        self.mixture, self.before, self._support = mixture, before, support
        self.flat_shape, self.start, self.stop = flat_shape, start, stop
        self._run = run
        super().__init__(batch_shape, event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """Support of the site."""
        return self._support

    def constrained(self, flat: Array) -> Array:
        """Values of flat unconstrained elements, with any leading dimensions."""
        with jax.numpy_rank_promotion("allow"):
            return biject_to(self._support)(flat.reshape(*flat.shape[:-1], *self.flat_shape))

    def unconstrained(self, value: Any) -> Array:
        """Unconstrained elements of values."""
        with jax.numpy_rank_promotion("allow"):
            return jnp.asarray(biject_to(self._support).inv(value))

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws given the elements before."""
        run = getattr(self, "_run", None)
        value = run.draw(self, key) if run is not None and sample_shape == () else None
        if value is not None:
            return value
        part = head(self.mixture, self.stop)
        flat = conditional_sample(part, joined(self.before), key, tuple(sample_shape))
        return self.constrained(flat)

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        """Log density on the constrained space, of every element of the batch."""
        run = getattr(self, "_run", None)
        known = run.density(self, value) if run is not None else None
        with jax.numpy_rank_promotion("allow"):
            if known is not None:
                free, density = (v.reshape(self.flat_shape) for v in known)
            else:
                free = self.unconstrained(value)
                density = self._conditional(free)
            ndim = jnp.ndim(value) - len(self.event_shape)
            density = sum_rightmost(density, jnp.ndim(density) - ndim)
            stretch = biject_to(self._support).log_abs_det_jacobian(free, value)
            return density - sum_rightmost(stretch, jnp.ndim(stretch) - ndim)

    def _conditional(self, free: Array) -> Array:
        """Log densities of unconstrained elements, with any leading dimensions."""
        lead = jnp.shape(free)[: jnp.ndim(free) - len(self.flat_shape)]
        before = joined(self.before)
        before = jnp.broadcast_to(before, (*lead, before.shape[-1]))
        flat = jnp.concatenate([before, free.reshape(*lead, -1)], axis=-1)
        each = element_log_probs(head(self.mixture, self.stop), flat)[..., self.start :]
        return each.reshape(jnp.shape(free))
