"""What a writer knows of its stream, without I/O, threads or clocks: StreamWriter and AsyncStreamWriter move it. Internal,
but for Level, Opening and Progress.

`_held` has every append that is not known to be durable, in the order of sequence numbers, without gaps; it ends just
before `next_sequence`. On a connection `_next_to_send` runs through it; a reopening puts that back to where the server
says. Flushes wait in `_flushes` and are asked anew on every connection until they are answered.
"""
from __future__ import annotations

import enum
import random
import struct
import zlib
from collections import deque
from dataclasses import dataclass
from typing import Iterator, Optional

from mnemosyne import errors, wire
from mnemosyne.errors import MnemosyneError
from mnemosyne.options import Content, StreamOptions
from mnemosyne.v1 import memory_service_pb2 as memory
from mnemosyne.values import Session, Watermarks, session_of, watermarks_of

# What holding one append costs beside its content: tiny appends may not fill the memory.
HELD_OVERHEAD_BYTES = 128
# A writer that waits so many seconds for acks asks for one: with some tokenizers the end of a text is not counted before
# more text follows it.
ACK_PATIENCE = 1.0


class Level(enum.Enum):
    """How far an append has come. Each level has the ones before it."""
    ACCEPTED = 1   # in the session's order; a crash of the server may lose it, then the writer sends it again
    DURABLE = 2    # outlives a crash
    MEMORIZED = 3  # in the state, but for the last tokens that make no whole block, which queries read besides


@dataclass(frozen=True)
class Progress:
    """What the server said last. Appends up to the sequence numbers have come to their level."""
    watermarks: Watermarks = Watermarks()
    sequence: int = 0
    durable_sequence: int = 0
    memorized_sequence: int = 0
    mean_surprise: Optional[float] = None  # of the blocks memorized since the word before; None: none were


@dataclass(frozen=True)
class Opening:
    """How a stream began."""
    session: Session       # watermarks.accepted_bytes says where a file that is being streamed goes on
    block_tokens: int      # that the model steps by
    max_append_bytes: int  # the server's largest append; the writer cuts by it
    created: bool          # this stream created the session


@dataclass
class _Held:
    sequence: int
    content_bytes: int
    request: memory.StreamRequest


@dataclass
class _Flush:
    after_sequence: int        # goes out after this append
    ticket: int = 0            # 0: the writer's own, nobody waits for it
    covers_sequence: int = 0   # last append that was sent before it


def _content_crc(append: memory.Append) -> int:
    if append.WhichOneof("content") == "text":
        return zlib.crc32(append.text)
    ids = append.token_ids.ids
    return zlib.crc32(struct.pack(f"<{len(ids)}i", *ids))


def _is_broken(error: Optional[MnemosyneError]) -> bool:
    """Whether it was the connection that ended the stream, or the server asking to try again; then a new stream may go on.
    None: the server ended the stream before the writer asked for it."""
    if isinstance(error, errors.Internal):
        return "RST_STREAM" in error.message
    if isinstance(error, errors.Unknown):
        return "Stream removed" in error.message
    return error is None or isinstance(error, (errors.Unavailable, errors.Cancelled))


