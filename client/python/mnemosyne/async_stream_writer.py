"""StreamWriter for asyncio."""
from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, AsyncIterator, Callable, Optional

import grpc

from mnemosyne import errors
from mnemosyne.errors import MnemosyneError
from mnemosyne.options import Content, StreamOptions
from mnemosyne.stream_state import ACK_PATIENCE, Level, Opening, Progress, StreamState
from mnemosyne.v1 import memory_service_pb2 as memory
from mnemosyne.values import Watermarks, session_of


class AsyncStreamWriter:
    """Made by AsyncClient.open_stream: what StreamWriter is, for asyncio. Used in its client's event loop only; an append
    is never mixed with another task's. It has a task of its own until it is closed or cancelled.

        async with await client.open_stream("book") as writer:
            await writer.append(text)
    """

    opened: Opening  # the first opening; a reconnect does not change it

    def __init__(self, stub: Any, metadata: tuple[tuple[str, str], ...], session_id: str, options: StreamOptions) -> None:
        self._stub = stub
        self._metadata = metadata
        self._state = StreamState(session_id, options)
        self._turn = asyncio.Lock()  # an append's
        self._changed = asyncio.Event()  # replaced by a new one whenever _state changes
        self._call: Any = None
        self._connection: object = None
        self._open_timed_out = False
        self._task = asyncio.create_task(self._run())

    async def _opens(self) -> None:
        try:
            await self._wait_for(lambda: self._state.opening is not None or self._state.ended)
        except asyncio.CancelledError:  # nobody has this writer, to end it
            self.cancel()
            raise
        self._state.raise_error()
        assert self._state.opening is not None
        self.opened = self._state.opening

    # ---- What the server said last.

    @property
    def progress(self) -> Progress:
        return self._state.progress

    @property
    def watermarks(self) -> Watermarks:
        return self._state.progress.watermarks

    @property
    def surprise(self) -> Optional[float]:
        return self._state.surprise

    @property
    def appended_sequence(self) -> int:
        return self._state.next_sequence - 1

    @property
    def appended_bytes(self) -> int:
        return self._state.appended_bytes

    @property
    def unacknowledged_bytes(self) -> int:
        return self._state.unacknowledged_bytes

    # ---- Calls, as StreamWriter's.

    async def append(self, content: Content, timeout: Optional[float] = None) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                await self._turn.acquire()
        except TimeoutError:
            raise errors.DeadlineExceeded(f"{self._state.name}: another task's append took too long") from None
        try:
            self._state.check_open()
            for append, size in self._state.pieces(content):
                left = None if end is None else max(0.0, end - time.monotonic())
                await self._wait(lambda: self._state.has_room(size), left, self._state.room_refusal, ACK_PATIENCE)
                self._state.check_open()
                self._state.hold(append, size)
                self._notify()
        finally:
            self._turn.release()

    async def wait(self, level: Level = Level.DURABLE, sequence: Optional[int] = None,
                   timeout: Optional[float] = None) -> None:
        wanted = self._state.check_sequence(sequence)
        patience = 0 if level is Level.MEMORIZED else ACK_PATIENCE
        await self._wait(lambda: self._state.has_reached(level, wanted), timeout,
                         lambda: f"waiting for append {wanted} took too long", patience)

    async def flush(self, timeout: Optional[float] = None) -> None:
        self._state.check_open()
        ticket = self._state.ask_flush()
        self._notify()
        await self._wait(lambda: self._state.is_flushed(ticket), timeout, lambda: "the flush took too long")

    async def close(self, timeout: Optional[float] = None) -> None:
        self._state.close()
        self._notify()
        if not await self._wait_for(lambda: self._state.ended, timeout):
            self.cancel()
            raise errors.DeadlineExceeded(f"{self._state.name}: closing took too long; "
                                          f"{self._state.unacknowledged_bytes} bytes are not known to be durable")
        self._state.raise_error()

    def cancel(self) -> None:
        self._state.cancelled = True
        self._notify()
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> AsyncStreamWriter:
        return self

    async def __aexit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException],
                        traceback: Optional[TracebackType]) -> None:
        if kind is None:
            await self.close()
        else:
            self.cancel()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait_for(self, ready: Callable[[], bool], timeout: Optional[float] = None) -> bool:
        """Whether it came true in time."""
        try:
            async with asyncio.timeout(timeout):
                while not ready():
                    await self._changed.wait()
        except TimeoutError:
            pass
        return ready()

    async def _wait(self, ready: Callable[[], bool], timeout: Optional[float], refusal: Callable[[], str],
                    patience: Optional[float] = None) -> None:
        """Asks the server for an ack when there is none for `patience` seconds."""
        def over() -> bool:
            return ready() or self._state.ended
        if patience is not None and (timeout is None or patience < timeout):
            if not await self._wait_for(over, patience):
                self._state.ask_for_ack()
                self._notify()
            timeout = None if timeout is None else timeout - patience
        if not await self._wait_for(over, timeout):
            raise errors.DeadlineExceeded(f"{self._state.name}: {refusal()}")
        if not ready():
            self._state.check_open()

    # ---- The writer's task.

    async def _run(self) -> None:
        try:
            while True:
                error = await self._run_connection()
                if error is not None and self._state.is_refused_reopening(error):
                    error = await self._judge_refusal(error)
                delay = self._state.end_connection(error, time.monotonic())
                self._notify()
                if delay is None:
                    return
                if self._state.options.on_reconnect is not None:
                    self._state.options.on_reconnect(error or errors.Unavailable("the server ended the stream"), delay)
                await self._wait_for(lambda: self._state.cancelled, delay)
        except BaseException as error:  # a callback's, or the event loop's end: nobody may wait for a task that has gone
            self._state.end(errors.Unknown(f"{self._state.name}: {error!r}"))
            self._notify()
            raise

    async def _run_connection(self) -> Optional[MnemosyneError]:
        """How the server ended the stream; None: with OK."""
        if self._state.cancelled:
            return errors.Cancelled("")
        request = self._state.begin_connection(time.monotonic())
        self._connection = connection = object()
        self._open_timed_out = False
        # A reopening waits for the connection: gRPC makes one at once only while a call needs it.
        self._call = call = self._stub.Stream(self._requests(connection, request), metadata=self._metadata,
                                              wait_for_ready=self._state.opening is not None)
        open_timeout = self._state.open_timeout()
        timer = asyncio.get_running_loop().call_later(open_timeout, self._on_open_timeout)
        try:
            async for response in call:
                progress = self._state.on_response(response)
                self._notify()
                if self._state.is_open:
                    timer.cancel()
                if progress is not None and self._state.options.on_progress is not None:
                    self._state.options.on_progress(progress)
            return None
        except MnemosyneError as error:
            return error
        except (grpc.RpcError, asyncio.CancelledError) as error:  # the latter when the call is cancelled from here
            if self._open_timed_out:
                return errors.Unavailable(f"the server did not open {self._state.name} within {open_timeout:g} s")
            if isinstance(error, grpc.RpcError):
                return errors.from_rpc(error)
            if not self._state.cancelled:
                raise
            return errors.Cancelled("")
        finally:
            timer.cancel()
            call.cancel()
            self._call = self._connection = None
            self._notify()

    async def _requests(self, connection: object, request: memory.StreamRequest) -> AsyncIterator[memory.StreamRequest]:
        """Runs in a task of gRPC's, one request at a time as the server takes them."""
        while True:
            yield request
            await self._wait_for(lambda: self._connection is not connection or self._state.has_request()
                                 or self._state.may_half_close())
            if self._connection is not connection or not self._state.has_request():
                return
            request = self._state.next_request()

    def _on_open_timeout(self) -> None:
        if self._call is not None and not self._state.is_open:
            self._open_timed_out = True
            self._call.cancel()

    async def _judge_refusal(self, refusal: MnemosyneError) -> MnemosyneError:
        request = memory.GetSessionRequest(session_id=self._state.session_id)
        try:
            response = await self._stub.GetSession(request, timeout=self._state.options.open_timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            answered = errors.from_rpc(error)
            return answered if isinstance(answered, errors.Unavailable) else refusal
        return self._state.judge_refusal(refusal, session_of(response.session))
