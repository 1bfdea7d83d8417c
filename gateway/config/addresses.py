"""Where to listen and where backends are: read strictly, because each ends up in a socket or a header."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from gateway.config.problems import BadValue

DEFAULT_PORTS = {"http": 80, "https": 443}
STATE_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_AUTHORITY = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:/?#@]+))(?::(?P<port>[0-9]{1,5}))?")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<rest>.*)")
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()+,;=:@-]+)*", re.ASCII)
_PORT_NAME = re.compile(r"(?=[a-z0-9-]*[a-z])[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
# A base URL pasted from an OpenAI client: the API version, with or without an endpoint behind it.
_API_SUFFIX = re.compile(r"/v1(/(chat/completions|completions|responses|messages|embeddings|models))?$")


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a TCP port to listen on. Port 0 lets the system choose one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def is_ip(self) -> bool:
        """Is the host an IP address, not a name?"""
        return _is_ip(self.host)

    @property
    def is_wildcard(self) -> bool:
        return _is_ip(self.host) and ip_address(self.host).is_unspecified

    def clashes_with(self, other: Address) -> bool:
        """Can the two not be listened on at once?"""
        same_host = self.host == other.host or self.is_wildcard or other.is_wildcard
        return same_host and self.port == other.port != 0

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class BackendUrl:
    """A backend's base URL. `prefix` goes before the client's path: empty, or like `/a/b`."""

    scheme: str
    host: str
    port: int
    prefix: str = ""

    @property
    def authority(self) -> str:
        """`host:port`, always with the port: part of the backend's id."""
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def host_header(self) -> str:
        """The Host header's value: the scheme's own port is left out (RFC 9110, 4.2.3)."""
        is_default = DEFAULT_PORTS[self.scheme] == self.port
        return _bracketed(self.host) if is_default else self.authority

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}{self.prefix}"


def is_loopback(host: str) -> bool:
    """Is `host`, as parse_host gives it, this machine and nobody else?"""
    return host == "localhost" or (_is_ip(host) and ip_address(host).is_loopback)


def parse_address(text: str) -> Address:
    """An Address from `127.0.0.1:8080`, `[::1]:8080` or `localhost:8080`. Raises BadValue."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        bare_port = text.removeprefix(":")
        if bare_port.isdecimal():
            raise BadValue("must be host:port", f"did you mean '127.0.0.1:{bare_port}'?")
        raise BadValue(f"must be host:port, not {text!r}", "write 127.0.0.1:8080 or '[::1]:8080'")
    if match["port"] is None:
        if text.isdecimal():
            raise BadValue("must be host:port", f"did you mean '127.0.0.1:{text}'?")
        raise BadValue(f"has no port: {text!r}", f"did you mean '{text}:8080'?")
    return Address(_host(match), _port(match["port"], lowest=0))


def parse_backend_url(text: str) -> BackendUrl:
    """A BackendUrl. Raises BadValue, never showing a password that stands in the URL."""
    match = _URL.fullmatch(text)
    if match is None or match["scheme"].lower() not in DEFAULT_PORTS:
        known = _URL.fullmatch(f"http://{text}") if "://" not in text and "@" not in text else None
        fix = f"did you mean 'http://{text}'?" if known and known["authority"] else ""
        raise BadValue("must begin with http:// or https://", fix)
    scheme = match["scheme"].lower()
    if "@" in match["authority"]:
        raise BadValue("must not hold a user or password", "put credentials under 'auth'")
    if match["rest"]:
        raise BadValue("must not hold a query or fragment", "remove all from '?' or '#' on")
    authority = _AUTHORITY.fullmatch(match["authority"])
    if authority is None:
        raise BadValue("has no valid host", "write http://host:port, an IPv6 address in brackets")
    port = _port(authority["port"], lowest=1) if authority["port"] else DEFAULT_PORTS[scheme]
    return BackendUrl(scheme, _host(authority), port, _prefix(match["path"]))


def check_state_url(url: str) -> None:
    """Raises BadValue for what is no URL of a Redis; never shows any of it, for it may hold a password."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in STATE_SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in STATE_SCHEMES)
        raise BadValue(f"must begin with one of {known}", "write redis://host:6379/0 or unix:///path")
    place, _, path = rest.partition("?")[0].rpartition("@")[2].partition("/")
    if "#" in rest.partition("?")[0]:
        raise BadValue("holds a '#'", "write it as %23 where it belongs to a password")
    if scheme == "unix":
        if place or not path.strip("/"):
            raise BadValue("must hold the absolute path of a socket", "write unix:///run/redis.sock")
        return
    hosts = place.split(",") if scheme.endswith("+sentinel") else [place]
    if not all(_is_place(host) for host in hosts):
        raise BadValue("has no valid host and port", f"write {scheme}://host:port")
    if scheme.endswith("+sentinel") and not path.partition("/")[0]:
        raise BadValue("has no name of a primary", f"write {scheme}://host:26379/name")
    if not scheme.endswith("+sentinel") and path and not path.isdecimal():
        raise BadValue("has a database that is no number", f"write {scheme}://host:6379/0")


