"""EndpointSlices of one Service, and the backends that they add up to.

A pod is one backend however often it is listed: in slices for IPv4 and for IPv6, and in two slices of one
family while the control plane moves it. What is terminating leaves, also while it still serves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from msgspec import Struct, field

from gateway.config.addresses import BackendUrl, parse_host
from gateway.config.discovered import Discovered
from gateway.config.problems import BadValue
from gateway.config.schema import BackendConfig
from gateway.config.schema_discovery import MAX_BACKENDS, KubernetesConfig
from gateway.discovery.source import SourceFailed

# In this order: of a pod with addresses of several kinds the first one is used.
_FAMILIES = ("IPv4", "IPv6", "FQDN")
MAX_NOTES = 5
MAX_HOST_CHARS = 253
# Of 100 endpoints each, as the control plane makes them, ten times what a Service may have here.
MAX_SLICES = 1000


# --- as the API writes them: only what is read here; null stands for nothing ----------------------------


class ObjectMeta(Struct):
    name: str = ""
    resource_version: str = field(name="resourceVersion", default="")


class Conditions(Struct):
    ready: bool | None = None
    terminating: bool | None = None


class TargetRef(Struct):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class Endpoint(Struct):
    addresses: list[str] | None = None
    conditions: Conditions | None = None
    target: TargetRef | None = field(name="targetRef", default=None)


class SlicePort(Struct):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class EndpointSlice(Struct):
    metadata: ObjectMeta
    address_type: str = field(name="addressType", default="IPv4")
    endpoints: list[Endpoint] | None = None
    ports: list[SlicePort] | None = None


# --- what they mean -----------------------------------------------------------------------------------------


class _Place(NamedTuple):
    family: int
    host: str
    port: int


@dataclass(slots=True)
class _Member:
    """One pod, or whatever else an endpoint stands for, from all that the slices say of it."""

    places: set[_Place]
    is_ready: bool = False
    is_leaving: bool = False


Identity = tuple[str, ...]


class ServiceSlices:
    """All slices of one Service as they are now.

    Expected are the members that are ready; those that are not count when they were ready before, or were
    there from the start: what was lost is missed, what is only being added is not (ADR 0023).
    """

    def __init__(self, config: KubernetesConfig) -> None:
        self._config = config
        self._slices: dict[str, EndpointSlice] = {}
        self._expected: set[Identity] | None = None

    def replace(self, slices: dict[str, EndpointSlice]) -> None:
        """By name: these and no others."""
        self._slices = slices

    def put(self, changed: EndpointSlice) -> None:
        """A new slice, or an old one that has changed. Raises SourceFailed for more than MAX_SLICES."""
        self._slices[changed.metadata.name] = changed
        if len(self._slices) > MAX_SLICES:
            raise SourceFailed(f"the Service has more than {MAX_SLICES} EndpointSlices")

    def drop(self, name: str) -> None:
        self._slices.pop(name, None)

    def discovered(self, server_name: str | None = None) -> Discovered:
        """The ready endpoints as backends. Raises SourceFailed for more than MAX_BACKENDS."""
        config = self._config
        members, notes = self._members()
        staying = {who: member for who, member in members.items() if not member.is_leaving}
        ready = {who for who, member in staying.items() if member.is_ready}
        self._expected = set(staying) if self._expected is None else ready | self._expected & staying.keys()
        places = {min(staying[who].places) for who in ready if staying[who].places}
        backends = tuple(
            BackendConfig(url=BackendUrl(config.scheme, place.host, place.port, config.prefix))
            for place in sorted(places)
        )
        return Discovered(backends, len(self._expected), server_name, tuple(notes)[:MAX_NOTES])

    def _members(self) -> tuple[dict[Identity, _Member], dict[str, None]]:
        members: dict[Identity, _Member] = {}
        notes: dict[str, None] = {}
        for endpoint_slice in self._slices.values():
            _take_in(endpoint_slice, self._config, members, notes)
            if len(members) > MAX_BACKENDS:
                raise SourceFailed(f"the Service has more than {MAX_BACKENDS} endpoints")
        return members, notes


def _take_in(
    endpoint_slice: EndpointSlice,
    config: KubernetesConfig,
    members: dict[Identity, _Member],
    notes: dict[str, None],
) -> None:
    family = endpoint_slice.address_type
    if family not in _FAMILIES:
        notes[f"slice {_shown(endpoint_slice.metadata.name)} has addresses of an unknown type"] = None
        return
    endpoints = endpoint_slice.endpoints or []
    port = _port_of(endpoint_slice, config.port)
    if port is None and endpoints:
        notes[_no_port(endpoint_slice, config.port)] = None
    for endpoint in endpoints:
        host = next(_hosts(endpoint, family), None)
        if host is None:
            notes[f"slice {_shown(endpoint_slice.metadata.name)} has an endpoint without a valid address"] = (
                None
            )
            continue
        conditions = endpoint.conditions or Conditions()
        member = members.setdefault(_identity(endpoint, host, port), _Member(set()))
        if port is not None:
            member.places.add(_Place(_FAMILIES.index(family), host, port))
        # The API's own rule: where nothing is said, it is ready.
        member.is_ready |= conditions.ready is not False
        member.is_leaving |= conditions.terminating is True


def _identity(endpoint: Endpoint, host: str, port: int | None) -> Identity:
    """Who it is, whatever its addresses; of an endpoint that names no pod, its address."""
    target = endpoint.target
    if target is None or not (target.uid or target.name):
        return host, str(port)
    # Several ports of one pod are several backends: a Service may select an engine per port.
    return target.kind, target.namespace, target.name, target.uid, str(port)


def _hosts(endpoint: Endpoint, family: str) -> Iterator[str]:
    """Its valid addresses: those of one endpoint are as good as each other, and the first is used."""
    known = (address for address in endpoint.addresses or [] if len(address) <= MAX_HOST_CHARS)
    return filter(None, (_host(address, family) for address in known))


@lru_cache(maxsize=MAX_BACKENDS)  # with each change all endpoints are looked at again
def _host(address: str, family: str) -> str | None:
    try:
        if family == "FQDN":
            return parse_host(address)
        ip = ip_address(address)
    except (BadValue, ValueError):
        return None
    return str(ip) if ip.version == (4 if family == "IPv4" else 6) else None


def _port_of(endpoint_slice: EndpointSlice, wanted: str | None) -> int | None:
    ports = [port for port in endpoint_slice.ports or [] if (port.protocol or "TCP") == "TCP"]
    if wanted is not None and wanted.isdecimal():
        # A slice without ports belongs to a headless Service that names none.
        known = {port.port for port in ports if port.port is not None}
        return int(wanted) if not known or int(wanted) in known else None
    if wanted is not None:
        ports = [port for port in ports if port.name == wanted]
    (number,) = {port.port for port in ports} if len(ports) == 1 else {None}
    return number if number is not None and 0 < number < 65536 else None


def _no_port(endpoint_slice: EndpointSlice, wanted: str | None) -> str:
    ports = endpoint_slice.ports or []
    known = ", ".join(f"{_shown(port.name or 'unnamed')} {port.port}" for port in ports[:10]) or "none"
    which = "one port" if wanted is None else f"port {wanted}"
    return f"slice {_shown(endpoint_slice.metadata.name)} has not {which}: it has {known}"


def _shown(text: str) -> str:
    return text[:63] if text.isprintable() else ascii(text[:63])
