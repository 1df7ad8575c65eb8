"""Whether the hosts that a dataset would be downloaded from answer: asked first, since TFDS hangs for minutes."""

import contextlib
import queue
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

PATIENCE = 3.0
"""Seconds that the hosts of a dataset together get to answer."""


def addresses(builder: "DatasetBuilder", manual: Path) -> list[str]:
    """The addresses that are still needed; one set as the builder's `URL` stands for those TFDS has on record."""
    recorded = builder.url_infos or {}
    mirror = getattr(type(builder), "URL", None)
    if recorded and isinstance(mirror, str) and not any(url.startswith(mirror) for url in recorded):
        return [mirror]
    return [url for url, info in recorded.items() if not (info.filename and (manual / info.filename).exists())]


def unreachable(urls: Sequence[str]) -> list[str]:
    """The hosts to blame: none if one of them accepts a connection in time, or if there is none to ask.

    Threads, because a name that does not resolve cannot be given a time limit. Behind a proxy the proxy is asked.
    """
    proxies = urllib.request.getproxies()
    doors: dict[str, tuple[str, int]] = {}
    for url in urls:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return []  # nothing we can judge
        proxy = None if urllib.request.proxy_bypass(parts.hostname) else proxies.get(parts.scheme)
        door = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else parts
        doors[parts.hostname] = (door.hostname or "", door.port or (443 if door.scheme == "https" else 80))
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
    for host, port in set(doors.values()):
        threading.Thread(target=lambda host=host, port=port: answers.put(_knock(host, port)), daemon=True).start()
    deadline = time.monotonic() + PATIENCE
    with contextlib.suppress(queue.Empty):
        for _ in set(doors.values()):
            if answers.get(timeout=max(0.0, deadline - time.monotonic())):
                return []
    return list(doors)


def _knock(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True
