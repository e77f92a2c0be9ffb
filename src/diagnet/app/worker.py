"""One thread that the model works in: requests wait in line, none is lost."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from starlette.exceptions import HTTPException

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Worker:
    """Runs one job at a time, so that many clients at once cost no more memory than one.

    Args:
        max_waiting: jobs in line, beyond which a client is told to come again.
    """

    def __init__(self, max_waiting: int) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="diagnet")
        self._max_waiting, self._n_waiting = max_waiting, 0

    async def run(self, job: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Wait in line and return what the job returns.

        Raises:
            HTTPException: 503, the line is too long.
        """
        if self._n_waiting >= self._max_waiting:
            raise HTTPException(503, "The server is busy; come again.", headers={"Retry-After": "2"})
        self._n_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: job(*args, **kwargs))
        finally:
            self._n_waiting -= 1

    def close(self) -> None:
        """Drop the jobs in line and wait for the one under way."""
        self._pool.shutdown(cancel_futures=True)
