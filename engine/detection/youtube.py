"""Videos of YouTube, as ultralytics finds them behind the address of their page."""

from __future__ import annotations

from urllib.parse import urlsplit

from data.streams.captures import CaptureError

HOSTS = frozenset({"www.youtube.com", "youtube.com", "youtu.be"})


def find_video(address: str) -> str:
    """Return the address of the video on a page of YouTube, any other address as it is. Raises `CaptureError`."""
    if urlsplit(address).hostname not in HOSTS:
        return address
    from ultralytics.data.loaders import get_best_youtube_url

    try:
        return get_best_youtube_url(address) or address
    except (ImportError, OSError) as error:
        raise CaptureError(f"the video behind this address cannot be looked up: {error}") from None
