"""Finds a TFDS dataset by name and prepares it once, quietly; everything that can go wrong is one line.

Untouched, TFDS answers an unknown name with thousands of characters, hangs for minutes without a network, and takes
a half-built folder for a finished one.
"""

import contextlib
import difflib
import importlib.util
import io
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from xent.train.errors import UsageError, extra
from xent.train.network import addresses, unreachable

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder


def prepared(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    builtin: Sequence[str] = (),
    check: Callable[["DatasetBuilder"], object] | None = None,
    report: Callable[[str], None] | None = None,
) -> "DatasetBuilder":
    """Opens a TFDS dataset, preparing it in `array_record` format if it is not there yet.

    Args:
      name: as TFDS takes it: `mnist`, `glue/sst2`, `mnist:3.0.1`.
      data_dir: the folder of prepared datasets; by default `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      builtin: names to offer where the one asked for cannot be had.
      check: is given the builder before anything is prepared, to raise if the set is not of the kind that is wanted.
      report: is given one line before a preparation starts.

    Returns:
      The TFDS builder, ready for `as_data_source`.

    Raises:
      UsageError: unknown name; TensorFlow, network or folder missing; a damaged folder.

    Example:
      >>> prepared("digits", builtin=datasets.register()).info.splits["test"].num_examples  # doctest: +SKIP
      360

    Source:
      https://www.tensorflow.org/datasets
    """
    root = os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    builder = _open(name, root, builtin)
    if check is not None:
        check(builder)
    if not os.path.exists(builder.data_dir):
        _prepare(name, builder, root, builtin, report)
    builder = _open(name, root, builtin)  # anew: this process or another may have written it since
    with quiet():
        ready = builder.is_prepared()
    if not ready:
        raise UsageError(f"dataset {name!r} is half built: delete the folder {builder.data_dir} and run again")
    return builder


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what TFDS and TensorFlow print, log and warn inside the block; exceptions pass."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    handlers, native = root.handlers[:], os.environ.get("TF_CPP_MIN_LOG_LEVEL")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow reads it once, when it is imported
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers  # absl adds one that would keep writing to the stream we drop
        if native is None:
            del os.environ["TF_CPP_MIN_LOG_LEVEL"]
        else:
            os.environ["TF_CPP_MIN_LOG_LEVEL"] = native


@contextlib.contextmanager
def readable(name: str, builder: "DatasetBuilder", split: str) -> Iterator[None]:
    """Reads a split inside the block, quietly; bytes that TFDS did not write are one line.

    Raises:
      UsageError: if a reader fails.
    """
    try:
        with quiet():
            yield
    except (UsageError, ImportError, MemoryError):
        raise
    except Exception as error:  # whatever the readers throw
        raise UsageError(
            f"dataset {name!r}, split {split}, cannot be read ({type(error).__name__}): "
            f"delete the folder {builder.data_dir} and run again"
        ) from error


def _open(name: str, root: str, builtin: Sequence[str]) -> "DatasetBuilder":
    """The builder, prepared or not; the cause of a failure is found out afterwards."""
    with quiet():
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise UsageError(f"datasets need more than the base install ({error}): {extra('experiments')}") from error
        base = re.split(r"[/:]", name)[0]
        names = tfds.list_builders(with_community_datasets=False)  # with them it needs TensorFlow
        plain = re.fullmatch(r"\w[\w.+:/-]*", name) and ".." not in name  # or a folder elsewhere would be opened
        if plain and (base in names or os.path.isdir(os.path.join(root, base))):
            try:
                return tfds.builder(name, data_dir=root, file_format="array_record")
            except tfds.core.DatasetNotFoundError:
                pass  # a folder of that name without a dataset in it
            except Exception as error:
                _explain(name, root, builtin, error)
    close = difflib.get_close_matches(base.lower(), names, n=4)
    guess = f"did you mean {', '.join(close)}? " if close else ""
    raise UsageError(f"unknown dataset {name[:80]!r}: {guess}any TFDS name is allowed{_offer(builtin, '; ')}")


