"""Fused losses on a mesh give what one device gives, and gather neither hidden states, nor logits, nor vocabulary."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def cases(on_eight_devices):
    found = on_eight_devices(HERE / "sharded.py")
    assert len(found) == 12
    return found


def test_the_result_is_that_of_one_device(cases):
    for case in cases:
        assert case["error"] < 1e-5, case


def test_nothing_large_is_gathered_but_a_kernel_sharded_over_data(cases):
    """That is what fully sharded data parallelism means; of the vocabulary, each device keeps its half."""
    kernel = {"vocabulary": [], "fsdp": ["f32[24,65536]"], "both": ["f32[24,32768]"]}
    for case in cases:
        large = [shape for shape in case["gathers"] if not shape.startswith("s32") and shape.count(",")]
        assert set(large) <= set(kernel[case["case"][0]]), case


def test_inside_of_shard_map_too_with_classes_split_and_nothing_is_gathered(on_eight_devices):
    """Values, gradients and Hessian products, with smoothing and weights over all classes, and padding classes."""
    found = on_eight_devices(HERE / "split_classes.py")
    assert len(found) == 10
    for case in found:
        assert case["error"] < 1e-6, case
        assert case["gathers"] == [], case