def _is_place(text: str) -> bool:
    """Is it `host` or `host:port`?"""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return False
    try:
        _host(match)
        return match["port"] is None or _port(match["port"], lowest=1) > 0
    except BadValue:
        return False


def parse_host(text: str) -> str:
    """A host name or IP address, in lower case. Raises BadValue."""
    if _is_ip(text):
        return str(ip_address(text))
    labels = text.lower().removesuffix(".").split(".")
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadValue(f"has no valid host: {text!r}")
    if labels[-1].isdecimal():
        raise BadValue(f"is not an IPv4 address: {text!r}")
    return ".".join(labels)


def parse_dns_name(text: str) -> str:
    """A name to ask DNS for, in lower case; the dot at its end stays. Raises BadValue."""
    if _is_ip(text):
        raise BadValue(f"must be a name, not the address {text}", "list addresses under 'backends'")
    return parse_host(text) + ("." if text.endswith(".") else "")


def parse_network(text: str) -> str:
    """`10.0.0.0/8`, or one address. Raises BadValue."""
    try:
        return str(ip_network(text))
    except ValueError:
        pass
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        raise BadValue(f"must be a network, not {text!r}", "write 169.254.10.0/24") from None
    raise BadValue(f"has bits set behind its prefix: {text!r}", f"did you mean '{meant}'?")


def parse_port_of_slice(text: str) -> str:
    """The name or the number of a port, as Kubernetes has them. Raises BadValue."""
    if text.isdecimal():
        return str(_port(text, lowest=1) if len(text) <= 5 else _port("65536", lowest=1))
    if _PORT_NAME.fullmatch(text) is None:
        raise BadValue(f"must be the name or the number of a port, not {text!r}")
    return text


def parse_url_prefix(text: str) -> str:
    """The path in a backend's URL, such as `/a/b`. Raises BadValue."""
    if text and not text.startswith("/"):
        raise BadValue(f"must start with '/', not {text!r}", f"did you mean '/{text}'?")
    return _prefix(text)


def parse_request_path(text: str) -> str:
    """A path of the data port, `/a/b` or `/a/*`. Raises BadValue."""
    if not text.startswith("/"):
        raise BadValue(f"must start with '/', not {text!r}", f"did you mean '/{text}'?" if text else "")
    fixed = text.removesuffix("/*") if text.endswith("/*") else text.removesuffix("/")
    if "*" in fixed:
        raise BadValue(f"may hold '*' only as its last segment, not {text!r}", "write /my/*")
    if not _is_plain_path(fixed):
        raise BadValue(
            f"is not a plain path: {text!r}", "no empty or dot segments, '%', query, fragment or spaces"
        )
    return text


def parse_plain_path(text: str) -> str:
    """A path of a backend, `/a/b`. Raises BadValue."""
    if "*" in text:
        raise BadValue(f"must be one path, not {text!r}", "remove the '*'")
    return parse_request_path(text)


def _prefix(path: str) -> str:
    prefix = path.rstrip("/")
    if match := _API_SUFFIX.search(prefix):
        raise BadValue(f"must not end in {match[0]}", "drop /v1: the client's path is passed on")
    if not _is_plain_path(prefix):
        raise BadValue(f"has no plain path: {path!r}", "no empty or dot segments, '%' or spaces")
    return prefix


def _is_plain_path(path: str) -> bool:
    return _PATH.fullmatch(path) is not None and not {".", ".."} & set(path.split("/"))


def _host(match: re.Match[str]) -> str:
    if (six := match["six"]) is None:
        return parse_host(match["host"])
    try:
        return str(IPv6Address(six))
    except ValueError:
        raise BadValue(f"is not an IPv6 address: {six!r}") from None


def _port(text: str, lowest: int) -> int:
    port = int(text)
    if not lowest <= port <= 65535:
        raise BadValue(f"has a port outside {lowest}-65535: {port}")
    return port


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
