"""What ctc_loss says of arguments that do not fit."""

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
