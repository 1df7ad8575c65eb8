"""Derivatives in closed form, and products with Hessians. They stand where other losses have their gradient."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xent import losses
from xent.experiments.precision import oracle
from xent.experiments.precision.focal import soft_rows
from xent.experiments.precision.logits import Draw, mixed, regimes_of, sigmoid_rows, softmax_rows
from xent.experiments.precision.loss import LOGITS, Loss, Random, Rows, floats, products_by_jax
from xent.experiments.precision.oracle import TINY, Truth, in_many_digits

Bounds = Callable[[int], tuple[float, float]]


def _wide(few: float, many: float) -> Bounds:
    """So many ulp to 1000 classes, and beyond."""
    return lambda classes: (np.inf, few if classes <= 1000 else many)


def losses_of(torch: bool) -> list[Loss]:
    """List them; neither optax nor torch has these."""

    def through(product: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        """Of a model whose parameters are the logits."""
        return lambda logits, labels, vector: product(lambda x: x, logits, labels, vector)

    softmax_gradient = losses.softmax_cross_entropy_gradient
    softmax_product = losses.softmax_cross_entropy_hessian_vector_product
    softmax_through = through(losses.softmax_cross_entropy_gauss_newton_vector_product)
    sigmoid_product = losses.sigmoid_binary_cross_entropy_hessian_vector_product
    sigmoid_through = through(losses.sigmoid_binary_cross_entropy_gauss_newton_vector_product)

    def fisher(logits: jax.Array, **_: Any) -> jax.Array:
        return losses.softmax_cross_entropy_fisher_diagonal(logits)

    def sigmoid_fisher(logits: jax.Array, **_: Any) -> jax.Array:
        return losses.sigmoid_binary_cross_entropy_fisher_diagonal(logits)

    def by_differentiation(loss: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        def product(logits: jax.Array, labels: jax.Array, vector: jax.Array) -> jax.Array:
            gradient = jax.grad(lambda x: loss(x, labels).sum())
            return jax.jvp(gradient, (logits,), (vector,))[1]

        return product

    hard, soft = losses.softmax_cross_entropy_with_integer_labels, losses.softmax_cross_entropy
    no_vector = _without_vector
    return [
        _softmax("softmax gradient", no_vector(softmax_gradient), _gradient, "index", _wide(8, 32)),
        _softmax("softmax gradient, soft labels", no_vector(softmax_gradient), _gradient, "probabilities",
                 _wide(8, 32)),
        _softmax("softmax Hessian product", softmax_product, _product, "index", _wide(16, 64)),
        _softmax("softmax Hessian product, soft labels", softmax_product, _product, "probabilities", _wide(16, 64)),
        _softmax("softmax Gauss-Newton product", softmax_through, _product, "index", _wide(16, 64)),
        _softmax("softmax Fisher diagonal", fisher, _fisher, "none", _wide(16, 64)),
        _softmax("softmax Hessian product by differentiation", by_differentiation(hard),
                 partial(_product, apart="label"), "index", _wide(16, 40)),
        _softmax("softmax Hessian product by differentiation, soft", by_differentiation(soft),
                 partial(_product, apart="top"), "weights", _wide(16, 40)),
        _sigmoid("sigmoid gradient", no_vector(losses.sigmoid_binary_cross_entropy_gradient), "gradient"),
        _sigmoid("sigmoid Hessian product", sigmoid_product, "product"),
        _sigmoid("sigmoid Gauss-Newton product", sigmoid_through, "product"),
        _sigmoid("sigmoid Fisher diagonal", sigmoid_fisher, "fisher"),
    ]  # fmt: skip


def _without_vector(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Of logits and labels alone."""
    return lambda logits, labels, vector: function(logits, labels)


# Of many classes.


