"""Whether to use the Hugging Face Hub or only its local cache, and the cache of vlmtune beside it.

The Hub's client retries a dead network for half a minute; one quick request up front avoids that. The client reads the
offline switch when it is imported, so call this before importing anything that imports it.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, cast

from vlmtune.progress import Progress

OFFLINE = "HF_HUB_OFFLINE"
ENDPOINT = "HF_ENDPOINT"
TIMEOUT_S = 5.0


def go_offline() -> None:
    """Use only files in the local cache."""
    os.environ[OFFLINE] = "1"


def go_offline_if_unreachable(progress: Progress) -> None:
    """Send the Hub one request; if it does not reply within `TIMEOUT_S` seconds, say so and go offline."""
    if os.environ.get(OFFLINE, "").upper() in ("1", "ON", "YES", "TRUE"):
        return
    address = os.environ.get(ENDPOINT) or "https://huggingface.co"
    import httpx2  # what the client uses, so that the same proxies and certificates apply

    try:
        httpx2.head(address, timeout=TIMEOUT_S)  # any reply means that it can be reached
    except (httpx2.HTTPError, httpx2.InvalidURL, ImportError, ValueError) as error:
        progress.note(f"{address} cannot be reached ({error}); using the local cache only")
        go_offline()


def cache_file(kind: str, key: Any, suffix: str = "") -> Path:
    """The cache file of a kind ("rows", "images", "weights") for a JSON-serialisable key, whether or not it exists."""
    import huggingface_hub.constants

    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    return Path(huggingface_hub.constants.HF_HOME) / "vlmtune" / kind / f"{name}{suffix}"


def http_error() -> type[Exception]:
    """Base of the errors that the Hub's client raises without a network: that of its HTTP library.

    Versions of the client use different libraries (requests, httpx, httpx2), but always derive their own error from it.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return cast("type[Exception]", HfHubHTTPError.__bases__[0])
