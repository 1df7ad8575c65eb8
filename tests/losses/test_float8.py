"""Floats of 8 bits hold a scale of their own apart: every public function refuses them, in one line, by one rule."""

import jax.numpy as jnp
import pytest

import xent.losses

LOGITS = jnp.zeros((2, 3))
ELEMENTS = jnp.zeros(3)
KERNEL = jnp.zeros((3, 3))
CLASSES = jnp.array([0, 2])
SHARES = jnp.full((2, 3), 1 / 3)
TASKS = {"depth": jnp.array(1.0), "edges": jnp.array(2.0)}

# Of each public function, every argument that may be a float array.
ARGUMENTS = {
    "binary_cross_entropy": dict(probabilities=ELEMENTS, labels=ELEMENTS),
    "cross_entropy": dict(p=SHARES, q=SHARES),
    "ctc_loss": dict(
        logits=jnp.zeros((2, 4, 3)),
        logit_paddings=jnp.zeros((2, 4)),
        labels=jnp.ones((2, 1), int),
        label_paddings=jnp.zeros((2, 1)),
    ),
    "discriminator_loss": dict(real_logits=ELEMENTS, fake_logits=ELEMENTS),
    "distillation_jensen_shannon_divergence": dict(student_logits=LOGITS, teacher_logits=LOGITS),
    "distillation_kl_divergence": dict(student_logits=LOGITS, teacher_logits=LOGITS),
    "distillation_top_k": dict(
        student_logits=LOGITS, teacher_classes=CLASSES[:, None], teacher_probabilities=jnp.full((2, 1), 0.5)
    ),
    "distillation_total_variation": dict(student_logits=LOGITS, teacher_logits=LOGITS),
    "entropy": dict(p=SHARES),
    "fused_linear": dict(hidden=LOGITS, kernel=KERNEL, bias=ELEMENTS, weights=jnp.ones(2)),
    "jensen_shannon_divergence": dict(p=SHARES, q=SHARES),
    "kl_divergence": dict(log_predictions=LOGITS, targets=SHARES),
    "kl_divergence_with_log_targets": dict(log_predictions=LOGITS, log_targets=LOGITS),
    "linear_distillation": dict(
        hidden=LOGITS,
        kernel=KERNEL,
        teacher_hidden=LOGITS,
        teacher_kernel=KERNEL,
        bias=ELEMENTS,
        teacher_bias=ELEMENTS,
        weights=jnp.ones(2),
    ),
    "linear_softmax_cross_entropy": dict(
        hidden=LOGITS,
        kernel=KERNEL,
        labels=CLASSES,
        bias=ELEMENTS,
        weights=jnp.ones(2),
        class_weights=ELEMENTS,
        temperature=jnp.array(2.0),
    ),
    "log_likelihood": dict(q=SHARES, labels=CLASSES),
    "mean": dict(loss=ELEMENTS, weights=ELEMENTS),
    "minimax_generator_loss": dict(fake_logits=ELEMENTS),
    "next_token_cross_entropy": dict(logits=LOGITS, tokens=CLASSES, class_weights=ELEMENTS),
    "next_token_targets": dict(tokens=CLASSES),
    "non_saturating_generator_loss": dict(fake_logits=ELEMENTS),
    "perplexity": dict(loss=ELEMENTS, weights=ELEMENTS),
    "poly_loss_cross_entropy": dict(logits=LOGITS, labels=SHARES, epsilon=jnp.array(2.0)),
    "relative_entropy": dict(p=SHARES, q=SHARES),
    "sigmoid_binary_cross_entropy": dict(logits=ELEMENTS, labels=ELEMENTS, pos_weight=ELEMENTS),
    "sigmoid_binary_cross_entropy_fisher_diagonal": dict(logits=ELEMENTS),
    "sigmoid_binary_cross_entropy_gauss_newton_vector_product": dict(
        apply=lambda x: x, params=ELEMENTS, labels=ELEMENTS, vector=ELEMENTS
    ),
    "sigmoid_binary_cross_entropy_gradient": dict(logits=ELEMENTS, labels=ELEMENTS),
    "sigmoid_binary_cross_entropy_hessian_vector_product": dict(logits=ELEMENTS, labels=ELEMENTS, vector=ELEMENTS),
    "sigmoid_focal_loss": dict(logits=ELEMENTS, labels=ELEMENTS, alpha=ELEMENTS, gamma=ELEMENTS),
    "softmax_cross_entropy": dict(logits=LOGITS, labels=SHARES, class_weights=ELEMENTS, temperature=jnp.array(2.0)),
    "softmax_cross_entropy_fisher_diagonal": dict(logits=LOGITS),
    "softmax_cross_entropy_gauss_newton_vector_product": dict(
        apply=lambda x: x, params=LOGITS, labels=SHARES, vector=LOGITS
    ),
    "softmax_cross_entropy_gradient": dict(logits=LOGITS, labels=SHARES),
    "softmax_cross_entropy_hessian_vector_product": dict(logits=LOGITS, labels=SHARES, vector=LOGITS),
    "softmax_cross_entropy_with_integer_labels": dict(
        logits=LOGITS, labels=CLASSES, class_weights=ELEMENTS, temperature=jnp.array(2.0)
    ),
    "softmax_focal_loss": dict(logits=LOGITS, labels=CLASSES, class_weights=ELEMENTS),
    "sum": dict(loss=ELEMENTS, weights=ELEMENTS),
    "uncertainty_weighted_multitask_loss": dict(losses=TASKS, log_variances=TASKS, weights=TASKS),
    "weighted_multitask_loss": dict(losses=TASKS, weights=TASKS),
}
# Trees of a model's parameters: `jax.jvp` has rules of its own for them.
PARAMETERS = ("params", "vector")


def narrow(value):
    if isinstance(value, dict):
        return value | {"depth": narrow(value["depth"])}
    return value.astype(jnp.float8_e4m3fn)


def is_float(value):
    return isinstance(value, dict) or jnp.issubdtype(getattr(value, "dtype", bool), jnp.floating)


def function_of(name):
    if name == "fused_linear":  # what it makes of a loss
        return xent.losses.fused_linear(lambda logits: logits.sum(-1))
    return getattr(xent.losses, name)


@pytest.mark.parametrize("name", sorted({*xent.losses.__all__} - {"Auxiliary"}))
def test_floats_of_8_bits_are_refused(name):
    given = ARGUMENTS[name]
    floats = [a for a, v in given.items() if is_float(v) and not ("apply" in given and a in PARAMETERS)]
    for argument in floats:
        with pytest.raises(
            ValueError, match=rf"^{argument}.* must be .* got float8_e4m3fn; convert it first$"
        ) as error:
            function_of(name)(**given | {argument: narrow(given[argument])})
        assert "bfloat16, float16, float32 or float64" in str(error.value)
        assert "\n" not in str(error.value)
    assert floats or name == "next_token_targets"
