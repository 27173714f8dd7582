"""The client that blocks."""
from __future__ import annotations

import weakref
from types import TracebackType
from typing import Any, Iterable, Iterator, Mapping, Optional

import grpc

from mnemosyne import errors, wire
from mnemosyne.errors import translated
from mnemosyne.options import Content, QueryOptions, StreamOptions, Tls
from mnemosyne.stream_writer import StreamWriter
from mnemosyne.v1 import admin_service_pb2 as admin
from mnemosyne.v1 import memory_service_pb2 as memory
from mnemosyne.values import (Backup, Delta, ErasedSpan, Model, QuerySummary, Session, SessionSettings, backup_of,
                              delta_of, erased_span_of, model_of, session_of, summary_of)


class Answer:
    """An answer as it is made: iterate over its pieces. Bound to one thread, but for cancel."""

    summary: Optional[QuerySummary] = None  # how it went; None until the last piece was read

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        with translated():
            for response in self._call:
                if response.HasField("delta"):
                    return delta_of(response.delta)
                if response.HasField("summary"):
                    self.summary = summary_of(response.summary)
        if self.summary is None:
            raise errors.Internal("the answer ended without a summary")
        raise StopIteration

    def cancel(self) -> None:
        """Ends the answer: the server stops, and reading on raises Cancelled."""
        self._call.cancel()


