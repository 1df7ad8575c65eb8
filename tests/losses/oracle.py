"""What the losses are, in 60 digits, and how far in ulp of float32 a result is from it. Knows nothing of xent."""

import math

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


def ulps(got, true, slack=0.0, scale=None):
    """The largest distance, beyond `slack`, in units of the last place that float32 has at `true` (or at `scale`)."""
    true = np.asarray(true, np.float64)
    place = np.maximum(np.abs(true if scale is None else np.asarray(scale, np.float64)), TINY)
    unit = 2.0 ** (np.floor(np.log2(place)) - 23)
    got = np.asarray(got, np.float64)
    assert np.isfinite(got).all()
    return float(np.max(np.maximum(np.abs(got - true) - slack, 0) / unit))
