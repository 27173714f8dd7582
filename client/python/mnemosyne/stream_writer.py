"""Writes to one session, exactly once and in order, over connections that may break."""
from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Callable, Iterator, Optional

import grpc

from mnemosyne import errors
from mnemosyne.errors import MnemosyneError
from mnemosyne.options import Content, StreamOptions
from mnemosyne.stream_state import ACK_PATIENCE, Level, Opening, Progress, StreamState
from mnemosyne.v1 import memory_service_pb2 as memory
from mnemosyne.values import Watermarks, session_of


class _Deadline:
    def __init__(self, timeout: Optional[float]) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self, at_most: Optional[float] = None) -> Optional[float]:
        """Seconds, from 0; None: any number."""
        if self._end is None:
            return at_most
        left = max(0.0, self._end - time.monotonic())
        return left if at_most is None else min(left, at_most)


class StreamWriter:
    """Made by Client.open_stream.

        with client.open_stream("book") as writer:
            writer.append(text)          # any size, cut anywhere
            writer.flush()               # durable, and every whole block memorized

    What is appended is kept in memory until the server says that it is durable. When the connection breaks, or the server
    answers UNAVAILABLE, the writer opens the stream again, is told where to go on and sends exactly what the server does
    not have. It gives up with Unavailable after `reconnect_timeout` without progress.

    These end the stream, and every later call raises them again: Aborted, another stream has the seat, or the session was
    reset; DataLoss, the server came back without what it had acknowledged as durable; FailedPrecondition, the session's
    memory has stopped; Unavailable; Cancelled; or what the server answered. DeadlineExceeded does not end it, but in close.

    Thread-safe; an append is never mixed with another thread's. A writer has a thread of its own, until it is closed or
    cancelled; at the end of a `with` block it is closed, or cancelled when the block raised.
    """

    def __init__(self, stub: Any, metadata: tuple[tuple[str, str], ...], session_id: str, options: StreamOptions) -> None:
        self._stub = stub
        self._metadata = metadata
        self._state = StreamState(session_id, options)
        self._turn = threading.Lock()         # an append's; taken before _changed
        self._changed = threading.Condition()  # guards everything below and _state
        self._call: Any = None                # under way
        self._connection: object = None       # of the requests that may still go out
        self._open_timed_out = False
        self._thread = threading.Thread(target=self._run, name="mnemosyne-stream", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._state.opening is not None or self._state.ended)
            self._state.raise_error()
            assert self._state.opening is not None
            self.opened: Opening = self._state.opening  # the first opening; a reconnect does not change it

    # ---- What the server said last.

    @property
    def progress(self) -> Progress:
        with self._changed:
            return self._state.progress

    @property
    def watermarks(self) -> Watermarks:
        return self.progress.watermarks

    @property
    def surprise(self) -> Optional[float]:
        """The last mean surprise that the server told: the memory's squared error before it learned. None: none yet."""
        with self._changed:
            return self._state.surprise

    @property
    def appended_sequence(self) -> int:
        """Number of the last append taken. A content larger than a message is several appends; this is the last's."""
        with self._changed:
            return self._state.next_sequence - 1

    @property
    def appended_bytes(self) -> int:
        """Content that `append` has taken."""
        with self._changed:
            return self._state.appended_bytes

    @property
    def unacknowledged_bytes(self) -> int:
        """Content that is not known to be durable."""
        with self._changed:
            return self._state.unacknowledged_bytes

    # ---- Calls. A timeout is in seconds; None: as long as it takes.

    def append(self, content: Content, timeout: Optional[float] = None) -> None:
        """Returns when the writer has taken all of the content: text, its UTF-8 cut anywhere, or token ids. Blocks while
        `max_unacknowledged_bytes` are on their way. DeadlineExceeded: the end of it was not taken; `appended_bytes` tells
        how much was. ValueError, TypeError: something that is neither text nor a token id."""
        deadline = _Deadline(timeout)
        left = deadline.left()
        if not self._turn.acquire(timeout=-1 if left is None else left):
            raise errors.DeadlineExceeded(f"{self._state.name}: another thread's append took too long")
        try:
            with self._changed:
                self._state.check_open()
            for append, size in self._state.pieces(content):
                with self._changed:
                    self._wait(lambda: self._state.has_room(size), deadline, self._state.room_refusal, patience=ACK_PATIENCE)
                    self._state.check_open()
                    self._state.hold(append, size)
                    self._changed.notify_all()
        finally:
            self._turn.release()

    def wait(self, level: Level = Level.DURABLE, sequence: Optional[int] = None, timeout: Optional[float] = None) -> None:
        """Waits until the append `sequence`, or all that was appended before, has come to `level`. OutOfRange: a number
        that was not appended yet."""
        with self._changed:
            wanted = self._state.check_sequence(sequence)
            # No ack need come for what fills no block, so memorized is asked for; the others have an ack of their own.
            patience = 0 if level is Level.MEMORIZED else ACK_PATIENCE
            self._wait(lambda: self._state.has_reached(level, wanted), _Deadline(timeout),
                       lambda: f"waiting for append {wanted} took too long", patience)

    def flush(self, timeout: Optional[float] = None) -> None:
        """Waits for the server's word that all that was appended before is durable and every whole block of it memorized."""
        with self._changed:
            self._state.check_open()
            ticket = self._state.ask_flush()
            self._changed.notify_all()
            self._wait(lambda: self._state.is_flushed(ticket), _Deadline(timeout), lambda: "the flush took too long")

    def close(self, timeout: Optional[float] = None) -> None:
        """Waits until all that was appended is durable and ends the stream; raises how it ended, if it was not well.
        DeadlineExceeded cancels it. Closing twice is the same as once."""
        with self._changed:
            self._state.close()
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._state.ended, timeout):
                self.cancel()
                raise errors.DeadlineExceeded(f"{self._state.name}: closing took too long; "
                                              f"{self._state.unacknowledged_bytes} bytes are not known to be durable")
            self._state.raise_error()

    def cancel(self) -> None:
        """Ends the stream now: calls that wait raise Cancelled. What is not durable yet may be lost."""
        with self._changed:
            self._state.cancelled = True
            call = self._call
            self._changed.notify_all()
        if call is not None:
            call.cancel()

    def __enter__(self) -> StreamWriter:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException],
                 traceback: Optional[TracebackType]) -> None:
        if kind is None:
            self.close()
        else:
            self.cancel()

    def _wait(self, ready: Callable[[], bool], deadline: _Deadline, refusal: Callable[[], str],
              patience: Optional[float] = None) -> None:
        """With the lock held. Asks the server for an ack when there is none for `patience` seconds."""
        def over() -> bool:
            return ready() or self._state.ended
        if patience is not None and not self._changed.wait_for(over, deadline.left(patience)):
            self._state.ask_for_ack()
            self._changed.notify_all()
        if not self._changed.wait_for(over, deadline.left()):
            raise errors.DeadlineExceeded(f"{self._state.name}: {refusal()}")
        if not ready():
            self._state.check_open()

    # ---- The writer's thread.

    def _run(self) -> None:
        try:
            while True:
                error = self._run_connection()
                if error is not None and self._state.is_refused_reopening(error):
                    error = self._judge_refusal(error)
                with self._changed:
                    delay = self._state.end_connection(error, time.monotonic())
                    self._changed.notify_all()
                if delay is None:
                    return
                if self._state.options.on_reconnect is not None:
                    self._state.options.on_reconnect(error or errors.Unavailable("the server ended the stream"), delay)
                with self._changed:
                    self._changed.wait_for(lambda: self._state.cancelled, delay)
        except Exception as error:  # a callback's, or a bug here: nobody may wait for a thread that has gone
            with self._changed:
                self._state.end(errors.Unknown(f"{self._state.name}: {error!r}"))
                self._changed.notify_all()
            raise

    def _run_connection(self) -> Optional[MnemosyneError]:
        """How the server ended the stream; None: with OK."""
        connection = object()
        with self._changed:
            if self._state.cancelled:
                return errors.Cancelled("")
            request = self._state.begin_connection(time.monotonic())
            self._connection = connection
            self._open_timed_out = False
            # Under the lock, so that cancel() finds the call. A reopening waits for the connection: gRPC makes one at once
            # only while a call needs it, else it looks every five seconds.
            self._call = call = self._stub.Stream(self._requests(connection, request), metadata=self._metadata,
                                                  wait_for_ready=self._state.opening is not None)
            open_timeout = self._state.open_timeout()
        timer = threading.Timer(open_timeout, self._on_open_timeout, [call])
        timer.daemon = True
        timer.start()
        try:
            for response in call:
                with self._changed:
                    progress = self._state.on_response(response)
                    self._changed.notify_all()
                if self._state.is_open:
                    timer.cancel()
                if progress is not None and self._state.options.on_progress is not None:
                    self._state.options.on_progress(progress)
            return None
        except MnemosyneError as error:
            return error
        except grpc.RpcError as rpc_error:
            if self._open_timed_out:
                return errors.Unavailable(f"the server did not open {self._state.name} within {open_timeout:g} s")
            return errors.from_rpc(rpc_error)
        finally:
            timer.cancel()
            call.cancel()
            with self._changed:
                self._call = self._connection = None
                self._changed.notify_all()

    def _requests(self, connection: object, request: memory.StreamRequest) -> Iterator[memory.StreamRequest]:
        """Runs in a thread of gRPC's, one request at a time as the server takes them."""
        while True:
            yield request
            with self._changed:
                self._changed.wait_for(lambda: self._connection is not connection or self._state.has_request()
                                       or self._state.may_half_close())
                if self._connection is not connection or not self._state.has_request():
                    return
                request = self._state.next_request()

    def _on_open_timeout(self, call: Any) -> None:
        with self._changed:
            if self._call is not call or self._state.is_open:
                return
            self._open_timed_out = True
        call.cancel()

    def _judge_refusal(self, refusal: MnemosyneError) -> MnemosyneError:
        request = memory.GetSessionRequest(session_id=self._state.session_id)
        try:
            response = self._stub.GetSession(request, timeout=self._state.options.open_timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            answered = errors.from_rpc(error)
            return answered if isinstance(answered, errors.Unavailable) else refusal
        return self._state.judge_refusal(refusal, session_of(response.session))
