"""Kronecker models written with large matrices, to hold the solver against."""

import functools

import numpy as np

from bayes.inference.kronecker.tensors import outer


def numbers(rng, kind, *shape):
    """Standard normals, circular where complex."""
    if kind == "real":
        return rng.standard_normal(shape)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


class Dense:
    """A Kronecker model with the large matrix, and with one covariance for each snapshot's mask."""

    def __init__(self, factors, y, mask, relevances, variance):
        self.matrix = functools.reduce(np.kron, factors)
        self.prior = functools.reduce(np.kron, relevances)
        self.shape = tuple(len(g) for g in relevances)
        self.rows, self.y, self.weights, self.covariances = [], [], [], []
        whole = (self.matrix * self.prior) @ self.matrix.conj().T
        whole = whole + variance * np.eye(len(whole))
        for snapshot, seen in zip(y, np.broadcast_to(mask, y.shape), strict=True):
            rows = np.flatnonzero(seen)
            self.rows.append(rows)
            self.y.append(snapshot.ravel()[rows])
            self.covariances.append(whole[np.ix_(rows, rows)])
            self.weights.append(np.linalg.solve(self.covariances[-1], self.y[-1]))

    @property
    def mean(self):
        found = [
            self.prior * (self.matrix[rows].conj().T @ w)
            for rows, w in zip(self.rows, self.weights, strict=True)
        ]
        return np.reshape(found, (-1, *self.shape))

    def posterior(self, snapshot=0):
        """Covariance of the coefficients of a snapshot."""
        part = self.matrix[self.rows[snapshot]] * self.prior
        explained = part.conj().T @ np.linalg.solve(self.covariances[snapshot], part)
        return np.diag(self.prior) - explained

    def statistics(self, relevances):
        """Pull and push along each axis, and of the noise."""
        power, z, noise = 0.0, 0.0, np.zeros(2)
        for rows, w, a in zip(self.rows, self.weights, self.covariances, strict=True):
            part = self.matrix[rows]
            inverse = np.linalg.inv(a)
            power = power + np.abs(part.conj().T @ w) ** 2
            z = z + np.sum(part.conj() * (inverse @ part), axis=0).real
            noise += np.vdot(w, w).real, np.trace(inverse).real
        slices = []
        for axis in range(len(relevances)):
            others = [np.ones_like(g) if i == axis else g for i, g in enumerate(relevances)]
            rest = tuple(i for i in range(len(relevances)) if i != axis)
            slices.append(
                [np.sum(v.reshape(self.shape) * outer(others), axis=rest) for v in (power, z)]
            )
        return slices, noise

    @property
    def log_evidence(self):
        total = 0.0
        for y, w, a in zip(self.y, self.weights, self.covariances, strict=True):
            square, log_det = np.vdot(y, w).real, np.linalg.slogdet(a)[1]
            if np.iscomplexobj(y):
                total -= square + log_det + len(y) * np.log(np.pi)
            else:
                total -= 0.5 * (square + log_det + len(y) * np.log(2 * np.pi))
        return total
