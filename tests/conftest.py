"""What every test stands on: strict promotion, a quiet platform, and a dataset cache of the session's own."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# A shell that starts these tests in the background has them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def dataset_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """TFDS prepares and reads here, also in the processes that tests start; the user's own cache stays untouched."""
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    os.environ["TFDS_DATA_DIR"] = str(folder)
    yield folder
    del os.environ["TFDS_DATA_DIR"]
