"""Whether the Hugging Face Hub is asked. Its client retries a dead network for half a minute; this asks once, first.

The client reads its switch when it is imported: call this before anything that imports it.
"""

import os
import urllib.error
import urllib.request
from typing import cast

from vlmtune.progress import Progress

OFFLINE = "HF_HUB_OFFLINE"
ENDPOINT = "HF_ENDPOINT"
PATIENCE_S = 5.0


def go_offline() -> None:
    """Use files of the local cache alone."""
    os.environ[OFFLINE] = "1"


def go_offline_if_unreachable(progress: Progress) -> None:
    """Ask the Hub for a sign of life, for at most `PATIENCE_S` seconds; without one, say so and go offline."""
    if os.environ.get(OFFLINE, "").upper() in ("1", "ON", "YES", "TRUE"):
        return
    address = os.environ.get(ENDPOINT) or "https://huggingface.co"
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE_S).close()
    except urllib.error.HTTPError:
        return  # an answer, whatever it says
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        progress.note(f"{address} cannot be reached ({reason}); looking in the local cache only")
        go_offline()


def http_error() -> type[Exception]:
    """Base of the errors that the Hub's client raises without a network: that of its HTTP library.

    Versions of the client use different libraries (requests, httpx, httpx2), but always derive their own error from it.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return cast("type[Exception]", HfHubHTTPError.__bases__[0])
