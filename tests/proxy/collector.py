"""A collector of traces, at a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """An OTLP/HTTP receiver. `hangs`: it takes batches and does not answer until `lets_go`."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.raw = b""
        self.hangs = False
        self.lets_go = asyncio.Event()
        self.status = 200
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.headers.append(request.headers.copy())
        if self.hangs:
            await self.lets_go.wait()
        self.raw += body
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(attributes(resource_spans.resource))
            for scope_spans in resource_spans.scope_spans:
                self.spans += scope_spans.spans
        return web.Response(status=self.status)

    @property
    def exchange(self) -> Span:
        (span,) = [span for span in self.spans if span.kind == Span.SPAN_KIND_SERVER]
        return span

    @property
    def attempts(self) -> list[Span]:
        spans = [span for span in self.spans if span.kind == Span.SPAN_KIND_CLIENT]
        return sorted(spans, key=lambda span: span.start_time_unix_nano)


def attributes(holder: Any) -> dict[str, Any]:
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in holder.attributes}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    application = web.Application()
    application.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(application, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()
