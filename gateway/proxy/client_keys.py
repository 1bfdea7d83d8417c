"""Client keys: who may send requests here, told by the digests of the configuration. No key is kept.

What is looked up is SHA-256 of what the client offers. Whoever guesses can't steer that digest, so the time
that the look-up takes tells nothing that brings the next guess nearer; the comparison that decides takes the
same time whatever it says. All that is wrong with a credential gets one and the same answer.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from gateway.core.admission import Excess, KeyUse, TooMuch
from gateway.core.constraints import Residency, kept_to, residency_in
from gateway.proxy.errors import Refusal, invalid, retry_after_lines

if TYPE_CHECKING:
    from gateway.proxy.headers import RequestHead

# Bodies up to this size are read before a request is refused for its owner's limits: so the connection stays.
MAX_READ_BEFORE_REFUSAL_BYTES = 64 * 1024

_BEARER = b"bearer "
_PLAIN = (b"x-api-key", b"api-key")


class ClientKeys:
    """Every key that is good now. `uses` by name go on across reloads, with what is in flight."""

    def __init__(self, owners: Mapping[bytes, str], uses: Mapping[str, KeyUse]) -> None:
        """`owners`: names by the digests of their keys."""
        self.uses = uses
        self._by_digest = {digest: (digest, uses[name]) for digest, name in owners.items()}

    def authenticate(self, head: RequestHead) -> None:
        """Notes in `head` whose key it shows, and takes it out of what may go on. Raises Refusal.

        Of several credentials the first good one counts. The others may be for a backend.
        """
        kept: list[bytes] = []
        for line, offered in _offered(head.credentials):
            owner = self._owner_of(offered) if offered else None
            if owner is None:
                kept.append(line)
            elif head.key is None:
                head.key = owner
        if head.key is None:
            raise _unauthorized()
        head.credentials = b"".join(kept)

    def _owner_of(self, offered: bytes) -> KeyUse | None:
        digest = hashlib.sha256(offered).digest()
        known, owner = self._by_digest.get(digest, (b"", None))
        return owner if hmac.compare_digest(known, digest) else None


def _offered(credentials: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each line of a client's credentials, with the key in it; empty where there is none."""
    for line in credentials.splitlines(True):
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip()
        if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            yield line, value[len(_BEARER) :].strip()
        else:
            yield line, value if name in _PLAIN else b""


def refuse_early(head: RequestHead, now_s: float, gateways: int) -> None:
    """Before a body that is long, or waited for, is read in vain. Raises Refusal."""
    key = head.key
    assert key is not None
    is_short = head.content_length is not None and head.content_length <= MAX_READ_BEFORE_REFUSAL_BYTES
    if is_short and not head.expects_continue:
        return
    if (too_much := key.excess(now_s, gateways)) is not None:
        raise rate_limited(too_much)


def residency_of(head: RequestHead, key: KeyUse | None, known: frozenset[str]) -> Residency:
    """Where a request may be answered, by its key and its header. Raises Refusal."""
    wanted = None
    if head.residency is not None:
        wanted = residency_in(head.residency.decode("ascii"))
        if not wanted:
            name = "x-spillway-residency"
            raise invalid(f"'{name}' names no residency.", param=name)
    return kept_to(key.rules.residency if key is not None else None, wanted, known)


def rate_limited(too_much: TooMuch) -> Refusal:
    what = (
        "It has as many requests in flight as it may have."
        if too_much.excess is Excess.IN_FLIGHT
        else "It has sent as many requests as its rate allows."
    )
    return Refusal(
        429,
        "rate_limited",
        f"This key is at its limit. {what}",
        headers=retry_after_lines(too_much.retry_after_s),
    )


def _unauthorized() -> Refusal:
    return Refusal(
        401,
        "unauthorized",
        "A valid key is needed here: 'Authorization: Bearer KEY', or 'x-api-key: KEY'.",
        headers=b'www-authenticate: Bearer realm="spillway"\r\n',
    )
