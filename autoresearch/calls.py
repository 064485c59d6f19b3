"""Calls to a paid API: what they used, what they cost, how they ended. Values only."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens by the kinds that are priced apart."""

    input: int = 0  # neither written to a cache nor read from one
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0
    output: int = 0  # thinking included
    thinking: int = 0  # the part of the output that was thinking

    @property
    def prompt(self) -> int:
        """All that was sent."""
        return self.input + self.cache_write_5m + self.cache_write_1h + self.cache_read

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


class CallOutcome(StrEnum):
    """How a call ended. REJECTED costs nothing; of CUT, UNANSWERED and LOST the cost is an upper estimate."""

    ANSWERED = "answered"  # in full; what the answer is worth is not judged yet
    PROPOSED = "proposed"
    REFUSAL = "refusal"  # the model declined
    TRUNCATED = "truncated"  # at the limit of its output
    UNUSABLE = "unusable"  # without a proposal in the form that was asked for
    CUT = "cut"  # the answer broke off
    UNANSWERED = "unanswered"
    REJECTED = "rejected"  # with an HTTP error
    LOST = "lost"  # its process died


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What is known of a call before it is made."""

    batch: int | None  # None: the call begins a new one
    model: str
    effort: str
    asked: int  # proposals asked for
    digest: str  # sha256 of the request's body
    likely_usd: float  # what it will hardly pass: the 90th percentile
    worst_usd: float  # what it can cost at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What is known of a call when it has ended."""

    outcome: CallOutcome
    tokens: Tokens = Tokens()
    cost_usd: float = 0.0
    estimated: bool = False  # the API did not say what was used: this is what it was likely to cost
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to the API. Times are UTC epoch seconds."""

    id: int
    batch: int  # calls of one batch are attempts at the same answer
    model: str
    effort: str
    asked: int  # proposals asked for
    digest: str  # sha256 of the request's body
    started_at: float
    reserved_usd: float  # what it can cost at most
    likely_usd: float  # what it will hardly pass: the 90th percentile
    ended_at: float | None = None
    outcome: CallOutcome | None = None  # None: under way
    detail: str = ""
    tokens: Tokens = Tokens()
    cost_usd: float = 0.0
    estimated: bool = False  # the API did not say what was used: this is what it was likely to cost
