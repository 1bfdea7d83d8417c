"""The admin port: an aiohttp application beside the data plane, on the same event loop."""

from __future__ import annotations

from aiohttp import http_parser, web

from gateway.admin.answers import answer_errors, json_answer
from gateway.admin.drains import DrainRoutes
from gateway.admin.explain import ExplainRoutes
from gateway.admin.guard import Guard
from gateway.admin.health import HealthRoutes
from gateway.admin.pages import OPENMETRICS_TYPE, Pages
from gateway.admin.ports import AdminSettings
from gateway.admin.reload import ReloadRoutes

# A drain is the largest thing anybody sends here.
MAX_BODY_BYTES = 16 * 1024
# By then the data plane has stopped; what still asks here are scrapers and probes.
SHUTDOWN_TIMEOUT_S = 1.0


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

    def __init__(self, settings: AdminSettings, pages: Pages) -> None:
        self._settings = settings
        self._guard = Guard(settings)
        self._pages = pages
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port in use, also when the settings say 0; 0 on a unix socket."""
        assert self._runner is not None, "not started"
        return int(self._runner.addresses[0][1]) if self._settings.socket_path is None else 0

    async def start(self) -> None:
        if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
            raise ParserMissing
        runner = web.AppRunner(
            self._application(), access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_TIMEOUT_S
        )
        await runner.setup()
        try:
            await self._site(runner).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner

    def follow(self, settings: AdminSettings) -> None:
        """Another token; an address stays as long as the server runs."""
        self._guard.follow(settings)

    async def stop(self) -> None:
        """Closes the port. Stopping twice is the same as once."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _site(self, runner: web.AppRunner) -> web.BaseSite:
        settings = self._settings
        if settings.socket_path is not None:
            return web.UnixSite(runner, settings.socket_path)
        return web.TCPSite(runner, settings.host, settings.port)

    def _application(self) -> web.Application:
        application = web.Application(
            middlewares=[answer_errors, self._guard.middleware], client_max_size=MAX_BODY_BYTES
        )
        application.add_routes(HealthRoutes(self._pages).routes())
        application.add_routes(DrainRoutes(self._pages).routes())
        application.add_routes(ReloadRoutes(self._pages).routes())
        application.add_routes(ExplainRoutes(self._pages).routes())
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/api/v1/fleet", self._fleet)
        return application

    async def _metrics(self, request: web.Request) -> web.Response:
        as_openmetrics = OPENMETRICS_TYPE in request.headers.get("Accept", "")
        body, content_type = await self._pages.metrics(as_openmetrics)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _fleet(self, request: web.Request) -> web.Response:
        return json_answer(await self._pages.fleet())
