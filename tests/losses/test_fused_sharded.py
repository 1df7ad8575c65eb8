"""Fused losses on a mesh give what one device gives, and gather neither hidden states, nor logits, nor vocabulary."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def cases():
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
    }
    program = [sys.executable, str(Path(__file__).parent / "sharded.py")]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 12
    return found


def test_the_result_is_that_of_one_device(cases):
    for case in cases:
        assert case["error"] < 1e-5, case


def test_nothing_large_is_gathered_but_a_kernel_sharded_over_data(cases):
    """That is what fully sharded data parallelism means; of the vocabulary, each device keeps its half."""
    kernel = {"vocabulary": [], "fsdp": ["f32[96,8192]"], "both": ["f32[96,4096]"]}
    for case in cases:
        large = [shape for shape in case["gathers"] if not shape.startswith("s32") and shape.count(",")]
        assert set(large) <= set(kernel[case["case"][0]]), case