def _explain(name: str, root: str, builtin: Sequence[str], error: Exception) -> NoReturn:
    """Blames the install, the name or the folder: only the last still opens in an empty folder."""
    import tensorflow_datasets as tfds

    if isinstance(error, ImportError) and "tensorflow" in str(error):
        raise _needs_tensorflow(name, builtin) from error
    with tempfile.TemporaryDirectory() as empty:
        try:
            fresh = tfds.builder(name, data_dir=empty)
        except Exception:
            raise UsageError(f"dataset {name[:80]!r} cannot be opened: {_short(error)}") from error
        folder = os.path.join(root, os.path.relpath(fresh.data_dir, empty))
    try:
        found = tfds.builder(name, data_dir=root).info.file_format.value
    except Exception:
        raise UsageError(
            f"dataset {name!r} is damaged ({_short(error)}): delete the folder {folder} and run again"
        ) from error
    raise UsageError(
        f"dataset {name!r} was prepared as {found} in {folder}, array_record is needed: "
        "choose another data_dir or delete that folder"
    ) from error


def _prepare(
    name: str, builder: "DatasetBuilder", root: str, builtin: Sequence[str], report: Callable[[str], None] | None
) -> None:
    """Writes the dataset. TFDS writes beside and renames, so of two processes one wins and both may read."""
    import tensorflow_datasets as tfds

    _check_writable(name, root)
    manual = Path(root, "downloads", "manual")
    stock = type(builder).__module__.startswith("tensorflow_datasets.")
    if stock and not _has_tensorflow():
        raise _needs_tensorflow(name, builtin)
    if hosts := unreachable(addresses(builder, manual)):
        raise UsageError(
            f"dataset {name!r} is not prepared and {', '.join(hosts[:3])} cannot be reached: connect, or put its "
            f"files under their original names in {manual}{_offer(builtin, ', or ')}"
        )
    if report:
        report(f"preparing {name} in {builder.data_dir}")
    try:
        with quiet():
            if stock:
                _keep_off_the_gpu()
            config = tfds.download.DownloadConfig(try_download_gcs=False, manual_dir=manual)
            builder.download_and_prepare(download_config=config)
    except Exception as error:
        if os.path.exists(builder.data_dir):
            return  # another process finished first, and our rename was refused
        if isinstance(error, ImportError) and "tensorflow" in str(error):
            raise _needs_tensorflow(name, builtin) from error
        raise UsageError(f"dataset {name!r} could not be prepared in {root}: {_short(error)}") from error


def _keep_off_the_gpu() -> None:
    """TensorFlow only encodes here; left alone it takes all the GPU memory, and JAX finds none."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # it is running already
        tf.config.set_visible_devices([], "GPU")


def _check_writable(name: str, root: str) -> None:
    """Tries it: permission bits say little to root, or on a read-only file system."""
    try:
        os.makedirs(root, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise UsageError(
            f"dataset {name!r} cannot be prepared in {root} ({error.strerror}): choose a data_dir that can be written"
        ) from error


def _has_tensorflow() -> bool:
    try:
        return importlib.util.find_spec("tensorflow") is not None
    except (ImportError, ValueError):  # blocked, or a stub without a spec
        return False


def _needs_tensorflow(name: str, builtin: Sequence[str]) -> UsageError:
    return UsageError(
        f"dataset {name!r} is not prepared, and TensorFlow, which prepares it, is missing: "
        f"{extra('tensorflow')}{_offer(builtin, ', or ')}"
    )


def _offer(builtin: Sequence[str], lead: str) -> str:
    return f"{lead}use the built-in {', '.join(builtin)}" if builtin else ""


def _short(error: Exception) -> str:
    """The kind and first line of an error, which from TFDS may be pages long and open with what we know."""
    lines = re.sub(r'^Failed to construct dataset "\w*", builder_kwargs "{.*?}": ', "", str(error)).strip().splitlines()
    text = lines[0].partition(" Here are ")[0] if lines else ""
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
