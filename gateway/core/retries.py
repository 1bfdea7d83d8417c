"""Which answers are worth a second try elsewhere."""

from __future__ import annotations

from gateway.core.taxonomy import may_succeed_elsewhere as may_succeed_elsewhere
from gateway.core.taxonomy import reason_of_status as reason_of_status
