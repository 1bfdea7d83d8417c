"""The language of tests/scenarios/*.txt: one command a line, and below it, after `>`, what came of it.

    gateways A B C                         several gateways that hear each other at once (default: one, A)
    settings hold_down_s=5                 BreakerSettings other than the defaults; before `fleet`
    fleet primary=a/4,b/4 backup=c/4       one cluster in each tier; backends with their limits
    wait 2.5                               time passes, with a tick each half second
    [A:] try a reset x5 [in 0.1]           whole attempts on a backend; the word is a Reason, `ok` is success
    [A:] full a [for 20]                   an attempt that is answered 429, with a Retry-After
    [A:] start a x3                        attempts begin, and wait for their first byte
    [A:] end a ok x3 [last]                the oldest ones of those end, or the newest
    [A:] take [x3]                         requests take the first place of their plan that has a slot
    [A:] cut off from a                    from now on every attempt of this gateway there is a reset
    [A:] plan                              who would be tried, in order, and why
    [A:] show                              every cluster and backend
    traffic 20/s for 10: a ok 2.0, b server_error 0.005
                                           open-loop requests at each gateway; how each backend answers, and
                                           after how long; prints how many attempts each one got, how many
                                           requests came through, and how many were left without

Everything is exact: draws come from a seeded generator, and the store is a dict in this file. It keeps what a
real one must: each backend's limit, and one probe permit for each backend in the whole fleet.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from itertools import count
from random import Random

from gateway.core.breaker import BreakerSettings
from gateway.core.fleet import (
    AttemptFinished,
    AttemptStarted,
    ClosingShared,
    Effect,
    Event,
    Fleet,
    FleetConfigured,
    OpeningShared,
    ReportCircuit,
    SendSyntheticProbe,
    SetLimits,
    ShareClosing,
    ShareOpening,
    Ticked,
)
from gateway.core.model import Candidate, Outcome, Plan, PlanReason, Reason, RequestFacts, Verdict
from gateway.core.retries import ExtraAttempts, plan_again
from gateway.core.routing import plan_route
from tests.core.stories import TIERS, cluster_of

Running = tuple[float, Candidate]


def reason_named(word: str) -> Reason:
    return Reason.COMPLETED if word == "ok" else Reason(word)


def numbers_of(words: list[str]) -> tuple[int, float | None]:
    """`x5 in 0.1` in any order: how often, and the seconds."""
    times = next((int(word[1:]) for word in words if word[0] == "x" and word[1:].isdigit()), 1)
    seconds = next((float(words[at + 1]) for at, word in enumerate(words) if word in ("in", "for")), None)
    return times, seconds


class Gateway:
    """One fleet, what runs through it, and what it has asked to be done."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self.fleet = Fleet()
        self.running: dict[str, list[Running]] = {}
        self.limits: dict[str, int] = {}
        self.cut_off: set[str] = set()
        self.extra = ExtraAttempts()

    def tell(self, event: Event) -> None:
        for effect in self.fleet.apply(event, self.world.now_s):
            self.obey(effect)

    def obey(self, effect: Effect) -> None:
        say = self.world.say
        match effect:
            case SetLimits(fleet_limits, caps):
                limits = {**fleet_limits, **caps}
                changed = {id_: limit for id_, limit in limits.items() if self.limits.get(id_) != limit}
                if self.limits:
                    say(self, "limits " + " ".join(f"{id_}={limit}" for id_, limit in changed.items()))
                self.limits = dict(limits)
            case ReportCircuit(backend_id, circuit, trigger, reason):
                say(self, f"{backend_id} is {circuit}" + (f": {trigger}, {reason}" if trigger else ""))
            case ShareOpening(backend_id, _, open_s, streak):
                say(self, f"tells: {backend_id} open for {open_s:.2f} s, number {streak}")
                for other in self.world.others(self):
                    other.tell(OpeningShared(self.name, *effect))
            case ShareClosing(backend_id):
                say(self, f"tells: {backend_id} works")
                for other in self.world.others(self):
                    other.tell(ClosingShared(self.name, backend_id))
            case SendSyntheticProbe(backend_id):
                say(self, f"asks for a synthetic probe of {backend_id}")

    def plan(self) -> Plan | None:
        found = plan_route(self.world.facts(), self.fleet.view, self.world.now_s)
        return found if isinstance(found, Plan) else None

    def candidate(self, backend_id: str) -> Candidate:
        """As the plan has it; of a backend that no plan names, one of the circuit's present generation."""
        plan = self.plan()
        for candidate in plan.candidates if plan is not None else ():
            if candidate.backend.id == backend_id and candidate.reason is not PlanReason.PANIC:
                return candidate
        state = self.fleet.view.backends[backend_id]
        return Candidate(state.backend, "", "", PlanReason.FIRST_CHOICE, None, state.breaker.generation)

    def start(self, candidate: Candidate) -> None:
        backend_id = candidate.backend.id
        self.running.setdefault(backend_id, []).append((self.world.now_s, candidate))
        if candidate.is_probe:
            self.world.permits.add(backend_id)
        self.tell(AttemptStarted(backend_id, candidate.generation, 700))

    def end(self, backend_id: str, reason: Reason, at: int = 0, retry_after_s: float | None = None) -> None:
        began_s, candidate = self.running[backend_id].pop(at)
        if candidate.is_probe:
            self.world.permits.discard(backend_id)
        took_s = self.world.now_s - began_s
        times = (took_s, None) if reason is Reason.COMPLETED else (None, took_s)
        outcome = Outcome.of(reason)
        self.tell(AttemptFinished(backend_id, outcome, *times, candidate.generation, retry_after_s))

    def take(self, plan: Plan | None) -> Candidate | None:
        """The store's part: the first with a slot, and with the permit if it is a probe."""
        for candidate in plan.candidates if plan is not None else ():
            state = self.fleet.view.backends[candidate.backend.id]
            if state.headroom and not (candidate.is_probe and state.id in self.world.permits):
                self.start(candidate)
                return candidate
        return None


