"""Threads that the model works in, and that files are read in: requests wait in line."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from starlette.exceptions import HTTPException

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class JobLine:
    """Runs a few jobs at a time, so that many clients at once cost no more memory than as many.

    Args:
        max_waiting: jobs in line, beyond which a client must try again later.
        n_threads: jobs at a time.
    """

    def __init__(self, max_waiting: int, n_threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="diagnet")
        self._max_waiting, self._n_waiting = max_waiting, 0

    async def run(self, job: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Wait in line and return what the job returns.

        Raises:
            HTTPException: 503, the line is too long.
        """
        if self._n_waiting >= self._max_waiting:
            raise HTTPException(503, "The server is busy. Try again later.", headers={"Retry-After": "2"})
        self._n_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: job(*args, **kwargs))
        finally:
            self._n_waiting -= 1

    def close(self) -> None:
        """Drop the jobs in line and wait for the one under way."""
        self._pool.shutdown(cancel_futures=True)


class Workers:
    """The model's thread, and those that read files: work on images already read does not wait for a slow file.

    Args:
        max_waiting: jobs in each line.
        n_readers: files that are read at a time.
        is_read: tells whether an image's pixels are at hand.
        read: reads them.
    """

    def __init__(
        self, max_waiting: int, n_readers: int, is_read: Callable[[str], bool], read: Callable[[str], object]
    ) -> None:
        self.model, self.files = JobLine(max_waiting), JobLine(max_waiting, n_readers)
        self._is_read, self._read = is_read, read

    def line(self, image: str) -> JobLine:
        """The line for what may need an image's file: the model's, where it was read and nothing takes long."""
        return self.model if self._is_read(image) else self.files

    async def on(
        self, image: str, job: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Do a job of the model's on an image, which is read before where it was not."""
        if not self._is_read(image):
            await self.files.run(self._read, image)
        return await self.model.run(job, *args, **kwargs)

    def close(self) -> None:
        """Drop the jobs in line and wait for those under way."""
        self.files.close()
        self.model.close()
