"""What ctc_loss says of arguments that do not fit, and of those that hold nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xent.losses import ctc_loss


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(logits=np.zeros((2, 4, 3), int)), "logits must be an array of floating dtype, got int"),
        (dict(logits=np.zeros(3)), r"logits must have an axis of frames and one of classes, got shape \(3,\)"),
        (dict(logits=np.zeros((2, 4, 0))), "logits must hold between 1 and .* classes, got 0"),
        (dict(logit_paddings=np.zeros(4)), r"logit_paddings must have .*, \(2, 4\), got \(4,\); it is not broadcast"),
        (dict(labels=np.zeros((2, 2))), "labels must be an array of integer dtype, got float"),
        (dict(labels=np.ones((1, 2), int)), r"labels must have the shape \(2,\) \+ \(N,\), got \(1, 2\); it is not"),
        (
            dict(label_paddings=np.zeros((2, 3))),
            r"label_paddings must have the shape of labels, \(2, 2\), got \(2, 3\)",
        ),
        (dict(label_paddings=None), "label_paddings must be an array of .* dtype, got NoneType"),
        (dict(blank_id=3), r"blank_id must be an int in \[0, 3\), got 3"),
        (dict(blank_id=-1), r"blank_id must be an int in \[0, 3\), got -1"),
        (dict(blank_id=True), "blank_id must be .* got True"),
        (dict(zero_infinity=1), "zero_infinity must be a bool, got int"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    good = dict(logits=np.zeros((2, 4, 3)), logit_paddings=np.zeros((2, 4)))
    good |= dict(labels=np.ones((2, 2), int), label_paddings=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=message) as error:
        ctc_loss(**(good | arguments))
    assert "\n" not in str(error.value)


def test_nothing_to_hear_and_nothing_to_say():
    y, label_paddings = np.ones((2, 2), int), np.array([[1, 1], [0, 1]])

    @jax.jit
    def of_padding(x):
        values, pull = jax.vjp(lambda x: ctc_loss(x, np.ones(x.shape[:2]), y, label_paddings), x)
        return values, *pull(jnp.array([1.0, 0.0]))

    for frames in (0, 2):
        values, gradient = of_padding(np.ones((2, frames, 3), np.float32))
        np.testing.assert_array_equal(values, [0, np.inf])
        assert (np.asarray(gradient) == 0).all()

    @jax.jit
    def of_blanks(x):
        nothing = np.zeros(0, int)
        empty = ctc_loss(jnp.ones((0, 4, 3)), np.zeros((0, 4)), np.ones((0, 2), int), np.zeros((0, 2)))
        certain = ctc_loss(jnp.ones((4, 1)), np.zeros(4), nothing, nothing)
        return ctc_loss(x, np.zeros(4), nothing, nothing, blank_id=2), certain, empty

    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32) * 3
    blanks_only, certain, empty = of_blanks(x)
    np.testing.assert_allclose(blanks_only, (np.log(np.exp(x).sum(-1)) - x[:, 2]).sum(dtype=float), rtol=2e-7)
    assert certain == 0
    assert empty.shape == (0,)
