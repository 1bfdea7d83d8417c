"""TLS contexts from settings: the one place that says which TLS is spoken, on either side.

TLS 1.2 or newer, with the ciphers of Python's defaults; certificates of backends are always verified, and
there is no setting against it.
"""

from __future__ import annotations

import ssl

from gateway.config.files import FileContent
from gateway.config.fleet import UpstreamTls
from gateway.config.schema import DownstreamTlsConfig


def upstream_context(tls: UpstreamTls) -> ssl.SSLContext:
    """Towards a backend; making one takes tens of milliseconds. Raises OSError."""
    context = ssl.create_default_context(cafile=tls.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.cert_file is not None and tls.key_file is not None:
        _show_certificate(context, tls.cert_file, tls.key_file)
    return context


def downstream_context(tls: DownstreamTlsConfig) -> ssl.SSLContext:
    """Towards clients. Raises OSError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _show_certificate(context, tls.cert_file, tls.key_file)
    context.set_alpn_protocols(["http/1.1"])
    if tls.client_ca_file is not None:
        context.load_verify_locations(tls.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
        # A session that is taken up again shows no certificate: one that is trusted no more would still do.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    return context


def _show_certificate(context: ssl.SSLContext, cert_file: FileContent, key_file: FileContent) -> None:
    # A callback, so that an encrypted key is refused and never asks on the terminal.
    context.load_cert_chain(cert_file, key_file, password=lambda: b"")
