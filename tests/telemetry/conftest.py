"""Records as the data plane makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.core.model import SUCCESS
from gateway.ports import RequestRecord


def make_record(**changed: Any) -> RequestRecord:
    """A good request to the primary cluster, except for what is changed."""
    known: dict[str, Any] = {
        "request_id": "req-1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "client": "10.0.0.9",
        "started_s": 100.0,
        "model": "llama-3-8b",
        "route_model": "llama-*",
        "stream": True,
        "status": 200,
        "outcome": SUCCESS,
        "cluster": "here",
        "tier": "primary",
        "backend": "here@10.0.0.1:8000",
        "preferred_tier": "primary",
        "attempts": 1,
        "ttft_s": 0.04,
        "duration_s": 0.3,
        "overhead_s": 0.00015,
        "bytes_in": 700,
        "bytes_out": 500,
    }
    return RequestRecord(**(known | changed))


@pytest.fixture
def record() -> Callable[..., RequestRecord]:
    return make_record
