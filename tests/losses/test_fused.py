"""Fused losses: equal to the same loss on full logits, in value and in every derivative, at any chunk size."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xent.losses import (
    fused_linear,
    linear_distillation,
    linear_softmax_cross_entropy,
    mean,
    poly_loss_cross_entropy,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
    softmax_focal_loss,
)

TOKENS, UNITS, CLASSES = 13, 5, 11
cross_entropy = softmax_cross_entropy_with_integer_labels


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


HIDDEN, KERNEL, BIAS = normal(0, TOKENS, UNITS), normal(1, UNITS, CLASSES), normal(2, CLASSES)
WEIGHTS = np.random.default_rng(3).random(TOKENS, np.float32)
LABELS = np.random.default_rng(4).integers(0, CLASSES, TOKENS)
SOFT = np.random.default_rng(5).dirichlet(np.ones(CLASSES), TOKENS).astype(np.float32)


def user_loss(logits, labels):
    """A hinge: nothing of ours, and nothing smooth."""
    return jnp.maximum(1 + logits - jnp.take_along_axis(logits, labels[:, None], 1), 0).sum(-1)


LOSSES = {
    "cross-entropy": (cross_entropy, LABELS),
    "modified": (partial(cross_entropy, label_smoothing=0.1, z_loss=0.01, logit_soft_cap=3.0, temperature=2.0), LABELS),
    "focal": (softmax_focal_loss, LABELS),
    "soft": (softmax_cross_entropy, SOFT),
    "poly": (poly_loss_cross_entropy, SOFT),
    "user's": (user_loss, LABELS),
}
ARGUMENTS = HIDDEN, KERNEL, BIAS, WEIGHTS


def close(got, expected, tolerance=1e-5):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), got, expected)


@pytest.mark.parametrize(
    ("name", "chunk_size"), [*((name, 4) for name in LOSSES), *(("cross-entropy", size) for size in (1, 13, None))]
)
def test_value_and_derivatives_are_those_on_full_logits(name, chunk_size):
    loss, targets = LOSSES[name]

    def fused(hidden, kernel, bias, weights):
        return fused_linear(loss)(hidden, kernel, targets, bias=bias, weights=weights, chunk_size=chunk_size)

    def dense(hidden, kernel, bias, weights):
        return mean(loss(hidden @ kernel + bias[None], targets), weights=weights)

    every = tuple(range(4))

    def derivatives(f, *arguments):
        along = jax.tree.map(jnp.cos, arguments)
        return (
            jax.value_and_grad(f, every)(*arguments),
            jax.jvp(f, arguments, along),
            jax.jvp(jax.grad(f, every), arguments, along),
        )

    found, expected = (jax.jit(partial(derivatives, f))(*ARGUMENTS) for f in (fused, dense))
    close(found, expected)


@pytest.mark.parametrize(("name", "chunk_size"), [("cross-entropy", 1), ("soft", 4), ("cross-entropy", None)])
def test_without_a_reduction_any_cotangent_is_honoured(name, chunk_size):
    loss, targets = LOSSES[name]
    cotangent = np.arange(TOKENS, dtype=np.float32) - 4

    def fused(hidden, kernel, bias, weights):
        given = dict(bias=bias, weights=weights, reduction=None, chunk_size=chunk_size)
        return fused_linear(loss)(hidden, kernel, targets, **given)

    def dense(hidden, kernel, bias, weights):
        return weights * loss(hidden @ kernel + bias[None], targets)

    for of in (
        lambda f: jax.vjp(f, *ARGUMENTS)[1](cotangent),
        lambda f: jax.jvp(f, ARGUMENTS, jax.tree.map(np.cos, ARGUMENTS)),
        lambda f: jax.jacobian(f)(*ARGUMENTS),
    ):
        close(*(jax.jit(lambda f=f, of=of: of(f))() for f in (fused, dense)))


def test_derivatives_of_both_orders_in_both_modes(check_derivatives):
    def of_both(hidden, kernel):
        f = partial(linear_softmax_cross_entropy, hidden, kernel, LABELS[:5], chunk_size=2)
        return {"mean": f(reduction="mean"), "none": f(reduction=None)}

    with jax.enable_x64(True):
        hidden, kernel = (np.asarray(x, np.float64) for x in (HIDDEN[:5], KERNEL))
        check_derivatives(of_both, (hidden, kernel), step=1e-4)
        assert all(jax.eval_shape(of_both, hidden, kernel)[name].dtype == jnp.float64 for name in ("mean", "none"))


def test_sequences_transposed_kernels_and_the_empty_batch():
    hidden, labels = HIDDEN[:12].reshape(3, 4, UNITS), LABELS[:12].reshape(3, 4)

    @jax.jit
    def found(hidden, kernel, labels):
        def of_kernel(kernel, **kwargs):
            return linear_softmax_cross_entropy(hidden, kernel, labels, chunk_size=5, **kwargs)

        dense = cross_entropy(hidden @ kernel, labels)
        tied = jax.value_and_grad(partial(of_kernel, transpose_kernel=True))(kernel.T)
        return of_kernel(kernel, reduction=None), dense, tied, jax.grad(of_kernel)(kernel)

    losses, dense, (tied, by_tied), by_kernel = found(hidden, KERNEL, labels)
    close(losses, dense)
    close(tied, np.mean(dense))
    close(by_tied, np.transpose(by_kernel))

    @jax.jit
    def of_nothing(hidden, kernel, labels):
        def losses(reduction):
            return lambda kernel: linear_softmax_cross_entropy(hidden, kernel, labels, reduction=reduction)

        gradients = [jax.grad(lambda kernel, r=r: losses(r)(kernel).sum())(kernel) for r in ("mean", "sum", None)]
        return [losses(r)(kernel) for r in ("mean", "sum", None)], gradients

    values, gradients = of_nothing(np.zeros((0, 2, UNITS), np.float32), KERNEL, np.zeros((0, 2), int))
    for value, expected in zip(values, (0, 0, np.zeros((0, 2))), strict=True):
        np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(gradients, np.zeros((3, UNITS, CLASSES)))


@pytest.mark.parametrize("chunk_size", [3, 5, 13])
def test_masked_tokens_poison_nothing_and_are_not_counted(chunk_size):
    kept = np.arange(TOKENS) % 3 > 0
    bad, labels = np.where(kept[:, None], HIDDEN, np.float32(np.nan)), np.where(kept, LABELS, -100)
    fused = partial(linear_softmax_cross_entropy, chunk_size=chunk_size)

    def by_weight(k):
        return fused_linear(cross_entropy)(bad, k, labels, weights=kept.astype(int), chunk_size=chunk_size)

    @jax.jit
    def found(kernel):
        ways = {
            "where": lambda k: fused(bad, k, labels, where=kept),
            "index": lambda k: fused(bad, k, labels, ignore_index=-100),
            "weight": by_weight,
            "few": lambda k: cross_entropy(HIDDEN[kept] @ k, LABELS[kept]).mean(),
            "none": lambda k: fused(bad, k, labels, where=np.zeros(TOKENS, bool)),
        }
        of_hidden = jax.grad(lambda h: fused(h, kernel, labels, where=kept))(bad)
        return {name: jax.value_and_grad(f)(kernel) for name, f in ways.items()}, of_hidden

    by_kernel, of_hidden = found(KERNEL)
    for name in ("where", "index", "weight"):
        close(by_kernel[name], by_kernel["few"])
    assert (np.asarray(of_hidden)[~kept] == 0).all()
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), by_kernel["none"])


@pytest.mark.parametrize("reduction", ["sum", None])
def test_what_does_not_count_may_have_any_weight_and_no_weight_on_any_loss_is_nothing(reduction):
    tokens = np.arange(TOKENS)
    labels, where = np.where(tokens == 0, 99, LABELS), tokens != 1  # a loss of NaN, and a token that does not count
    weights = np.where(tokens == 0, 0, WEIGHTS)

    def weighted(weight):
        return np.where(tokens == 1, np.float32(weight), weights)

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1, 2))
    def fused(hidden, kernel, weights):
        given = dict(weights=weights, where=where, reduction=reduction, chunk_size=13)
        return linear_softmax_cross_entropy(hidden, kernel, labels, **given).sum()

    value, gradients = fused(HIDDEN, KERNEL, weighted(np.nan))
    others = fused(HIDDEN, KERNEL, weighted(3))
    np.testing.assert_allclose(value, others[0], 1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert gradients[2][0] == gradients[2][1] == 0


def test_tokens_that_fill_up_a_chunk_show_a_loss_no_logits_that_no_token_has():
    """The norm has no slope at logits of 0."""

    def of_norm(hidden, kernel, chunk_size):
        return fused_linear(partial(jnp.linalg.norm, axis=-1))(hidden, kernel, chunk_size=chunk_size)

    by_chunk = jax.jit(lambda h, k: [jax.grad(of_norm, (0, 1))(h, k, size) for size in (4, TOKENS)])
    close(*by_chunk(HIDDEN, KERNEL))


def test_it_composes_with_vmap_scan_remat_and_closures():
    def loss(hidden, kernel, temperature):
        by_class = jnp.linspace(1, 2, CLASSES) * temperature
        bound = partial(cross_entropy, temperature=temperature, class_weights=by_class)
        return fused_linear(bound)(hidden, kernel, LABELS, chunk_size=4)

    def dense(hidden, kernel, temperature):
        by_class = jnp.linspace(1, 2, CLASSES) * temperature
        return cross_entropy(hidden @ kernel, LABELS, temperature=temperature, class_weights=by_class).mean()

    def several(f):
        """A gradient mapped over kernels, and one through a loop of rematerialised steps."""
        kernels = jnp.stack([KERNEL, 2 * KERNEL])
        mapped = jax.vmap(jax.grad(f, (0, 1, 2)), (None, 0, None))(HIDDEN, kernels, 1.5)
        looped = jax.grad(
            lambda kernel: jax.lax.scan(
                jax.checkpoint(lambda total, scale: (total + f(scale * HIDDEN, kernel, 1.5), None)),
                0.0,
                jnp.arange(3.0),
            )[0]
        )(KERNEL)
        return mapped, looped

    close(jax.jit(partial(several, loss))(), jax.jit(partial(several, dense))())


def products(f, *arguments):
    """How many products a program has, with those of its inner ones."""
    return str(jax.make_jaxpr(f)(*arguments)).count("dot_general")


def test_what_is_frozen_costs_one_product_less():
    loss = partial(linear_softmax_cross_entropy, labels=LABELS, chunk_size=4)
    assert products(loss, HIDDEN, KERNEL) == 1
    assert products(jax.grad(loss, (0, 1)), HIDDEN, KERNEL) == 3
    assert products(jax.grad(loss), HIDDEN, KERNEL) == products(jax.grad(loss, 1), HIDDEN, KERNEL) == 2


def test_no_array_holds_all_logits():
    hidden, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((512, 16), (16, 4096)))
    labels = np.zeros(512, int)

    def temporary(f):
        return jax.jit(f).lower(hidden, kernel).compile().memory_analysis().temp_size_in_bytes

    def dense(h, k, reduction="mean"):
        losses = cross_entropy(h @ k, labels)
        return losses.mean() if reduction == "mean" else losses

    fused = partial(linear_softmax_cross_entropy, labels=labels, chunk_size=32)
    for share, what in (
        (0.1, lambda f: f),
        (0.3, lambda f: jax.grad(f, (0, 1))),
        (0.35, lambda f: lambda *a: jax.jvp(jax.grad(f, (0, 1)), a, a)),
        (0.3, lambda f: lambda *a: jax.vjp(partial(f, reduction=None), *a)[1](jnp.ones(512))),
    ):
        assert temporary(what(fused)) < share * temporary(what(dense))


def test_more_classes_at_as_many_bytes_a_chunk_need_no_more_than_the_kernels_gradient_and_a_chunks_share_of_it():
    labels = np.zeros(512, int)

    def temporary(classes, chunk_size, what):
        f = what(partial(linear_softmax_cross_entropy, labels=labels, chunk_size=chunk_size))
        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((512, 16), (16, classes))]
        return jax.jit(f).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    for what, kernels in ((lambda f: f, 0), (lambda f: jax.grad(f, (0, 1)), 2)):
        more = temporary(32768, 16, what) - temporary(2048, 256, what)
        assert more < kernels * 16 * (32768 - 2048) * 4 + 2**19


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_adds_up_in_float32(dtype):
    """Nearly as exact as a dense head that keeps all in float32, and more than one with logits in half precision."""
    hidden, kernel = (4 * normal(6, 64, 32)).astype(dtype), normal(7, 32, 500).astype(dtype)
    labels = np.arange(64)

    def dense(kind, h, k):
        return cross_entropy(jnp.dot(h, k, preferred_element_type=kind), labels).sum()

    fused = partial(linear_softmax_cross_entropy, labels=labels, reduction="sum", chunk_size=16)
    with jax.enable_x64(True):
        wide = hidden.astype(np.float64), kernel.astype(np.float64)
        true_value, true = jax.jit(jax.value_and_grad(partial(dense, jnp.float64), (0, 1)))(*wide)

    def errors(f, jit=jax.jit):
        """Root mean square, of the gradients by hidden states and kernel."""
        found = jit(jax.grad(f, (0, 1)))(hidden, kernel)
        assert all(gradient.dtype == dtype for gradient in found)
        return [np.std(np.asarray(g, np.float64) - np.asarray(t)) for g, t in zip(found, true, strict=True)]

    np.testing.assert_allclose(jax.jit(fused)(hidden, kernel), true_value, 1e-6)
    # Eager: in one program XLA would keep the dense logits in float32 after all.
    for ours, in_float32, in_half in zip(
        errors(fused), errors(partial(dense, jnp.float32)), errors(partial(dense, dtype), jit=lambda f: f), strict=True
    ):
        assert ours < 1.5 * in_float32
        assert ours < in_half / 2


@pytest.mark.parametrize("reduction", ["sum", None])
def test_value_and_gradient_see_the_same_logits_in_half_precision(reduction):
    """Near 640, where a bfloat16 has steps of 4: p from the value, and from the gradient in the bias, p - 1."""
    hidden, kernel = np.full((1, 64), 1.6, jnp.bfloat16), (6.3 + normal(3, 64, 7) / 20).astype(jnp.bfloat16)
    label = np.array([(hidden.astype(np.float32) @ kernel.astype(np.float32)).argmax()])

    @jax.jit
    @partial(jax.value_and_grad, argnums=1)
    def fused(hidden, bias):
        return linear_softmax_cross_entropy(hidden, kernel, label, bias=bias, reduction=reduction).sum()

    loss, gradient = jax.device_get(fused(hidden, np.zeros(7, np.float32)))
    assert 0.1 < loss < 3
    np.testing.assert_allclose(1 + gradient[label[0]], np.exp(-loss), 1e-6)


def test_auxiliary_says_of_each_token_what_full_logits_would():
    @jax.jit
    def of_all(hidden, kernel):
        fused = partial(linear_softmax_cross_entropy, hidden, kernel, LABELS, chunk_size=4, auxiliary=True)
        soft = fused_linear(softmax_cross_entropy)(hidden, kernel, SOFT, auxiliary=True)[1]
        frozen = jax.grad(lambda h: linear_softmax_cross_entropy(h, kernel, LABELS, auxiliary=True)[1].entropy.sum())
        return *fused(), cross_entropy(hidden @ kernel, LABELS), soft.correct, frozen(hidden)

    loss, found, dense, soft_correct, frozen = jax.device_get(of_all(HIDDEN, KERNEL))
    logits = HIDDEN.astype(float) @ KERNEL
    normaliser = np.log(np.exp(logits).sum(-1))
    close(found.loss, dense)
    close(loss, found.loss.mean())
    close(found.log_normaliser, normaliser)
    np.testing.assert_array_equal(found.arg_max, logits.argmax(-1))
    np.testing.assert_array_equal(found.correct, logits.argmax(-1) == LABELS)
    log_p = logits - normaliser[:, None]
    close(found.entropy, -(np.exp(log_p) * log_p).sum(-1))
    np.testing.assert_array_equal(soft_correct, logits.argmax(-1) == SOFT.argmax(-1))
    assert (frozen == 0).all()


def test_distillation_holds_neither_set_of_logits_and_leaves_the_teacher_alone():
    teacher_hidden, teacher_kernel = normal(8, TOKENS, 3), normal(9, 3, CLASSES)

    def dense(hidden, kernel):
        teacher = jax.nn.log_softmax(teacher_hidden @ teacher_kernel)
        return (jnp.exp(teacher) * (teacher - jax.nn.log_softmax(hidden @ kernel))).sum(-1).mean()

    @jax.jit
    def found(hidden, kernel, *teacher):
        fused = partial(linear_distillation, chunk_size=4)
        tied = fused(hidden, kernel, teacher[0], teacher[1].T, transpose_teacher_kernel=True)
        of_student = jax.value_and_grad(fused, (0, 1))(hidden, kernel, *teacher)
        of_teacher = jax.grad(fused, (2, 3))(hidden, kernel, *teacher)
        return of_student, jax.value_and_grad(dense, (0, 1))(hidden, kernel), of_teacher, tied

    of_student, of_dense, of_teacher, tied = found(HIDDEN, KERNEL, teacher_hidden, teacher_kernel)
    close(of_student, of_dense)
    for gradient in of_teacher:
        np.testing.assert_array_equal(gradient, 0)
    close(tied, of_student[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(kernel=KERNEL.T), r"kernel must be \[D, V\] for hidden \[..., D\], got \(11, 5\) for \(13, 5\)"),
        (dict(transpose_kernel=True), r"kernel must be \[V, D\], since transpose_kernel is True,"),
        (dict(labels=LABELS[:, None]), r"labels must have one label for each token, \(13,\), got \(13, 1\)"),
        (dict(labels=LABELS.astype(float)), "labels must be an array of integer dtype"),
        (dict(bias=BIAS[:3]), "bias must have one number for each class"),
        (dict(where=jnp.ones(3, bool)), "where must have one entry for each token"),
        (dict(weights=jnp.ones((13, 1))), "weights must have one weight for each token"),
        (dict(reduction="none"), 'reduction must be "mean", "sum" or None, got \'none\''),
        (dict(chunk_size=0), "chunk_size must be None or a Python int of at least 1, got 0"),
        (dict(label_smoothing=2.0), "label_smoothing must be"),
    ],
)
def test_bad_arguments_are_told_of_in_a_line(arguments, message):
    good = dict(hidden=HIDDEN, kernel=KERNEL, labels=LABELS)
    with pytest.raises(ValueError, match=message) as error:
        linear_softmax_cross_entropy(**(good | arguments))
    assert "\n" not in str(error.value)


def test_a_loss_with_no_value_for_each_token_is_refused():
    with pytest.raises(ValueError, match=r"loss must give a value for each of 13 tokens, got .* float32 \(\)"):
        fused_linear(lambda logits, labels: cross_entropy(logits, labels).mean())(HIDDEN, KERNEL, LABELS)