def _softmax(
    name: str, function: Callable[..., jax.Array], truth: Callable[[Rows], Truth], labelled: str, bounds: Bounds
) -> Loss:
    """`labelled` by "none", an "index", "weights" or "probabilities"."""
    rows_of = partial(_rows, labelled=labelled)
    kind = "fisher" if truth is _fisher else "gradient" if "gradient" in name else "product"
    return Loss(
        name, "products", regimes_of(rows_of),
        {"xent": products_by_jax(function)}, truth, partial(_exact, kind=kind), bounds,
        moved={"logits": LOGITS, "vector": (-1e3, 1e3)},
        widths={2: 0.2, 10: 0.8}, wide=dict.fromkeys((1000,), partial(rows_of, mixed)), of=("gradient",),
    )  # fmt: skip


def _rows(draw: Draw, random: Random, rows: int, classes: int, dtype: str, *, labelled: str) -> Rows:
    """With a vector of every scale, sometimes far from 0, sometimes of one class."""
    found = softmax_rows(draw, random, rows, classes, dtype)
    labels = {"none": np.zeros(rows, np.int32), "index": found["labels"], "weights": found["targets"]}.get(labelled)
    if labels is None:
        found = soft_rows(draw, random, rows, classes, dtype)
        labels = found["labels"]
    return {"logits": found["logits"], "labels": labels, "vector": _vector(random, rows, classes, dtype)}


def _vector(random: Random, rows: int, classes: int, dtype: str) -> np.ndarray:
    vector = random.standard_normal((rows, classes)) * 10 ** random.uniform(-3, 2, (rows, 1))
    far = vector + random.choice([-1, 1], (rows, 1)) * 10 ** random.uniform(0, 3, (rows, 1))
    one = 1.0 * (np.arange(classes) == random.integers(classes, size=(rows, 1)))
    return np.choose(random.integers(3, size=(rows, 1)), [vector, far, one]).astype(jnp.dtype(dtype))