class StreamState:
    def __init__(self, session_id: str, options: StreamOptions) -> None:
        self.options = options
        self.opening: Optional[Opening] = None  # of the first connection
        self.progress = Progress()
        self.surprise: Optional[float] = None  # the last that there was
        self.next_sequence = 0  # of the next append
        self.appended_bytes = 0
        self.unacknowledged_bytes = 0
        self.ended = False
        self.error: Optional[MnemosyneError] = None  # why it ended; None: as it should
        self.is_open = False  # this connection's Opened came
        self.cancelled = False
        self._closing = False
        self.session_id = session_id
        self._epoch = 0
        self._piece_bytes = 1
        self._held: deque[_Held] = deque()
        # CRC-32s of the appends that may be the server's last, by sequence, without gaps: the last that is known to be
        # durable, or that was there at the opening, and those held. None: not known.
        self._crcs: deque[tuple[int, Optional[int]]] = deque()
        self._next_to_send = 0
        self._flushes: deque[_Flush] = deque()
        self._flushes_sent = 0  # of _flushes, on this connection
        self._last_ticket = 0
        self._answered_ticket = 0
        self._flushed_sequence = 0  # appends up to here were answered by a flush
        self._backoff = options.initial_backoff
        self._progressed = False  # on this connection
        self._connect_time = 0.0  # of this connection
        self._give_up: Optional[float] = None

    @property
    def name(self) -> str:
        return f"session '{self.session_id}'"

    # ---- What is sent.

    def begin_connection(self, now: float) -> memory.StreamRequest:
        """The request that opens a stream. Only the first one creates a session or takes a seat: later ones go on with
        what was there. `now`: seconds of a clock that only goes forward."""
        self.is_open = False
        self._flushes_sent = 0
        self._progressed = False
        self._connect_time = now
        request = memory.StreamRequest(open=memory.Open(session_id=self.session_id))
        if self.opening is None:
            request.open.create_if_missing = self.options.create_if_missing
            request.open.model = self.options.model
            request.open.take_over = self.options.take_over
            request.open.labels.update(self.options.labels)
            wire.set_settings(self.options.settings, request.open.settings)
        return request

    def open_timeout(self) -> float:
        """Seconds that this connection may take to open."""
        timeout = self.options.open_timeout
        return timeout if self._give_up is None else min(timeout, max(0.0, self._give_up - self._connect_time))

    def _flush_is_due(self) -> bool:
        return (self._flushes_sent < len(self._flushes)
                and self._flushes[self._flushes_sent].after_sequence < self._next_to_send)

    def has_request(self) -> bool:
        return self.is_open and (self._flush_is_due() or self._next_to_send < self.next_sequence)

    def may_half_close(self) -> bool:
        return self.is_open and self._closing and not self.has_request() and self._nothing_left()

    def next_request(self) -> memory.StreamRequest:
        """After has_request()."""
        if self._flush_is_due():
            self._flushes[self._flushes_sent].covers_sequence = self._next_to_send - 1
            self._flushes_sent += 1
            return memory.StreamRequest(flush=memory.Flush())
        self._next_to_send += 1
        return self._held[self._next_to_send - 1 - self._held[0].sequence].request

    # ---- What the server says. A MnemosyneError that is raised here is the end of the stream.

    def on_response(self, response: memory.StreamResponse) -> Optional[Progress]:
        """The progress, when it tells of any."""
        kind = response.WhichOneof("response")
        if kind == "opened":
            self._on_opened(response.opened)
        elif kind == "ack":  # anything else is a later version's, and nothing that a writer needs
            return self._on_ack(response.ack)
        return None

    def _on_opened(self, opened: memory.Opened) -> None:
        session = session_of(opened.session)
        if self.opening is None:
            self.session_id = session.session_id
            self._epoch = session.epoch
            self.next_sequence = session.next_sequence
            self._crcs.append((session.next_sequence - 1, session.last_append_crc32))
            self._piece_bytes = min(self.options.max_message_bytes, self.options.max_unacknowledged_bytes,
                                    max(1, opened.max_append_bytes))
            self.opening = Opening(session, opened.block_tokens, opened.max_append_bytes, opened.created)
        else:
            lowest = self._held[0].sequence if self._held else self.next_sequence
            first = self.opening.session
            if session.next_sequence < lowest == first.next_sequence and first.watermarks.durable < first.watermarks.accepted:
                # It was another writer's, and nobody was told that it was kept.
                raise errors.Aborted(
                    f"{self.name}: the server lost what another writer had appended before: it expects append "
                    f"{session.next_sequence}, the first here was {lowest}")
            if session.next_sequence < lowest:
                raise errors.DataLoss(
                    f"{self.name}: the server lost data that it had acknowledged as durable: it expects append "
                    f"{session.next_sequence}, and everything before {lowest} was durable")
            if session.epoch != self._epoch:
                raise errors.Aborted(f"{self.name} was reset while the connection was broken: its epoch is "
                                     f"{session.epoch}, it was {self._epoch}")
            if session.next_sequence > self.next_sequence:
                raise errors.Aborted(
                    f"{self.name}: another writer appended while the connection was broken: the server expects append "
                    f"{session.next_sequence}, the next here is {self.next_sequence}")
            if not self._is_own_last_append(session):
                raise errors.Aborted(
                    f"{self.name}: another writer appended while the connection was broken: append "
                    f"{session.next_sequence - 1} is not what was sent here")
            # Accepted over the former connection, but is it durable? An ack may never say so on its own: no watermark
            # moves.
            if self._held and self._held[0].sequence < session.next_sequence:
                self._ask_own_flush(0)
        self._next_to_send = session.next_sequence
        # The sequence is lower than before when the server lost what was not durable.
        self.progress = Progress(session.watermarks, session.next_sequence - 1, self.progress.durable_sequence,
                                 self.progress.memorized_sequence)
        self.is_open = True

    def _on_ack(self, ack: memory.Ack) -> Progress:
        if not self.is_open:
            raise errors.Internal(f"{self.name}: the server acknowledged before it opened the stream")
        self._progressed = True
        surprise = ack.mean_surprise if ack.HasField("mean_surprise") else None
        self.progress = Progress(
            watermarks_of(ack.watermarks), ack.sequence, max(self.progress.durable_sequence, ack.durable_sequence),
            max(self.progress.memorized_sequence, ack.memorized_sequence), surprise)
        if surprise is not None:
            self.surprise = surprise
        self._drop_through(ack.durable_sequence)
        if ack.flushed and self._flushes_sent > 0:
            flush = self._flushes.popleft()
            self._flushes_sent -= 1
            self._flushed_sequence = max(self._flushed_sequence, flush.covers_sequence)
            self._drop_through(self._flushed_sequence)
            self._answered_ticket = flush.ticket or self._answered_ticket
        return self.progress

    def _drop_through(self, sequence: int) -> None:
        # Only what was sent: the server cannot have more.
        while self._held and self._held[0].sequence <= min(sequence, self._next_to_send - 1):
            self.unacknowledged_bytes -= self._held.popleft().content_bytes
            self._crcs.popleft()  # the one before it; its own stays, as the last

    def _is_own_last_append(self, session: Session) -> bool:
        place = session.next_sequence - 1 - self._crcs[0][0]
        if session.last_append_crc32 is None or not 0 <= place < len(self._crcs):
            return True  # not known, or judged by its number
        return self._crcs[place][1] in (None, session.last_append_crc32)

    # ---- How a connection ended.

    def is_refused_reopening(self, error: Optional[MnemosyneError]) -> bool:
        """Whether the session has to be looked at, to tell whose the seat is: judge_refusal."""
        return self.opening is not None and not self.is_open and isinstance(error, errors.FailedPrecondition)

    def judge_refusal(self, refusal: MnemosyneError, session: Session) -> MnemosyneError:
        """As long as nobody else has written, the seat is this writer's own former stream's, whose end the server has not
        noticed yet."""
        if session.failure is not None:
            return refusal
        is_anothers = session.next_sequence > self.next_sequence or session.epoch != self._epoch
        if is_anothers or not self._is_own_last_append(session):
            return errors.Aborted(f"{self.name}: another writer has the seat: {refusal.message}")
        return errors.Unavailable(refusal.message, refusal.retry_after)

    def end_connection(self, error: Optional[MnemosyneError], now: float) -> Optional[float]:
        """Seconds to wait before the next connection. None: there is none, the stream has ended. `error`: None when the
        server ended the stream with OK."""
        broken = _is_broken(error)
        shown = error or errors.Unavailable(f"the server ended the stream of {self.name}")
        if self.cancelled:
            self.end(errors.Cancelled(f"{self.name}: cancelled"))
        elif self._closing and self._nothing_left() and broken:
            self.end(None)  # it was over anyway
        elif not broken:
            self.end(shown)
        elif self.opening is None:
            self.end(errors.Unavailable(shown.message, shown.retry_after))
        else:
            return self._delay(shown, now)
        return None

    def _delay(self, error: MnemosyneError, now: float) -> Optional[float]:
        timeout = self.options.reconnect_timeout
        if self._progressed or self._give_up is None or (self.is_open and now - self._connect_time > timeout):
            self._give_up = now + timeout
            self._backoff = self.options.initial_backoff
        # Between half of it and all of it, so that the writers of a server that went away do not come back in step.
        delay = max(self._backoff * random.uniform(0.5, 1), error.retry_after or 0)
        self._backoff = min(self._backoff * 2, self.options.max_backoff)
        if now + delay > self._give_up:
            self.end(errors.Unavailable(f"{self.name}: given up after {timeout:g} s without progress; the last error: "
                                        f"{error.message}", error.retry_after))
            return None
        return delay

    def end(self, error: Optional[MnemosyneError]) -> None:
        if not self.ended:
            self.ended, self.error = True, error

    # ---- The callers.

    def pieces(self, content: Content) -> Iterator[tuple[memory.Append, int]]:
        """The content as appends that have no number yet, each with its bytes."""
        if isinstance(content, str):
            content = content.encode()
        if isinstance(content, (bytes, bytearray, memoryview)):
            text = memoryview(content).cast("B")
            for begin in range(0, len(text), self._piece_bytes):
                piece = bytes(text[begin:begin + self._piece_bytes])
                yield memory.Append(text=piece), len(piece)
        else:
            count = max(1, self._piece_bytes // 4)
            for begin in range(0, len(content), count):
                ids = content[begin:begin + count]
                yield memory.Append(token_ids=memory.TokenIds(ids=ids)), 4 * len(ids)

    def has_room(self, content_bytes: int) -> bool:
        held = self.unacknowledged_bytes + HELD_OVERHEAD_BYTES * len(self._held)
        return not self._held or held + content_bytes <= self.options.max_unacknowledged_bytes

    def hold(self, append: memory.Append, content_bytes: int) -> None:
        """Numbers and takes an append; it is sent when its turn comes."""
        append.sequence = self.next_sequence
        self._crcs.append((self.next_sequence, _content_crc(append)))
        self._held.append(_Held(self.next_sequence, content_bytes, memory.StreamRequest(append=append)))
        self.next_sequence += 1
        self.unacknowledged_bytes += content_bytes
        self.appended_bytes += content_bytes

    def ask_flush(self) -> int:
        """A ticket for is_flushed."""
        self._last_ticket += 1
        self._flushes.append(_Flush(self.next_sequence - 1, self._last_ticket))
        return self._last_ticket

    def is_flushed(self, ticket: int) -> bool:
        return self._answered_ticket >= ticket

    def ask_for_ack(self) -> None:
        """Asks the server for an ack of all that is held."""
        if self._held:
            self._ask_own_flush(self._held[-1].sequence)

    def _ask_own_flush(self, after_sequence: int) -> None:
        if after_sequence == 0:
            if not self._flushes or self._flushes[0].after_sequence != 0:
                self._flushes.appendleft(_Flush(0))
        elif not self._flushes or self._flushes[-1].after_sequence < after_sequence:
            self._flushes.append(_Flush(after_sequence))

    def check_sequence(self, sequence: Optional[int]) -> int:
        """The append that a wait is for: the last one when it is not said."""
        last = self.next_sequence - 1
        if sequence is not None and sequence > last:
            raise errors.OutOfRange(f"{self.name}: append {sequence} was not made yet; the last is {last}")
        return last if sequence is None else sequence

    def has_reached(self, level: Level, sequence: int) -> bool:
        progress = self.progress
        reached = {Level.ACCEPTED: max(progress.sequence, progress.durable_sequence),
                   Level.DURABLE: progress.durable_sequence, Level.MEMORIZED: progress.memorized_sequence}[level]
        return max(reached, self._flushed_sequence) >= sequence

    def close(self) -> None:
        self._closing = True
        self.ask_for_ack()

    def _nothing_left(self) -> bool:
        return not self._held and all(flush.ticket == 0 for flush in self._flushes)

    def check_open(self) -> None:
        """Raises what a call on a stream that is over raises."""
        self.raise_error()
        if self.ended or self._closing:
            raise errors.FailedPrecondition(f"{self.name}: the stream is closed")

    def raise_error(self) -> None:
        """Raises what the stream ended with, if it did not end well: anew for every caller, with its own traceback."""
        if self.error is not None:
            raise type(self.error)(self.error.message, self.error.retry_after)

    def room_refusal(self) -> str:
        return (f"{self.unacknowledged_bytes} bytes wait to be durable; at most "
                f"{self.options.max_unacknowledged_bytes} may")
