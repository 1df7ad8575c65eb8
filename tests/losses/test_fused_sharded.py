"""Fused losses on a mesh give what one device gives, and gather neither hidden states, nor logits, nor vocabulary."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(program):
    """What a program beside this file prints with eight devices, a line of JSON each."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, str(Path(__file__).parent / program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def cases():
    found = run("sharded.py")
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


def test_inside_of_shard_map_too_with_classes_split_and_nothing_is_gathered():
    """Values, gradients and Hessian products, with smoothing and weights over all classes, and padding classes."""
    found = run("split_classes.py")
    assert len(found) == 10
    for case in found:
        assert case["error"] < 1e-6, case
        assert case["gathers"] == [], case
