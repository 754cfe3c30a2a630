"""Slow work beside the event loop, in threads that nobody waits for when the process ends."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """At most `limit` at a time, so that long prompts cannot take all the memory; the others wait.

    The threads are daemons: a chat template is a program that came with the checkpoint, and one that does not end must
    not keep the process. That is why neither asyncio.to_thread nor an executor will do: both are waited for at exit.
    """

    def __init__(self, limit: int) -> None:
        self._free = asyncio.Semaphore(limit)

    async def run(self, work: Callable[[], T]) -> T:
        """What `work()` returns or raises. If the caller is cancelled, `work` goes on and keeps its place."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: Exception | None) -> None:
            self._free.release()
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]

        def body() -> None:
            result, failure = None, None
            try:
                result = work()
            except Exception as error:
                failure = error
            try:
                loop.call_soon_threadsafe(settle, result, failure)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

        threading.Thread(target=body, name="prompt", daemon=True).start()
        return await done