class World:
    """Runs the commands of one scenario and writes down what comes of them."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.permits: set[str] = set()
        self.settings = BreakerSettings()
        self.gateways = {"A": Gateway("A", self)}
        self._random = Random(1)
        self._lines: list[str] = []

    def facts(self) -> RequestFacts:
        return RequestFacts(None, self._random.getrandbits(64))

    def others(self, gateway: Gateway) -> list[Gateway]:
        return [other for other in self.gateways.values() if other is not gateway]

    def say(self, gateway: Gateway, text: str) -> None:
        who = f"{gateway.name} " if len(self.gateways) > 1 else ""
        self._lines.append(f"{self.now_s:6.2f} {who}{text}")

    def run(self, command: str) -> list[str]:
        """What came of one line."""
        self._lines = []
        name, colon, rest = command.partition(": ")
        if colon and name in self.gateways:
            self._do_at(self.gateways[name], rest.split())
        elif command.split()[0] in ("gateways", "settings", "fleet", "wait", "traffic"):
            getattr(self, "_" + command.split()[0])(command.split(None, 1)[1])
        else:
            self._do_at(self.gateways["A"], command.split())
        return self._lines

    # --- commands to the world -----------------------------------------------------------------------

    def _gateways(self, rest: str) -> None:
        self.gateways = {name: Gateway(name, self) for name in rest.split()}

    def _settings(self, rest: str) -> None:
        pairs = (word.split("=") for word in rest.split())
        self.settings = BreakerSettings(**{key: float(value) for key, value in pairs})

    def _fleet(self, rest: str) -> None:
        clusters = []
        for tier, members in (word.split("=") for word in rest.split()):
            pairs = (member.split("/") for member in members.split(","))
            clusters.append(cluster_of(tier, *((id_, int(limit)) for id_, limit in pairs), tier=tier))
        for gateway in self.gateways.values():
            gateway.tell(FleetConfigured(tuple(clusters), TIERS, breaker=self.settings))

    def _wait(self, rest: str) -> None:
        self._go_on_to(self.now_s + float(rest.split()[0]))

    def _go_on_to(self, until_s: float) -> None:
        for half in range(int(self.now_s * 2) + 1, int(until_s * 2) + 1):
            self.now_s = half / 2
            for gateway in self.gateways.values():
                gateway.tell(Ticked())
        self.now_s = until_s

    def _traffic(self, rest: str) -> None:
        head, _, tail = rest.partition(":")
        rate, _, seconds = head.split()
        answers = {b: (reason_named(r), float(s)) for b, r, s in (a.split() for a in tail.split(","))}
        for gateway_traffic in self._each_second(float(rate[:-2]), float(seconds), answers):
            self._lines.append(gateway_traffic)

    def _each_second(
        self, rate: float, seconds: float, answers: dict[str, tuple[Reason, float]]
    ) -> Iterator[str]:
        """Requests come evenly and are tried up to three times, as far as the budget goes."""
        order = count()
        queue: list[tuple[float, int, Gateway, str, tuple[Candidate, ...]]] = []
        attempts: Counter[str] = Counter()
        done: Counter[str] = Counter()
        for gateway in self.gateways.values():
            for number in range(int(rate * seconds)):
                heapq.heappush(queue, (self.now_s + number / rate, next(order), gateway, "", ()))
        while queue:
            at_s, _, gateway, backend_id, tried = heapq.heappop(queue)
            self._go_on_to(at_s)
            plan = None
            if backend_id:
                reason = Reason.RESET if backend_id in gateway.cut_off else answers[backend_id][0]
                mine = [c for _, c in gateway.running[backend_id]]
                gateway.end(backend_id, reason, at=mine.index(tried[-1]))
                if Outcome.of(reason).verdict is Verdict.SUCCESS:
                    done["served"] += 1
                    continue
                if len(tried) < 3 and gateway.extra.may_retry(at_s):
                    plan = plan_again(self.facts(), gateway.fleet.view, tried, at_s, 60.0)
            else:
                gateway.extra.exchange_began(at_s)
                plan = gateway.plan()
            taken = gateway.take(plan)
            if taken is None:
                done["failed" if tried else "shed"] += 1
                continue
            if tried:
                gateway.extra.retried(at_s)
            id_ = taken.backend.id
            attempts[id_] += 1
            after_s = 0.001 if id_ in gateway.cut_off else answers[id_][1]
            heapq.heappush(queue, (at_s + after_s, next(order), gateway, id_, (*tried, taken)))
        yield "attempts " + " ".join(f"{id_}={attempts[id_]}" for id_ in sorted(answers))
        yield "requests " + " ".join(f"{word}={number}" for word, number in sorted(done.items()))

    # --- commands to one gateway ---------------------------------------------------------------------

    def _do_at(self, gateway: Gateway, words: list[str]) -> None:
        getattr(self, f"_at_{words[0]}")(gateway, words[1:])

    def _at_try(self, gateway: Gateway, words: list[str]) -> None:
        backend_id, reason = words[0], reason_named(words[1])
        times, seconds = numbers_of(words)
        for _ in range(times):
            gateway.start(gateway.candidate(backend_id))
            self.now_s += seconds or 0.0
            gateway.end(backend_id, reason, at=-1)

    def _at_full(self, gateway: Gateway, words: list[str]) -> None:
        gateway.start(gateway.candidate(words[0]))
        gateway.end(words[0], Reason.BACKEND_FULL, at=-1, retry_after_s=numbers_of(words)[1])

    def _at_start(self, gateway: Gateway, words: list[str]) -> None:
        for _ in range(numbers_of(words)[0]):
            gateway.start(gateway.candidate(words[0]))

    def _at_end(self, gateway: Gateway, words: list[str]) -> None:
        for _ in range(numbers_of(words)[0]):
            gateway.end(words[0], reason_named(words[1]), at=-1 if "last" in words else 0)

    def _at_take(self, gateway: Gateway, words: list[str]) -> None:
        for _ in range(numbers_of(words)[0]):
            taken = gateway.take(gateway.plan())
            self.say(gateway, f"takes {taken.backend.id}, {taken.reason}" if taken else "takes nobody")

    def _at_cut(self, gateway: Gateway, words: list[str]) -> None:
        gateway.cut_off.add(words[-1])

    def _at_plan(self, gateway: Gateway, words: list[str]) -> None:
        plan = gateway.plan()
        named = [f"{c.backend.id} {c.reason}" for c in plan.candidates] if plan is not None else []
        self.say(gateway, "plan " + (" | ".join(named) or "nobody"))

    def _at_show(self, gateway: Gateway, words: list[str]) -> None:
        for cluster in gateway.fleet.view.clusters.values():
            backends = " ".join(repr(backend) for backend in cluster.backends)
            self.say(gateway, f"{cluster!r} {backends}")