class Client:
    """A client of one server, `target`: HOST:PORT, or any name that gRPC knows. It connects when it is first used.

    tls: None is in the clear. token: goes with every call; "" is none. call_timeout: seconds that every call may take but
    query, streams, exports and imports; None: any. keepalive: seconds after which a quiet connection is checked, at least
    the 10 that the server permits; None: never.

    Thread-safe: calls may run side by side, and each blocks until it is answered. Every call raises MnemosyneError
    (mnemosyne.errors has what the codes mean); Unavailable also when the server cannot be reached. Calls are not tried
    again; only a StreamWriter reconnects.
    """

    def __init__(self, target: str, *, tls: Optional[Tls] = None, token: str = "", call_timeout: Optional[float] = None,
                 keepalive: Optional[float] = None) -> None:
        options = wire.channel_options(keepalive)
        if tls is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            self._channel = grpc.secure_channel(target, wire.channel_credentials(tls), options)
        self._memory = wire.memory_stub(self._channel)
        self._admin = wire.admin_stub(self._channel)
        self._metadata = wire.call_metadata(token)
        self._call_timeout = call_timeout
        self._writers: weakref.WeakSet[StreamWriter] = weakref.WeakSet()

    def close(self) -> None:
        """Ends the connection and every call and stream on it with Cancelled. The client cannot be used any more."""
        for writer in list(self._writers):
            writer.cancel()
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException],
                 traceback: Optional[TracebackType]) -> None:
        self.close()

    def _call(self, method: Any, request: Any) -> Any:
        with translated():
            return method(request, timeout=self._call_timeout, metadata=self._metadata)

    # ---- Sessions.

    def create_session(self, session_id: str = "", *, model: str = "", labels: Mapping[str, str] = {},
                       settings: SessionSettings = SessionSettings()) -> Session:
        """Makes an empty session. "": the server chooses the id; takes its only model. At most 64 labels, of 1 to 63 and
        up to 255 bytes. AlreadyExists, NotFound (the model), InvalidArgument, ResourceExhausted."""
        request = wire.create_session(session_id, model, labels, settings)
        return session_of(self._call(self._memory.CreateSession, request).session)

    def get_session(self, session_id: str) -> Session:
        """NotFound."""
        return session_of(self._call(self._memory.GetSession, memory.GetSessionRequest(session_id=session_id)).session)

    def list_sessions(self, labels: Mapping[str, str] = {}, *, page_size: int = 0) -> Iterator[Session]:
        """The sessions that have all of these labels, in the order of their ids, asked for page by page: 1 to 1000 in
        each, 0: 100."""
        request = memory.ListSessionsRequest(page_size=page_size, labels=labels)
        while True:
            page = self._call(self._memory.ListSessions, request)
            yield from map(session_of, page.sessions)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def update_session(self, session_id: str, *, labels: Optional[Mapping[str, str]] = None,
                       settings: SessionSettings = SessionSettings()) -> Session:
        """Replaces the labels, changes the settings that are given; what is None stays. A setting of 0 (or timedelta(0))
        is the server's default from then on. InvalidArgument: nothing to change, or out of range. NotFound."""
        request = wire.update_session(session_id, labels, settings)
        return session_of(self._call(self._memory.UpdateSession, request).session)

    def delete_session(self, session_id: str) -> None:
        """Deletes the session with all it knows. NotFound."""
        self._call(self._memory.DeleteSession, memory.DeleteSessionRequest(session_id=session_id))

    def reset_session(self, session_id: str, offset: int = 0) -> Session:
        """Keeps the first `offset` tokens; a stream that writes to the session ends with Aborted. OutOfRange,
        InvalidArgument (inside a piece of text), FailedPrecondition (the log is trimmed), NotFound."""
        request = memory.ResetRequest(session_id=session_id, offset=offset)
        return session_of(self._call(self._memory.Reset, request).session)

    def fork_session(self, session_id: str, fork_id: str = "", *, offset: Optional[int] = None,
                     labels: Mapping[str, str] = {}, settings: Optional[SessionSettings] = None) -> Session:
        """A session that goes on from another as it is, or as it was at `offset` tokens. "": the server chooses the id. No
        labels, no settings: the session's. AlreadyExists, ResourceExhausted; of the offset as reset_session."""
        request = wire.fork_session(session_id, fork_id, offset, labels, settings)
        return session_of(self._call(self._memory.ForkSession, request).session)

    def erase_span(self, session_id: str, begin: int, end: int) -> ErasedSpan:
        """Makes the session what it would be had it never seen the tokens [begin, end). Returns when they are out of the
        server's files. InvalidArgument (empty, or inside a piece of text); others as reset_session. Not to be called again
        after Internal: other tokens are in the span's place now."""
        request = memory.EraseSpanRequest(session_id=session_id, begin_offset=begin, end_offset=end)
        return erased_span_of(self._call(self._memory.EraseSpan, request))

    def export_session(self, session_id: str) -> Iterator[bytes]:
        """The session whole, as parts of at most 256 KiB (docs/formats/export.md). The call begins with the first part that
        is asked for. NotFound, DataLoss, Aborted (a reset meanwhile)."""
        with translated():
            call = self._memory.ExportSession(memory.ExportSessionRequest(session_id=session_id), metadata=self._metadata)
            try:
                for response in call:
                    yield response.data
            finally:
                call.cancel()

    def import_session(self, parts: Iterable[bytes], session_id: str = "") -> Session:
        """Makes a session of what an export gave, cut anywhere. "": the id that it was exported with. What `parts` raises
        is raised here; then, and with any error, nothing is left. It runs in another thread. DataLoss (altered, or cut
        short), AlreadyExists, FailedPrecondition (no such model), ResourceExhausted."""
        failure: list[BaseException] = []

        def requests() -> Iterator[memory.ImportSessionRequest]:
            first = True
            try:
                for part in parts:
                    yield from wire.import_parts(session_id, part, first)
                    first = False
            except BaseException as error:  # the server refuses what is not whole
                failure.append(error)
        try:
            with translated():
                return session_of(self._memory.ImportSession(requests(), metadata=self._metadata).session)
        except errors.MnemosyneError:
            if failure:
                raise failure[0] from None
            raise

    # ---- The server.

    def list_models(self) -> list[Model]:
        """The models that the server has loaded, in the order of their names."""
        models: list[Model] = []
        request = memory.ListModelsRequest()
        while True:
            page = self._call(self._memory.ListModels, request)
            models.extend(map(model_of, page.models))
            request.page_token = page.next_page_token
            if not request.page_token:
                return models

    def create_backup(self) -> Backup:
        """Copies all the server has into its backup folder. FailedPrecondition: it has none."""
        return backup_of(self._call(self._admin.CreateBackup, admin.CreateBackupRequest()))

    # ---- Telling and asking.

    def open_stream(self, session_id: str = "", options: StreamOptions = StreamOptions()) -> StreamWriter:
        """Returns once the server has opened the stream; "": the server chooses the id. This first opening is not tried
        twice. FailedPrecondition: another stream has the writer's seat and `take_over` is not set, or the session's memory
        has stopped. NotFound, InvalidArgument, ResourceExhausted."""
        writer = StreamWriter(self._memory, self._metadata, session_id, options)
        self._writers.add(writer)
        return writer

    def query(self, session_id: str, prompt: Content, options: QueryOptions = QueryOptions(),
              timeout: Optional[float] = None) -> Answer:
        """Asks; the answer comes piece by piece. It waits until all that the session had accepted is memorized. Errors come
        with the pieces: NotFound, InvalidArgument, OutOfRange (as_of_offset), ResourceExhausted (the queue is full),
        FailedPrecondition (the memory has stopped), DeadlineExceeded (`timeout` seconds)."""
        request = wire.query(session_id, prompt, options)
        return Answer(self._memory.Query(request, timeout=timeout, metadata=self._metadata))

    def ask(self, session_id: str, prompt: Content, options: QueryOptions = QueryOptions(),
            timeout: Optional[float] = None) -> str:
        """The whole answer as text; else as query."""
        return "".join(delta.text for delta in self.query(session_id, prompt, options, timeout))
