"""The failures of Stageline.

    StagelineError                 something went wrong; knows its HTTP status, exit status and machine-readable code
      UserError                    the user's mistake, with the fix in the message (exit 2, HTTP 400)
        CheckpointError            a checkpoint that cannot be served: names the file and the key or tensor
        ConfigError                a setting or an option that cannot work
        ContextLengthError         prompt and answer do not fit into the context
        UnknownModelError          a model name that is not served here (HTTP 404)
        NoRoomError                a sequence whose state fits into no stage, however long it waits
      ClusterError                 a failure of ours while running (exit 1, HTTP 500)
        StageFailedError           a stage died or cannot go on: names stage and layers (HTTP 502)
        NotReadyError              a stage is not ready yet (HTTP 503)
        QueueFullError             too many requests wait already (HTTP 429)
        DeadlineError              a request waited or ran for too long (HTTP 504)
        CancelledRequestError      somebody else cancelled the request (HTTP 499)
        LinkLostError              two stages have lost their connection (HTTP 502)
        ProtocolError              a message that does not follow the protocol

A message says what failed, where, the numbers, and what to do next.
"""

from typing import ClassVar


class StagelineError(Exception):
    """Base of every failure that a user may see."""

    status: ClassVar[int] = 500
    exit_status: ClassVar[int] = 1
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class UserError(StagelineError):
    """The user's mistake; the message carries the fix."""

    status = 400
    exit_status = 2
    code = "invalid_request"


class CheckpointError(UserError):
    """A checkpoint that cannot be served; names the file and the key or tensor."""

    code = "invalid_checkpoint"


class ConfigError(UserError):
    """A setting, an option or a request field that cannot work."""

    code = "invalid_value"


class ContextLengthError(UserError):
    """Prompt and answer do not fit into the context."""

    code = "context_length_exceeded"


class UnknownModelError(UserError):
    """A model name that is not served here."""

    status = 404
    code = "model_not_found"


class NoRoomError(UserError):
    """A sequence whose state fits into no stage, however long it waits; with the arithmetic."""

    code = "state_too_large"


class ClusterError(StagelineError):
    """A failure of ours while running."""

    code = "cluster_error"


class StageFailedError(ClusterError):
    """A stage died or cannot go on; names stage and layers."""

    status = 502
    code = "stage_failed"


class NotReadyError(ClusterError):
    """The cluster cannot take a request at the moment; names the stage that is not ready."""

    status = 503
    code = "not_ready"


class QueueFullError(ClusterError):
    """Too many requests wait already; `retry_after` is when it is worth while to try again, in seconds."""

    status = 429
    code = "queue_full"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(ClusterError):
    """A request waited or ran for longer than it may; names the limit and how far it came."""

    status = 504
    code = "deadline_exceeded"


class CancelledRequestError(ClusterError):
    """Somebody else cancelled the request; the status is the one that proxies use for a request that is called off."""

    status = 499
    code = "request_cancelled"


class LinkLostError(ClusterError):
    """Two stages on different hosts have lost their connection, or get none; names the neighbour and its endpoint."""

    status = 502
    code = "link_lost"


class ProtocolError(ClusterError):
    """A message that does not follow the protocol."""

    code = "protocol_error"
