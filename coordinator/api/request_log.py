"""One line in the log for each request that the pipeline had, when its response is over."""

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.telemetry.journal import Entry, Journal

CLIENT_GONE = 499  # nobody read a status; the number that others write into their logs for it

log = logging.getLogger("stageline.request")


class RequestLog:
    """Writes the lines; `request.state.job` is the id of the request to the pipeline, if it came to one."""

    def __init__(self, app: ASGIApp, journal: Journal) -> None:
        self._app = app
        self._journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of any kind."""
        status: int | None = None

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = status or 500  # what the server will answer
            raise
        finally:
            entry = self._journal.own(scope.get("state", {}).get("job", ""))
            if entry is not None and entry.ended is not None:
                log.info("%s", line(entry, status or CLIENT_GONE))


def line(entry: Entry, status: int) -> str:
    """key=value, times in seconds since the request's arrival, `-` for what never happened."""
    fields = {
        "id": entry.id,
        "request_id": entry.request_id,
        "status": status,
        "finish": entry.finish,
        "error": entry.error,
        "prompt_tokens": entry.prompt_tokens,
        "cached_tokens": entry.cached,
        "generated_tokens": entry.generated,
        "queue_seconds": _seconds(entry.since_arrival(entry.admitted)),
        "first_token_seconds": _seconds(entry.since_arrival(entry.first)),
        "total_seconds": _seconds(entry.since_arrival(entry.ended)),
        "tokens_per_second": f"{entry.tokens_per_second:.1f}",
    }
    if entry.error is None:
        del fields["error"]
    return "request " + " ".join(f"{key}={value}" for key, value in fields.items())


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
