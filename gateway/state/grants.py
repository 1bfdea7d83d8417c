"""GrantBook: one gateway's slots of every backend, and what it says to the fleet about them. Pure.

A gateway holds a grant of slots per backend and admits inside it without asking anybody. An exchange with the
fleet gives back what is idle, asks for what the arrivals need, and carries requests that found no slot here.

Invariants:
- in_use <= allowance whenever a slot is taken;
- what is given back is not used from the moment the message is made, whatever becomes of the message; so who
  is cut off gives back nothing of the share that it goes on to use;
- nothing is taken on a grant after `valid_until_s`, which is before the fleet gives the grant away;
- an answer counts only if it is to the newest message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.core.model import Candidate
from gateway.ports import NO_CAPS
from gateway.state.messages import Answer, Ask, Message, Result, Served, Wanting, permit_of
from gateway.state.slots import RESERVE_S, Slots

# A heartbeat lasts so long: an idle gateway sends one each second, so one may be lost. A dead gateway's slots
# are free again after it.
TTL_S = 2.5
# The gateway stops using its grants this long before the fleet, by its own clock, would give them away.
FENCE_MARGIN_S = 0.3
# The arrival rate is the last tick's if that is higher, else it falls slowly: a burst is remembered.
RATE_KEEP = 0.8
# A backend that somebody lacked slots of gets no reserve for so long.
CONTENDED_S = 0.5
# Backends about which nothing is new are named in turn, so that what is known of them stays fresh.
REFRESHED_PER_BEAT = 4


class GrantBook:
    """See above. `expected_gateways` is who is known of before anybody was heard: workers of one machine."""

    def __init__(self, expected_gateways: int = 1) -> None:
        self.slots: dict[str, Slots] = {}
        self.gateways = expected_gateways
        self.valid_until_s = float("-inf")
        self.is_cut_off = False
        self._is_known = False
        self._lapses_s = float("-inf")  # as valid_until_s, also when the fleet does not know us any more
        self._born_ms = 0
        self._seq = 0
        self._measured_s = float("-inf")
        self._turn = 0

    # --- the request path ----------------------------------------------------------------------------

    def take(self, candidates: Iterable[Candidate], now_s: float) -> Candidate | None:
        """Takes a slot at the first candidate, if it is known here that no earlier one has room.

        None: nobody has room, or the fleet has to be asked; `to_ask` tells which.
        """
        if now_s >= self.valid_until_s and not self.is_cut_off:
            return None
        slots_of = self.slots
        for candidate in candidates:
            slots = slots_of.get(candidate.backend.id)
            if slots is None:
                continue
            if slots.in_use < slots.allowance and (not candidate.is_probe or self._takes_permit(candidate)):
                slots.in_use += 1
                slots.arrivals += 1
                slots.is_told = False
                return candidate
            if not self.is_cut_off and not self._is_ours_alone(candidate, slots):
                return None
        return None

    def to_ask(self, candidates: Iterable[Candidate], now_s: float) -> Ask | None:
        """Who might have room, though not here: up to the first candidate with a slot here.

        To be asked for the candidates of one tier: what the fleet gives is final, and the next tier comes
        when this one was waited for.
        """
        if self.is_cut_off:
            return None
        is_fenced = now_s >= self.valid_until_s
        asked: list[Candidate] = []
        for candidate in candidates:
            slots = self.slots.get(candidate.backend.id)
            if slots is None or slots.limit == 0:
                continue
            if slots.in_use < slots.allowance and not is_fenced and not candidate.is_probe:
                break
            if not asked:
                slots.arrivals += 1
            if is_fenced or not self._is_ours_alone(candidate, slots):
                asked.append(candidate)
        return Ask(tuple(asked)) if asked else None

    def take_here(self, candidates: Iterable[Candidate], now_s: float) -> Candidate | None:
        """As `take`, after the fleet has said that nobody else has room."""
        if now_s >= self.valid_until_s and not self.is_cut_off:
            return None
        for candidate in candidates:
            slots = self.slots.get(candidate.backend.id)
            if (
                slots is not None
                and slots.in_use < slots.allowance
                and (not candidate.is_probe or self._takes_permit(candidate))
            ):
                slots.in_use += 1
                slots.is_told = False
                return candidate
        return None

    def give_back(self, candidate: Candidate, now_s: float) -> bool:
        """A slot is not used any more. True: the fleet is short of it and should be told at once."""
        backend_id = candidate.backend.id
        is_urgent = self._frees_one(backend_id, now_s)
        if candidate.is_probe:
            is_urgent = self.give_back_permit(candidate, now_s) or is_urgent
        return is_urgent

    def give_back_permit(self, candidate: Candidate, now_s: float) -> bool:
        """Of a candidate that is a probe. True as above."""
        return self._frees_one(permit_of(candidate.backend.id), now_s)

    def _frees_one(self, backend_id: str, now_s: float) -> bool:
        slots = self.slots[backend_id]
        assert slots.in_use > 0, f"{backend_id}: given back more often than taken"
        slots.in_use -= 1
        slots.is_told = False
        if slots.limit == 0 and slots.in_use == 0:
            # It left the configuration; the fleet still has to hear of it.
            return True
        return (now_s < slots.contended_until_s or slots.plenty == 0) and not self.is_cut_off

    def _permit(self, candidate: Candidate) -> Slots:
        permit_id = permit_of(candidate.backend.id)
        permit = self.slots.get(permit_id)
        if permit is None:
            permit = self.slots[permit_id] = Slots(is_permit=True)
            self._work_out_allowances()
        return permit

    def _takes_permit(self, candidate: Candidate) -> bool:
        permit = self._permit(candidate)
        if permit.in_use >= permit.allowance:
            return False
        permit.in_use += 1
        permit.is_told = False
        return True

    def _is_ours_alone(self, candidate: Candidate, slots: Slots) -> bool:
        """Whether nobody need be asked: all slots that may be, or the one permit, are in use here."""
        if slots.granted >= slots.cap and slots.in_use >= slots.cap:
            return True
        return candidate.is_probe and self._permit(candidate).in_use > 0

    def may_get(self, backend_id: str) -> bool:
        """Whether the fleet may have a slot of it for us: not where all that we may hold is in use here."""
        slots = self.slots.get(backend_id)
        return slots is not None and slots.limit > 0 and slots.in_use < slots.cap

    # --- exchanges -----------------------------------------------------------------------------------

    def set_limits(self, limits: Mapping[str, int], caps: Mapping[str, int] = NO_CAPS) -> None:
        """A backend not named any more is forgotten once nothing of it is held and the fleet knows."""
        for backend_id, limit in limits.items():
            slots = self.slots.setdefault(backend_id, Slots())
            slots.limit = limit
            slots.cap = min(limit, caps.get(backend_id, limit))
            slots.is_told = False
        for backend_id, slots in self.slots.items():
            if backend_id not in limits and not slots.is_permit:
                slots.limit = slots.cap = 0
                slots.is_told = False
        self._work_out_allowances()

    def has_news(self) -> bool:
        for slots in self.slots.values():  # noqa: SIM110 - asked twenty times a second
            if not slots.is_told:
                return True
        return False

    def compose(self, asks: tuple[Ask, ...], now_s: float, wants: tuple[Wanting, ...] = ()) -> Message:
        """The next message. From here on what it gives back is not ours, whether it arrives or not."""
        self._measure_arrivals(now_s)
        for probe in (c for ask in asks for c in ask.candidates if c.is_probe):
            self._permit(probe)
        self._seq += 1
        is_full = not self._is_known or now_s >= self.valid_until_s
        ids = tuple(self.slots) if is_full else self._worth_telling(asks, wants)
        reports = []
        for backend_id in ids:
            slots = self.slots[backend_id]
            reserve = slots.reserve(now_s)
            keep = self._keep(slots, reserve, is_full=is_full)
            held = self._held(slots, now_s) if is_full else 0
            slots.granted = keep if is_full else min(keep, slots.granted)
            slots.is_told = True
            reports.append((slots.limit, keep, slots.in_use, reserve, slots.cap, held))
        if not self.is_cut_off:
            self._work_out_allowances()
        return Message(
            self._seq, now_s, is_full, self.gateways, self._born_ms, ids, tuple(reports), asks, wants
        )

    def absorb(self, message: Message, answer: Answer, now_s: float) -> list[Served]:
        """The fleet's answer. Slots given to asks are taken; the caller gives back what nobody wants."""
        if message.seq != self._seq:
            return []
        if answer.status != "ok":
            self.void()
            return []
        self._is_known = True
        if self.is_cut_off:
            self.is_cut_off = False
            for slots in self.slots.values():  # what it claimed and does not use it gives back soon
                slots.is_told = False
        self.gateways = max(answer.gateways, 1)
        self._born_ms = answer.born_ms
        self.valid_until_s = self._lapses_s = message.sent_s + TTL_S - FENCE_MARGIN_S
        for backend_id, result in zip(message.backend_ids, answer.results, strict=True):
            self._note(self.slots[backend_id], result)
        served = [
            self._serve(ask, index, message, now_s)
            for ask, index in zip(message.asks, answer.given, strict=True)
        ]
        self._work_out_allowances()
        self._forget_who_left()
        return served

    def void(self) -> None:
        """The fleet does not know us (any more): only what is in use counts, until it has been told so."""
        self._is_known = False
        self.valid_until_s = float("-inf")
        for slots in self.slots.values():
            slots.held, slots.granted = slots.granted, slots.in_use
            slots.is_told = False
        self._work_out_allowances()

    def cut_off(self) -> None:
        """The fleet can't be reached: from now on each backend's share may be used, without asking."""
        self.is_cut_off = True
        self._is_known = False
        for slots in self.slots.values():
            slots.is_told = False
        self._work_out_allowances()

    def recall(self, backend_ids: Iterable[str], now_s: float) -> bool:
        """Somebody lacks slots of these. True: we have some idle, or have not told all, and should say so."""
        has_to_say = False
        for backend_id in backend_ids:
            slots = self.slots.get(backend_id)
            if slots is None:
                continue
            slots.contended_until_s = now_s + CONTENDED_S
            slots.free = min(slots.free, 0)
            if slots.idle:
                slots.is_told = False
            has_to_say = has_to_say or not slots.is_told
        return has_to_say

    # --- inside --------------------------------------------------------------------------------------

    def _note(self, slots: Slots, result: Result) -> None:
        slots.granted = result.granted
        slots.free = result.free
        slots.idle_elsewhere = result.idle_elsewhere
        slots.share = result.share
        slots.gateways = self.gateways

    def _keep(self, slots: Slots, reserve: int, *, is_full: bool) -> int:
        """What is in use and what more may be taken until the answer has come."""
        if self.is_cut_off:
            # Its requests go on by its share meanwhile, and after an answer that is late or lost.
            return max(slots.in_use, slots.allowance)
        idle = 0 if is_full else min(slots.idle, max(slots.cap - slots.in_use, 0))
        return slots.in_use + min(idle, reserve)

    def _held(self, slots: Slots, now_s: float) -> int:
        """What nobody else may have had of a memory that was lost: while cut off this gateway's share."""
        if self.is_cut_off:
            return max(slots.in_use, slots.allowance)
        return max(slots.in_use, slots.held) if now_s < self._lapses_s else slots.in_use

    def _serve(self, ask: Ask, index: int, message: Message, now_s: float) -> Served:
        if index:
            candidate = next(c for c in ask.candidates if c.backend.id == message.backend_ids[index - 1])
            self.slots[candidate.backend.id].in_use += 1
            if candidate.is_probe:
                self._permit(candidate).in_use += 1
            return Served(ask, candidate, is_idle_elsewhere=False)
        is_idle_elsewhere = False
        for candidate in ask.candidates:
            lacked = self.slots.get(candidate.backend.id)
            if lacked is not None:
                lacked.contended_until_s = now_s + CONTENDED_S
                is_idle_elsewhere = is_idle_elsewhere or lacked.idle_elsewhere > 0
        return Served(ask, None, is_idle_elsewhere)

    def _worth_telling(self, asks: tuple[Ask, ...], wants: tuple[Wanting, ...]) -> tuple[str, ...]:
        """Backends with news, asked for or waited for, and a few of the others in turn."""
        asked = [c for ask in asks for c in ask.candidates if c.backend.id in self.slots]
        wanted = {candidate.backend.id: None for candidate in asked}
        wanted |= {permit_of(c.backend.id): None for c in asked if c.is_probe}
        wanted |= {id_: None for want in wants for id_ in want.backend_ids if id_ in self.slots}
        wanted |= {backend_id: None for backend_id, slots in self.slots.items() if not slots.is_told}
        if not wanted:
            everybody = list(self.slots)
            for step in range(min(REFRESHED_PER_BEAT, len(everybody))):
                wanted[everybody[(self._turn + step) % len(everybody)]] = None
            self._turn += REFRESHED_PER_BEAT
        return tuple(wanted)

    def _measure_arrivals(self, now_s: float) -> None:
        elapsed_s = now_s - self._measured_s
        # Exchanges follow each other closely when slots are short: a rate needs some time to be one.
        if elapsed_s < RESERVE_S / 2:
            return
        self._measured_s = now_s
        for slots in self.slots.values():
            now_per_s = slots.arrivals / elapsed_s
            kept_per_s = slots.rate_per_s * RATE_KEEP + now_per_s * (1 - RATE_KEEP)
            slots.rate_per_s = max(now_per_s, kept_per_s)
            slots.arrivals = 0

    def _work_out_allowances(self) -> None:
        for slots in self.slots.values():
            if slots.limit == 0:
                slots.allowance = 0
            elif self.is_cut_off:
                slots.allowance = slots.allowed_when_cut_off(self.gateways)
            else:
                # Where more is in use than may be, nobody uses again what comes free.
                slots.allowance = max(min(slots.granted + min(slots.free, 0), slots.cap), 0)

    def _forget_who_left(self) -> None:
        for backend_id in [
            id_
            for id_, s in self.slots.items()
            if (s.limit == 0 or (s.is_permit and s.granted == 0)) and s.in_use == 0 and s.is_told
        ]:
            del self.slots[backend_id]
