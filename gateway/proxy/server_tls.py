"""TLS towards clients: a listener's certificate, which may be renewed while it listens."""

from __future__ import annotations

import ssl

from gateway.config.schema import DownstreamTlsConfig
from gateway.config.tls_contexts import downstream_context


class ServerTls:
    """`context` is for the listener; each handshake then gets the newest certificate. Raises OSError."""

    def __init__(self, tls: DownstreamTlsConfig) -> None:
        self._tls = tls
        self._newest = self.context = downstream_context(tls)
        # Asked in each handshake, with a name or without: so the change is one assignment, and a context
        # that clients shake hands with is never half loaded.
        self.context.sni_callback = self._choose

    def prepared(self, tls: DownstreamTlsConfig) -> ssl.SSLContext:
        """For `renew`, which can't fail then. Raises OSError for files that can't be loaded."""
        return self._newest if tls == self._tls else downstream_context(tls)

    def renew(self, tls: DownstreamTlsConfig, prepared: ssl.SSLContext) -> None:
        self._tls, self._newest = tls, prepared

    def _choose(self, shaking: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        if context is not self._newest:
            shaking.context = self._newest
