"""The admin port: an aiohttp application beside the data plane, on the same event loop."""

from __future__ import annotations

import asyncio

from aiohttp import http_parser, web

from gateway.admin.answers import answer_errors, json_answer
from gateway.admin.drains import DrainRoutes
from gateway.admin.fleet_page import fleet_page
from gateway.admin.guard import Guard
from gateway.admin.health import HealthRoutes
from gateway.admin.ports import AdminPorts, AdminSettings

# A drain is the largest thing anybody sends here.
MAX_BODY_BYTES = 16 * 1024
# By then the data plane has stopped; what still asks here are scrapers and probes.
SHUTDOWN_TIMEOUT_S = 1.0
OPENMETRICS_TYPE = "application/openmetrics-text"


class ParserMissing(OSError):
    """aiohttp would read requests with its parser in plain Python, which most of its advisories are about."""

    def __init__(self) -> None:
        super().__init__(
            "aiohttp runs without its C parser, which the admin port relies on; install a wheel of aiohttp "
            "for this platform, and do not set AIOHTTP_NO_EXTENSIONS"
        )


class AdminServer:
    """Start it, read `port`, stop it.

    `start` raises OSError when the address cannot be bound, and ParserMissing.
    """

    def __init__(self, settings: AdminSettings, ports: AdminPorts) -> None:
        self._settings = settings
        self._ports = ports
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port in use, also when the settings say 0."""
        assert self._runner is not None, "not started"
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
            raise ParserMissing
        runner = web.AppRunner(
            self._application(), access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_TIMEOUT_S
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._settings.host, self._settings.port).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner

    async def stop(self) -> None:
        """Closes the port. Stopping twice is the same as once."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _application(self) -> web.Application:
        guard = Guard(self._settings)
        application = web.Application(
            middlewares=[answer_errors, guard.middleware], client_max_size=MAX_BODY_BYTES
        )
        application.add_routes(HealthRoutes(self._ports).routes())
        application.add_routes(DrainRoutes(self._ports).routes())
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/api/v1/fleet", self._fleet)
        return application

    async def _metrics(self, request: web.Request) -> web.Response:
        as_openmetrics = OPENMETRICS_TYPE in request.headers.get("Accept", "")
        parts, content_type = self._ports.render_metrics(as_openmetrics)
        body = bytearray()
        for part in parts:
            body += part
            await asyncio.sleep(0)  # the data plane shares this event loop
        return web.Response(body=bytes(body), headers={"Content-Type": content_type})

    async def _fleet(self, request: web.Request) -> web.Response:
        return json_answer(fleet_page(self._ports.view, self._ports.clock()))
