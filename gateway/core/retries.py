"""Second attempts: how many the fleet can bear, where they may go, and when there is no time for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gateway.core.breaker import NO_GENERATION
from gateway.core.model import Candidate, Plan, PlanReason, RequestFacts, Shed
from gateway.core.routing import plan_route
from gateway.core.taxonomy import may_move as may_move
from gateway.core.taxonomy import may_succeed_elsewhere as may_succeed_elsewhere
from gateway.core.taxonomy import reason_of_status as reason_of_status
from gateway.core.view import BackendState, FleetView
from gateway.core.windows import Tally

WINDOW_S = 10.0


class Budget:
    """Extra attempts: at most `share` of the exchanges of the last ten seconds, and at least `at_least`.

    One for all routes of a gateway. Over any time, with E exchanges in it, no more is spent than
    share x E + at_least for each ten seconds begun: a full outage cannot multiply the load.
    """

    __slots__ = ("_at_least", "_exchanges", "_share", "_spent", "exchange_began")

    def __init__(self, share: float, at_least: int = 0, exchanges: Tally | None = None) -> None:
        self._share = share
        self._at_least = at_least
        self._exchanges = exchanges if exchanges is not None else Tally(WINDOW_S)
        self._spent = Tally(WINDOW_S)
        # Once for each exchange that gets a backend: the tally itself, because this is asked of all.
        self.exchange_began = self._exchanges.add

    def set_share(self, share: float, at_least: int) -> None:
        """What was seen and spent until now counts on."""
        self._share, self._at_least = share, at_least

    def allows(self, now_s: float) -> bool:
        exchanges, spent = self._exchanges.counts(now_s).total, self._spent.counts(now_s).total
        return spent + 1 <= max(self._share * exchanges, self._at_least)

    def spend(self, now_s: float) -> None:
        """An extra attempt begins. One that `allows` was not asked for is counted all the same."""
        self._spent.add(now_s)

    def __repr__(self) -> str:
        return f"<Budget {self._share:.0%} of {self._exchanges!r}, {self._spent!r} spent>"


class ExtraAttempts:
    """Retries and hedges of one gateway. A hedge is paid from both budgets: together they stay one fifth.

    `exchange_began` is to be told once for each exchange, when it gets its first backend.
    """

    __slots__ = ("_hedges", "_retries", "exchange_began")

    def __init__(self, retry_share: float = 0.2, hedge_share: float = 0.05, at_least: int = 3) -> None:
        exchanges = Tally(WINDOW_S)
        self._retries = Budget(retry_share, at_least, exchanges)
        self._hedges = Budget(hedge_share, 0, exchanges)
        self.exchange_began = exchanges.add

    def set_shares(self, retry_share: float, hedge_share: float, at_least: int) -> None:
        """Another configuration; what was seen and spent until now counts on."""
        self._retries.set_share(retry_share, at_least)
        self._hedges.set_share(hedge_share, 0)

    def may_retry(self, now_s: float) -> bool:
        return self._retries.allows(now_s)

    def may_hedge(self, now_s: float) -> bool:
        return self._hedges.allows(now_s) and self._retries.allows(now_s)

    def retried(self, now_s: float) -> None:
        self._retries.spend(now_s)

    def hedged(self, now_s: float) -> None:
        self._retries.spend(now_s)
        self._hedges.spend(now_s)

    def __repr__(self) -> str:
        return f"<ExtraAttempts retries {self._retries!r}, hedges {self._hedges!r}>"


def plan_again(
    facts: RequestFacts, view: FleetView, tried: Sequence[Candidate], now_s: float, left_s: float
) -> Plan | None:
    """Where a request may go that has failed at all of `tried`, with `left_s` until its deadline.

    Planned anew, because circuits may have opened since: never the same backend twice, tiers that were
    tried last, and nobody who typically needs longer than there is time. None: nothing is left.
    """
    plan = plan_route(facts, view, now_s)
    rest = None if isinstance(plan, Shed) else plan.after(tried)
    if rest is None:
        return None
    in_time = tuple(c for c in rest.candidates if has_time(view.backends[c.backend.id], left_s, now_s))
    return replace(rest, candidates=in_time) if in_time else None


def plan_hedge(
    facts: RequestFacts, view: FleetView, first: Candidate, now_s: float, left_s: float
) -> Plan | None:
    """Where a second attempt may run beside `first`; None when nobody should.

    In the tier of the first, if anybody else is in it at all: a luxury fills no other tier. Never at a probe
    or in panic: what is barely standing is not asked twice for one request.
    """
    plan = plan_again(facts, view, (first,), now_s, left_s)
    if plan is None:
        return None
    able = [c for c in plan.candidates if not c.is_probe and c.generation != NO_GENERATION]
    beside = [c for c in able if c.tier == first.tier] or able
    if not beside:
        return None
    return replace(plan, candidates=tuple(replace(c, reason=PlanReason.HEDGED) for c in beside))


def has_time(state: BackendState, left_s: float, now_s: float) -> bool:
    """Whether an attempt could have its first byte in `left_s`, going by the median of the last minute."""
    typical_s = state.digest.quantile_s(0.5, now_s)
    return left_s > 0 and (typical_s is None or typical_s <= left_s)


def hedge_wait_s(view: FleetView, first: Candidate, after_s: float, now_s: float) -> float | None:
    """After how long a second attempt may begin beside `first`; None when nobody should race it.

    `after_s` is the configured time, 0 for what is typical of the backend. A probe runs alone: overtaken it
    would tell nothing, and a hung backend would stay half-open.
    """
    if len(view.backends) < 2 or first.is_probe:
        return None
    if after_s:
        return after_s
    state = view.backends.get(first.backend.id)
    return None if state is None else hedge_delay_s(state, now_s)


def hedge_delay_s(state: BackendState, now_s: float) -> float | None:
    """After how long without a first byte a second attempt is worth it: p95 of the last minute.

    Of a backend that has answered too few for a minute, because clients give up or second attempts win, the
    last one known: it is the one that needs hedging most. None while nothing is known of it.
    """
    return state.digest.last_quantile_s(0.95, now_s)
