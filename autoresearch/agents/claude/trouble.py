"""What went wrong, for the dispatcher and for people: whether asking again is of use, and when."""

from __future__ import annotations

from collections.abc import Sequence

from autoresearch.agents.claude.wire import TOO_LONG, Ending
from autoresearch.calls import Call, CallOutcome
from autoresearch.errors import AgentError, BudgetError

SETTLING_SECONDS = 20.0  # until a call under way may have given back what it reserved
KEY_HINT = "set ANTHROPIC_API_KEY to a key that works, then run again; what was measured stays"
TURNED_DOWN = {  # by HTTP status: what is said, and the way out
    401: ("the API key is not accepted", KEY_HINT),
    402: ("the API account has no credit", "add credit at platform.claude.com, then run again"),
    403: ("the API key is not accepted for this", KEY_HINT),
    404: ("the API does not know the model {model}", "set agent.model in autoresearch.yaml"),
    413: ("the request is too large for the API", "shorten the editable files or instructions.md"),
}
PASSING = frozenset({408, 409, 425, 429})


def turned_down(ending: Ending, model: str) -> AgentError:
    """Return the error for a call that brought no answer: rejected, or not answered."""
    if ending.outcome is CallOutcome.UNANSWERED:
        return AgentError(f"the API did not answer: {ending.detail}")
    if ending.status is None:
        return AgentError(f"the API cannot be reached: {ending.detail}", "check the network of this machine")
    if ending.status == 429:
        said = f"the API limits the rate of requests: {ending.detail}"
        return AgentError(said, retry_after=ending.retry_after)
    if ending.status in PASSING or ending.status >= 500:
        said = f"the API cannot answer now: {ending.detail}"
        return AgentError(said, retry_after=ending.retry_after)
    unsupported = (
        "the API refuses the request",
        "see `agent` in autoresearch.yaml: a setting of it may not fit",
    )
    said, hint = TURNED_DOWN.get(ending.status, unsupported)
    return AgentError(f"{said.format(model=model)}: {ending.detail}", hint, retryable=False)


def declined(ending: Ending, model: str, *, again: bool) -> AgentError:
    """Return the error for a refusal. It is a decision to respect: nobody else is asked instead."""
    if not again:
        return AgentError(f"the model declined ({ending.detail}); this batch is lost")
    return AgentError(
        f"{model} declined twice in a row ({ending.detail}); nothing is proposed until you look",
        "read the last transcripts under .autoresearch/<study>/calls, and instructions.md; then run again",
        retryable=False,
    )


def given_up(ending: Ending, tries: int) -> AgentError:
    """Return the error for the last of several answers that were of no use."""
    if ending.stop_reason == TOO_LONG:
        return AgentError(
            "the request is too long for the model",
            "shorten the editable files or instructions.md",
            retryable=False,
        )
    said = {
        CallOutcome.TRUNCATED: "it was longer than the limit of its output",
        CallOutcome.CUT: f"it broke off: {ending.detail}",
    }.get(ending.outcome, "it held no usable experiment")
    return AgentError(f"{tries} answers in a row were of no use; of the last: {said}")


def beyond_budget(error: BudgetError, recent: Sequence[Call]) -> AgentError:
    """Return the error for a ceiling that is reached: maybe not for good while other calls reserve for it."""
    under_way = any(call.ended_at is None for call in recent)
    return AgentError(
        error.message, error.hint, retryable=under_way, retry_after=SETTLING_SECONDS if under_way else None
    )
