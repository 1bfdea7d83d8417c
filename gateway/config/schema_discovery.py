"""The settings of discovery: where a cluster's backends are found when they are not listed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from gateway.config.addresses import Address, BackendUrl
from gateway.config.sections import Section, kind

# Of a label's value, a service's name and a namespace's: RFC 1123 and 1035 as Kubernetes uses them.
KubernetesName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
        max_length=63,
        extra={"must": "be of a-z, 0-9 and '-', with a letter or digit first and last"},
    ),
]
Scheme = Annotated[Literal["http", "https"], Meta(description="How the backends are spoken to.")]
Prefix = Annotated[str, kind("url_prefix", "Path that goes before the client's path, such as `/engines/a`.")]
# Whoever finds more has asked for the wrong thing, or is being lied to.
MAX_BACKENDS = 10_000


class KubernetesApiConfig(Section, frozen=True, kw_only=True):
    """Where the Kubernetes API is; default: that of the cluster which the gateway's own pod is in."""

    url: Annotated[
        BackendUrl, kind("backend_url", "Base URL of the API server, such as `https://10.0.0.1:6443`.")
    ]
    token_file: Annotated[
        Path | None, kind("live_file", "File with a bearer token; read again whenever the API is asked.")
    ] = None
    ca_file: Annotated[
        Path | None,
        kind("live_file", "Certificates to trust, PEM, in place of the system's; read again too."),
    ] = None


class KubernetesConfig(Section, frozen=True, kw_only=True):
    """The ready endpoints of a Kubernetes Service, by its EndpointSlices."""

    service: Annotated[KubernetesName, Meta(description="Name of the Service.")]
    namespace: (
        Annotated[KubernetesName, Meta(description="Its namespace; default: that of the gateway's own pod.")]
        | None
    ) = None
    port: Annotated[
        str | None,
        kind("port_of_slice", "Name or number of the endpoints' port; default: the only one they have."),
    ] = None
    scheme: Scheme = "http"
    prefix: Prefix = ""
    api: KubernetesApiConfig | None = None


class DnsConfig(Section, frozen=True, kw_only=True):
    """The records of a DNS name. Needs the extra `dns`."""

    name: Annotated[str, kind("dns_name", "Name to ask for; one that ends in a dot is asked for as it is.")]
    record: Annotated[Literal["a", "aaaa", "srv"], Meta(description="Type of the records.")] = "a"
    port: (
        Annotated[int, Meta(ge=1, le=65535, description="Port of the backends; SRV records have their own.")]
        | None
    ) = None
    scheme: Scheme = "http"
    prefix: Prefix = ""
    servers: Annotated[
        tuple[Annotated[Address, Meta(extra={"kind": "address"})], ...],
        Meta(description="Name servers to ask, addresses with port; default: the system's."),
    ] = ()


class DiscoveryConfig(Section, frozen=True, kw_only=True):
    """Where the cluster's backends are found, in place of `backends`: exactly one of three."""

    kubernetes: KubernetesConfig | None = None
    dns: DnsConfig | None = None
    file: Annotated[
        Path | None,
        kind(
            "live_file",
            "File with a list like `backends`: URLs, or mappings. It is read again when it changes.",
        ),
    ] = None
    expected: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=MAX_BACKENDS,
                description="Backends that should be there, so that 2 of 100 count as 2 %; default: what is "
                "found, in Kubernetes also what is not ready.",
            ),
        ]
        | None
    ) = None
