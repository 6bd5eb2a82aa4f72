"""The blend: a linear score of the features plus a small ReLU layer, learned by softmax over the candidates.

Axes: F features, D context features, J hidden units, B events, C candidates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.signals.features import CONTEXT, FEATURES, SIGNAL_OF, Signal

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_TRUSTED = {
    Signal.TOGETHER: 3.0,
    Signal.SOON: 3.0,
    Signal.SESSION: 1.0,
    Signal.POPULAR: 1.0,
    Signal.POPULAR_SLOW: 1.0,
}
"""Before anything was learned."""
_ORDER = ("linear", "inner", "context", "bias", "outer")


def units(x: F32, linear: F32, inner: F32, out: F32) -> F32:
    """What features x (B, F, C) bring to each hidden unit, inner (J, F), and last to the score itself, linear (F,): out
    (B, J + 1, C).

    A product per event: it does not depend on who else is in the block.
    """
    return np.matmul(np.concatenate([inner, linear[None]]), x, out=out)


class Blend:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) with a step per call of `learn`; `version` counts the steps."""

    def __init__(self, hidden: int, learning_rate: float, seed: int, averaged: int = 100) -> None:
        rng = np.random.default_rng(seed)
        self.learning_rate = learning_rate
        linear = np.array([_TRUSTED.get(signal, 0.0) / 2 for signal in SIGNAL_OF], np.float32)
        self.weights: dict[str, F32] = {
            "linear": linear,
            "inner": (rng.standard_normal((hidden, FEATURES)) * (1 / np.sqrt(FEATURES))).astype(np.float32),
            "context": (rng.standard_normal((hidden, CONTEXT)) * (1 / np.sqrt(CONTEXT))).astype(np.float32),
            "bias": np.zeros(hidden, np.float32),
            "outer": np.zeros(hidden, np.float32),
        }
        self._mean = {name: np.zeros_like(each, np.float64) for name, each in self.weights.items()}
        self._square = {name: np.zeros_like(each, np.float64) for name, each in self.weights.items()}
        self.served = {name: each.copy() for name, each in self.weights.items()}
        """What lists are made with: the mean of the weights over about the last `averaged` steps (Polyak & Juditsky 1992)"""
        self.serving = self.served
        """The same, unless `serve` was called: then what it was given."""
        self.averaged = averaged
        self.version = 0

    def serve(self, weights: dict[str, F32]) -> None:
        """Make lists with these weights from now on, whatever is learned meanwhile."""
        self.serving = dict(weights)

    @staticmethod
    def _forward(w: dict[str, F32], x: F32, context: F32) -> tuple[F32, F32]:
        """Scores (B, C), and what goes out of the hidden units (B, J, C). A product per event: its features stay in the cache."""
        hidden: F32 = w["inner"] @ x
        hidden += (context @ w["context"].T + w["bias"])[:, :, None]
        np.maximum(hidden, 0, out=hidden)
        score: F32 = (w["linear"] @ x) + (w["outer"] @ hidden)
        return score, hidden

    def learn(self, x: F32, context: F32, there: NDArray[np.bool_], target: NDArray[np.int64]) -> float:
        """One step on B events: features (B, F, C), context (B, D), candidates that are there (B, C), place of the taken one
        (B,). Returns the mean loss, nats.
        """
        score, hidden = self._forward(self.weights, x, context)
        score = np.where(there, score, -np.inf)
        score -= score.max(axis=1, keepdims=True)
        p = np.exp(score)
        p /= p.sum(axis=1, keepdims=True)
        rows = np.arange(len(target))
        loss = float(-np.log(np.maximum(p[rows, target], 1e-30)).mean())
        p[rows, target] -= 1
        p /= len(target)
        self._step(self._gradients(x, context, p, hidden))
        return loss

    def _gradients(self, x: F32, context: F32, slope: F32, hidden: F32) -> dict[str, F32]:
        back = (hidden > 0) * slope[:, None, :]
        inner = (back @ x.transpose(0, 2, 1)).sum(axis=0)
        of_user = back.sum(axis=2) * self.weights["outer"]  # (B, J)
        return {
            "linear": (x @ slope[:, :, None])[:, :, 0].sum(axis=0),
            "outer": (hidden @ slope[:, :, None])[:, :, 0].sum(axis=0),
            "inner": inner * self.weights["outer"][:, None],
            "context": of_user.T @ context,
            "bias": of_user.sum(axis=0),
        }

    def _step(self, gradients: dict[str, F32]) -> None:
        self.version += 1
        for name, gradient in gradients.items():
            mean = self._mean[name] = _BETA_1 * self._mean[name] + (1 - _BETA_1) * gradient
            square = self._square[name] = _BETA_2 * self._square[name] + (1 - _BETA_2) * gradient**2
            unbiased = mean / (1 - _BETA_1**self.version)
            root = np.sqrt(square / (1 - _BETA_2**self.version)) + _EPSILON
            self.weights[name] = (self.weights[name] - self.learning_rate * unbiased / root).astype(
                np.float32
            )
        share = np.float32(max(1 / self.version, 1 / self.averaged))
        for name, each in self.weights.items():
            self.served[name] = self.served[name] + share * (each - self.served[name])

    @staticmethod
    def ordered(weights: dict[str, F32]) -> tuple[F32, F32, F32, F32, F32]:
        """As kernels take them."""
        linear, inner, context, bias, outer = (np.ascontiguousarray(weights[name]) for name in _ORDER)
        return linear, inner, context, bias, outer

    def state(self) -> dict[str, Any]:
        return {
            "weights": {name: each.copy() for name, each in self.weights.items()},
            "served": {name: each.copy() for name, each in self.served.items()},
            "mean": {name: each.copy() for name, each in self._mean.items()},
            "square": {name: each.copy() for name, each in self._square.items()},
            "version": self.version,
        }

    def restore(self, state: dict[str, Any]) -> None:
        version = state["version"]
        self.version = version
        for mine, name in (
            (self.weights, "weights"),
            (self.served, "served"),
            (self._mean, "mean"),
            (self._square, "square"),
        ):
            given = state[name]
            mine.update({key: each.copy() for key, each in given.items()})
