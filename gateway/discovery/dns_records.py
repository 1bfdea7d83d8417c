"""The records of a DNS name, asked for again when their time to live is over.

NXDOMAIN is not believed at once: Kubernetes' DNS says it of a Service without ready pods, but name servers
also say it by mistake (ADR 0023).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Never

from gateway.config.addresses import BackendUrl, parse_host
from gateway.config.discovered import Discovered
from gateway.config.problems import BadValue
from gateway.config.schema import BackendConfig
from gateway.config.schema_discovery import DnsConfig
from gateway.discovery.source import Pace, SourceFailed, Surroundings, Tell

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver
    from dns.resolver import Answer

# A TTL of 0 would ask without a pause; one of a day would never see a backend come.
MIN_TTL_S, MAX_TTL_S = 1.0, 60.0
# For one question, all name servers and attempts together.
ASK_S = 5.0
# How long the name has to be unknown until that is an answer.
UNKNOWN_FOR_S = 30.0
# What a record of weight 0 gets beside others: "a very small chance" (RFC 2782).
SMALL_WEIGHT = 0.1


class NameUnknown(SourceFailed):
    """NXDOMAIN."""


class DnsSource:
    """One name. `min_ttl_s` and `unknown_for_s` are arguments for the tests' sake."""

    def __init__(
        self,
        config: DnsConfig,
        around: Surroundings,
        min_ttl_s: float = MIN_TTL_S,
        unknown_for_s: float = UNKNOWN_FOR_S,
    ) -> None:
        self._config = config
        self._around = around
        self._min_ttl_s = min_ttl_s
        self._unknown_for_s = unknown_for_s
        self._unknown_since_s: float | None = None

    async def follow(self, tell: Tell) -> Never:
        pace = Pace(self._around.draw)
        resolver: Resolver | None = None
        while True:
            try:
                resolver = resolver or _resolver(self._config)
                answer = await self._ask(resolver)
                tell.found(_discovered(self._config, answer))
                pause_s = self._ttl_s(answer)
                pace.went_well()
            except SourceFailed as failed:
                tell.failed(str(failed))
                pause_s = pace.next_pause_s()
            await asyncio.sleep(pause_s)

    def _ttl_s(self, answer: Answer | None) -> float:
        ttl_s = float(answer.chaining_result.minimum_ttl) if answer is not None else 0.0
        return min(max(ttl_s, self._min_ttl_s), MAX_TTL_S)

    async def _ask(self, resolver: Resolver) -> Answer | None:
        """The answer; None where the name has been unknown for long enough. Raises SourceFailed."""
        try:
            answer = await _ask(resolver, self._config)
        except NameUnknown:
            now_s = self._around.clock()
            if self._unknown_since_s is None:
                self._unknown_since_s = now_s
            if now_s - self._unknown_since_s < self._unknown_for_s:
                raise
            return None
        self._unknown_since_s = None
        return answer


def _resolver(config: DnsConfig) -> Resolver:
    try:
        import dns.asyncresolver
        import dns.resolver
    except ImportError:
        raise SourceFailed("dnspython is not installed: pip install 'spillway[dns]'") from None
    try:
        resolver = dns.asyncresolver.Resolver(configure=not config.servers)
    except dns.resolver.NoResolverConfiguration as exc:
        raise SourceFailed(f"the system names no name servers: {exc}") from exc
    if config.servers:
        resolver.nameservers = [dns.nameserver.Do53Nameserver(s.host, s.port) for s in config.servers]
    resolver.lifetime = ASK_S
    return resolver


async def _ask(resolver: Resolver, config: DnsConfig) -> Answer:
    import dns.exception
    import dns.resolver

    try:
        return await resolver.resolve(config.name, config.record, raise_on_no_answer=False, search=True)
    except dns.resolver.NXDOMAIN as exc:
        raise NameUnknown(f"the name {config.name} is unknown (NXDOMAIN)") from exc
    except dns.exception.Timeout as exc:
        raise SourceFailed(f"no name server answers in {ASK_S:g} s") from exc
    except (dns.exception.DNSException, OSError, ValueError) as exc:
        raise SourceFailed(f"no good answer for {config.name}: {ascii(str(exc)[:200])[1:-1]}") from exc


def _discovered(config: DnsConfig, answer: Answer | None) -> Discovered:
    records = answer.rrset if answer is not None and answer.rrset is not None else ()
    if config.record == "srv":
        return Discovered(tuple(_of_srv(config, records)))
    assert config.port is not None, "rules.py lets no address record pass without a port"
    urls = {BackendUrl(config.scheme, str(r.address), config.port, config.prefix) for r in records}
    server_name = config.name.rstrip(".") if config.scheme == "https" else None
    return Discovered(tuple(BackendConfig(url=url) for url in urls), server_name=server_name)


def _of_srv(config: DnsConfig, records: Iterable[object]) -> Iterable[BackendConfig]:
    """Those of the first priority: the others are for when none of these can be reached.

    A target stays a name, so that its certificate and its id are those of the name.
    """
    known = [(r.priority, r.weight, str(r.target), r.port) for r in records]  # type: ignore[attr-defined]
    first = min((priority for priority, *_ in known), default=0)
    chosen = [(weight, target, port) for priority, weight, target, port in known if priority == first]
    smallest = SMALL_WEIGHT if any(weight for weight, *_ in chosen) else 1.0
    places: dict[tuple[str, int], float] = {}
    for weight, target, port in chosen:
        if target == "." or not port:  # "decidedly not available"
            continue
        try:
            host = parse_host(target)
        except BadValue:
            continue
        places[host, port] = places.get((host, port), 0.0) + (weight or smallest)
    for (host, port), weight in places.items():
        yield BackendConfig(url=BackendUrl(config.scheme, host, port, config.prefix), weight=weight)