def _targets(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """The weight of each class, and which rows have none."""
    labels, shape = rows["labels"], rows["logits"].shape
    if labels.ndim == 2:
        t = floats(rows, "labels")
        outside = ~oracle.every((t >= 0) & (t < np.inf))
        return np.where(outside[:, None], 1, t), outside
    return 1.0 * (np.arange(shape[1]) == labels[:, None]), (labels < 0) | (labels >= shape[1])


def _truth(rows: Rows, gradient: np.ndarray, scale: np.ndarray, outside: np.ndarray, slack: Any = 1.0) -> Truth:
    flushed = np.full(len(gradient), gradient.shape[1] * TINY)
    gradient = np.where(outside[:, None], np.nan, gradient)
    value = np.where(outside, np.nan, 0.0)
    return Truth(value, gradient, scale, flushed, slope_slack=flushed[:, None] * slack)


def _gradient(rows: Rows) -> Truth:
    of, (t, outside) = oracle.softmax_of(floats(rows, "logits")), _targets(rows)
    others = of.p * oracle.sum_of_others(t)
    return _truth(rows, others - t * of.not_p, others + t * of.not_p, outside | ~of.defined)


def _fisher(rows: Rows) -> Truth:
    of = oracle.softmax_of(floats(rows, "logits"))
    return _truth(rows, of.p * of.not_p, of.p * of.not_p, ~of.defined)


def _product(rows: Rows, apart: str | None = None) -> Truth:
    """`p_j sum_k p_k (v_j - v_k)`, times the sum of the labels.

    Its scale is that with the distances for the differences; or, counted `apart` from one class c, the `label` or the
    `top`, `p_j (|v_j - v_c| + sum_k p_k |v_k - v_c|)`.
    """
    of, (t, outside), v = oracle.softmax_of(floats(rows, "logits")), _targets(rows), floats(rows, "vector")
    mass = t.sum(-1, keepdims=True)
    product, scale = np.empty_like(v), np.empty_like(v)
    at_once = max(1, 10**6 // v.shape[1] ** 2)
    for start in range(0, len(v), at_once):
        some = slice(start, start + at_once)
        difference = v[some, :, None] - v[some, None, :]
        product[some] = np.sum(of.p[some, None, :] * difference, -1)
        scale[some] = np.sum(of.p[some, None, :] * np.abs(difference), -1)
    if apart:
        last = v.shape[1] - 1
        of_label = np.clip(rows["labels"], 0, last) if apart == "label" else None
        tops = [of.x.argmax(-1), last - of.x[:, ::-1].argmax(-1)]  # of several largest logits, whichever
        scale = np.zeros_like(v)
        for at in tops if of_label is None else [of_label]:
            distance = np.abs(v - np.take_along_axis(v, at[:, None], -1))
            scale = np.maximum(scale, distance + np.sum(of.p * distance, -1, keepdims=True))
    reach = v.max(-1, keepdims=True) - v.min(-1, keepdims=True)
    slack = np.maximum(mass, 1) * (np.maximum(reach, 1) if apart else 1 + reach)
    return _truth(rows, mass * of.p * product, mass * of.p * scale, outside | ~of.defined, slack)


@in_many_digits
def _exact(row: Rows, kind: str) -> tuple[Any, list[Any]]:
    import mpmath

    p, _ = oracle.exact_softmax_of(oracle.numbers(floats(row, "logits")))
    t, v = oracle.numbers(_targets(row)[0]), oracle.numbers(floats(row, "vector"))
    mass = mpmath.fsum(t)
    if kind == "fisher":
        return 0, [q * (1 - q) for q in p]
    if kind == "gradient":
        return 0, [q * mass - a for q, a in zip(p, t, strict=True)]
    mean = mpmath.fsum(q * x for q, x in zip(p, v, strict=True))
    return 0, [mass * q * (x - mean) for q, x in zip(p, v, strict=True)]


# Of one logit.


def _sigmoid(name: str, function: Callable[..., jax.Array], kind: str) -> Loss:
    def rows_of(draw: Draw, random: Random, rows: int, width: int, dtype: str) -> Rows:
        found = sigmoid_rows(draw, random, rows, width, dtype, soft=kind == "gradient" and bool(random.integers(2)))
        return {"logits": found["logits"], "labels": found["targets"], "vector": _vector(random, rows, 1, dtype)}

    return Loss(
        name, "products", regimes_of(rows_of), {"xent": products_by_jax(function)},
        partial(_truth_of_sigmoid, kind=kind), partial(_exact_of_sigmoid, kind=kind), _wide(8, 8),
        moved={"logits": LOGITS, "vector": (-1e3, 1e3)}, widths={1: 1.0}, of=("gradient",),
    )  # fmt: skip


def _truth_of_sigmoid(rows: Rows, kind: str) -> Truth:
    z, y, v = floats(rows, "logits"), floats(rows, "labels"), floats(rows, "vector")
    outside = np.isnan(z)
    exp = np.exp(-np.abs(np.where(outside, 0, z)))
    yes, no = np.where(z >= 0, 1, exp) / (1 + exp), np.where(z >= 0, exp, 1) / (1 + exp)
    gradient = yes * no * (v if kind == "product" else 1)
    scale, slack = np.abs(gradient), 2 * TINY * (1 + np.abs(v) if kind == "product" else np.ones_like(v))
    if kind == "gradient":
        gradient = (1 - y) * yes - y * no
        scale = np.where((y == 0) | (y == 1), np.abs(gradient), np.maximum(yes, y))
    value, gradient = np.where(outside, np.nan, 0)[:, 0], np.where(outside, np.nan, gradient)
    return Truth(value, gradient, scale, slack[:, 0])


@in_many_digits
def _exact_of_sigmoid(row: Rows, kind: str) -> tuple[Any, list[Any]]:
    import mpmath

    z = mpmath.mpf(max(-1e9, min(float(row["logits"][0, 0]), 1e9)))
    (y,), (v,) = oracle.numbers(floats(row, "labels")), oracle.numbers(floats(row, "vector"))
    p = 1 / (1 + mpmath.exp(-z))
    return 0, [{"gradient": p - y, "product": p * (1 - p) * v, "fisher": p * (1 - p)}[kind]]
