"""What a hostile backend sends in place of an answer, and the pair that is to survive it."""

from __future__ import annotations

from tests.proxy.dialogue import reply

CALM = "breaker: {consecutive: 100000, min_samples: 100000, ratio: 1.0}\nretry: {budget: 0}\n"
POISON = reply(b"POISON")
GOOD = b'{"ok":true}'
