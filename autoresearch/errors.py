"""Every error a caller can act on: one class per thing to do differently, each with its exit code.

A failed experiment is data and never raises; a bug raises whatever Python raises.
"""


class AutoresearchError(Exception):
    """An error with one clear line and, where there is one, the way out."""

    exit_code = 1
    code = "failed"
    retryable = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def as_dict(self) -> dict[str, object]:
        """Return the object that `--json` prints."""
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "hint": self.hint,
                "retryable": self.retryable,
            }
        }


class StorageError(AutoresearchError):
    """The disk is full or broken, or a record in the study's folder is not what was written."""

    code = "storage"


class UsageError(AutoresearchError):
    """The command cannot work as it was given, or not in this folder."""

    exit_code = 2
    code = "usage"


class ConfigError(UsageError):
    """autoresearch.yaml is wrong; the message names file, line and key."""

    code = "config"


class BusyError(UsageError):
    """Another dispatcher runs this study."""

    code = "busy"


class NotFoundError(AutoresearchError):
    """The study, experiment or run that was named does not exist."""

    exit_code = 3
    code = "not_found"


class RefusedError(AutoresearchError):
    """A proposal was refused; the message says why."""

    exit_code = 4
    code = "refused"


class BudgetError(AutoresearchError):
    """A ceiling is reached: nothing more may be started."""

    exit_code = 5
    code = "budget"


class PoolError(AutoresearchError):
    """The pool cannot take work now; trying again may help."""

    exit_code = 6
    code = "pool"
    retryable = True


class WaitTimeoutError(AutoresearchError):
    """What was waited for did not come in time; waiting again may help."""

    exit_code = 124
    code = "timeout"
    retryable = True


class AgentError(AutoresearchError):
    """The agent could not answer; the pool works on with what is queued."""

    code = "agent"

    def __init__(
        self, message: str, hint: str = "", *, retryable: bool = True, retry_after: float | None = None
    ) -> None:
        """`retryable=False`: there is no use in asking again; else after so many seconds, where it says."""
        super().__init__(message, hint)
        self.retryable = retryable
        self.retry_after = retry_after


class StoppedError(AutoresearchError):
    """A person interrupted; the state is saved."""

    exit_code = 130
    code = "interrupted"
    retryable = True
