"""What the losses are, in 60 digits, and how far in ulp of float32 a result is from it. Knows nothing of xent."""

import math

import jax
import mpmath
import numpy as np

TINY = float(np.finfo(np.float32).tiny)


def categorical(logits, label, smoothing=0.0):
    """Loss and gradient of one row as float64, each rounded once from 60 digits. A logit of -inf has no class."""
    with mpmath.workdps(60):
        e = [mpmath.exp(mpmath.mpf(float(v))) if v > -math.inf else mpmath.mpf(0) for v in logits]
        total = mpmath.fsum(e)
        count = sum(v > -math.inf for v in logits)
        s = mpmath.mpf(smoothing)
        target = [(s / count if v > -math.inf else 0) + ((1 - s) if j == label else 0) for j, v in enumerate(logits)]
        loss = mpmath.fsum(-t * mpmath.log(v / total) for t, v in zip(target, e, strict=True) if t)
        return float(loss), np.array([float(v / total - t) for v, t in zip(e, target, strict=True)])


def categorical_in_float64(logits, label):
    """The same for very many classes: float64, exact sums and no cancellation leave some 1e-8 ulp of float32."""
    x = np.asarray(logits, np.float64)
    e = np.exp(x - x.max())
    others = math.fsum(np.delete(e, label))
    near, total = e[label] == 1, others + e[label]
    gradient = e / total
    gradient[label] = -others / total
    return float(x.max() - x[label] + (np.log1p(others) if near else np.log(total))), gradient


def binary(logit, label, smoothing=0.0):
    """Loss and derivative with respect to the logit."""
    with mpmath.workdps(60):
        z, s = mpmath.mpf(float(logit)), mpmath.mpf(smoothing)
        yes = (1 - s) * mpmath.mpf(float(label)) + s / 2
        with mpmath.workdps(10000 if abs(z) > 100 else 100):
            loss = (1 - yes) * mpmath.log1p(mpmath.exp(z)) + yes * mpmath.log1p(mpmath.exp(-z))
        no, p, q = 1 - yes, 1 / (1 + mpmath.exp(-z)), 1 / (1 + mpmath.exp(z))
        return float(loss), float(no * p - yes * q)


def softmax(logits):
    e = [mpmath.exp(mpmath.mpf(float(v))) if v > -math.inf else mpmath.mpf(0) for v in logits]
    total = mpmath.fsum(e)
    # 1 - p as the sum of the others: p may be nearer to 1 than any number of digits tells.
    return [v / total for v in e], [mpmath.fsum(e[:j] + e[j + 1 :]) / total for j in range(len(e))]


def focal(logits, label, gamma):
    """Loss and gradient of one row."""
    with mpmath.workdps(60):
        (p, not_p), g = softmax(logits), mpmath.mpf(gamma)
        q, cost = not_p[label], -mpmath.log1p(-not_p[label]) if p[label] > 0.5 else -mpmath.log(p[label])
        slope = q**g * (1 + (g * cost * p[label] / q if q else g))
        gradient = [slope * (-q if j == label else v) for j, v in enumerate(p)]
        return float(q**g * cost), np.array([float(v) for v in gradient])


def poly(logits, labels, epsilon):
    """Loss, gradient, and the magnitudes that their errors are counted in."""
    with mpmath.workdps(60):
        (p, not_p), t = softmax(logits), [mpmath.mpf(float(v)) for v in labels]
        costs = [-mpmath.log1p(-q) if v > 0.5 else -mpmath.log(v) for v, q in zip(p, not_p, strict=True)]
        terms = list(zip(t, p, not_p, costs, strict=True))
        total, hits = mpmath.fsum(t), mpmath.fsum(a * b for a, b, _, _ in terms)
        # p sum(t) - t and t - sum(t p), each with 1 - p for what is left of a label.
        gradient = [b * (total - a) - a * q - epsilon * b * (a * q - (hits - a * b)) for a, b, q, _ in terms]
        scale = [(1 + abs(epsilon)) * (b * (total - a) + a * q) for a, b, q, _ in terms]
        loss = mpmath.fsum(a * (c + epsilon * q) for a, _, q, c in terms)
        magnitude = mpmath.fsum(a * (c + abs(epsilon) * q) for a, _, q, c in terms)
        return float(loss), np.array(list(map(float, gradient))), float(magnitude), np.array(list(map(float, scale)))


def ulps(got, true, slack=0.0, scale=None):
    """The largest distance, beyond `slack`, in units of the last place that float32 has at `true` (or at `scale`)."""
    true = np.asarray(true, np.float64)
    place = np.maximum(np.abs(true if scale is None else np.asarray(scale, np.float64)), TINY)
    unit = 2.0 ** (np.floor(np.log2(place)) - 23)
    got = np.asarray(got, np.float64)
    assert np.isfinite(got).all()
    return float(np.max(np.maximum(np.abs(got - true) - slack, 0) / unit))


def compiled_and_eager(f, *arguments):
    """Pairs of what `f` returns: compiled, as it is and under `vmap`, and each time the same uncompiled."""
    eager = jax.device_get(f(*arguments))
    for found in jax.jit(lambda *a: (f(*a), jax.vmap(f)(*a)))(*arguments):
        yield from zip(found, eager, strict=True)
