"""Where an admin port is, and the token for it, as the command line gives them."""

from __future__ import annotations

import argparse
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_ADMIN = "http://127.0.0.1:9090"


class TokenUnreadable(Exception):
    """Why, in words for the person who named the file."""


def admin_url(text: str) -> str:
    """A URL without a slash at its end. Raises argparse.ArgumentTypeError."""
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL such as {DEFAULT_ADMIN}")
    return text.rstrip("/")


def read_token(path: Path | None) -> str | None:
    """The token in a file, None without one. Raises TokenUnreadable."""
    if path is None:
        return None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise TokenUnreadable(f"cannot read the token: {exc}") from exc
    if not token or not token.isprintable():
        raise TokenUnreadable(f"{path} holds no token")
    return token
