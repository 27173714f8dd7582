"""The client for asyncio."""
from __future__ import annotations

import asyncio
import weakref
from types import TracebackType
from typing import Any, AsyncIterable, AsyncIterator, Iterable, Mapping, Optional, Union

import grpc.aio

from mnemosyne import errors, wire
from mnemosyne.async_stream_writer import AsyncStreamWriter
from mnemosyne.errors import translated
from mnemosyne.options import Content, QueryOptions, StreamOptions, Tls
from mnemosyne.v1 import admin_service_pb2 as admin
from mnemosyne.v1 import memory_service_pb2 as memory
from mnemosyne.values import (Backup, Delta, ErasedSpan, Model, QuerySummary, Session, SessionSettings, backup_of,
                              delta_of, erased_span_of, model_of, session_of, summary_of)


class AsyncAnswer:
    """An answer as it is made: iterate over its pieces with `async for`."""

    summary: Optional[QuerySummary] = None  # how it went; None until the last piece was read

    def __init__(self, call: Any) -> None:
        self._call = call
        self._cancelled = False

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        try:
            with translated():
                async for response in self._call:
                    if response.HasField("delta"):
                        return delta_of(response.delta)
                    if response.HasField("summary"):
                        self.summary = summary_of(response.summary)
        except asyncio.CancelledError:
            if not self._cancelled:  # then it is the task that was cancelled
                raise
            raise errors.Cancelled("the answer was cancelled") from None
        if self.summary is None:
            raise errors.Internal("the answer ended without a summary")
        raise StopAsyncIteration

    def cancel(self) -> None:
        """Ends the answer: the server stops, and reading on raises Cancelled."""
        self._cancelled = True
        self._call.cancel()


class AsyncClient:
    """Client for asyncio: the same calls with the same arguments, results and errors. Made and used in one event loop."""

    def __init__(self, target: str, *, tls: Optional[Tls] = None, token: str = "", call_timeout: Optional[float] = None,
                 keepalive: Optional[float] = None) -> None:
        options = wire.channel_options(keepalive)
        if tls is None:
            self._channel = grpc.aio.insecure_channel(target, options)
        else:
            self._channel = grpc.aio.secure_channel(target, wire.channel_credentials(tls), options)
        self._memory = wire.memory_stub(self._channel)
        self._admin = wire.admin_stub(self._channel)
        self._metadata = wire.call_metadata(token)
        self._call_timeout = call_timeout
        self._writers: weakref.WeakSet[AsyncStreamWriter] = weakref.WeakSet()

    async def close(self) -> None:
        """Ends the connection and every call and stream on it. The client cannot be used any more."""
        for writer in list(self._writers):
            writer.cancel()
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException],
                        traceback: Optional[TracebackType]) -> None:
        await self.close()

    async def _call(self, method: Any, request: Any) -> Any:
        with translated():
            return await method(request, timeout=self._call_timeout, metadata=self._metadata)

    async def create_session(self, session_id: str = "", *, model: str = "", labels: Mapping[str, str] = {},
                             settings: SessionSettings = SessionSettings()) -> Session:
        request = wire.create_session(session_id, model, labels, settings)
        return session_of((await self._call(self._memory.CreateSession, request)).session)

    async def get_session(self, session_id: str) -> Session:
        request = memory.GetSessionRequest(session_id=session_id)
        return session_of((await self._call(self._memory.GetSession, request)).session)

    async def list_sessions(self, labels: Mapping[str, str] = {}, *, page_size: int = 0) -> AsyncIterator[Session]:
        request = memory.ListSessionsRequest(page_size=page_size, labels=labels)
        while True:
            page = await self._call(self._memory.ListSessions, request)
            for session in page.sessions:
                yield session_of(session)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def update_session(self, session_id: str, *, labels: Optional[Mapping[str, str]] = None,
                             settings: SessionSettings = SessionSettings()) -> Session:
        request = wire.update_session(session_id, labels, settings)
        return session_of((await self._call(self._memory.UpdateSession, request)).session)

    async def delete_session(self, session_id: str) -> None:
        await self._call(self._memory.DeleteSession, memory.DeleteSessionRequest(session_id=session_id))

    async def reset_session(self, session_id: str, offset: int = 0) -> Session:
        request = memory.ResetRequest(session_id=session_id, offset=offset)
        return session_of((await self._call(self._memory.Reset, request)).session)

    async def fork_session(self, session_id: str, fork_id: str = "", *, offset: Optional[int] = None,
                           labels: Mapping[str, str] = {}, settings: Optional[SessionSettings] = None) -> Session:
        request = wire.fork_session(session_id, fork_id, offset, labels, settings)
        return session_of((await self._call(self._memory.ForkSession, request)).session)

    async def erase_span(self, session_id: str, begin: int, end: int) -> ErasedSpan:
        request = memory.EraseSpanRequest(session_id=session_id, begin_offset=begin, end_offset=end)
        return erased_span_of(await self._call(self._memory.EraseSpan, request))

    async def export_session(self, session_id: str) -> AsyncIterator[bytes]:
        with translated():
            call = self._memory.ExportSession(memory.ExportSessionRequest(session_id=session_id), metadata=self._metadata)
            try:
                async for response in call:
                    yield response.data
            finally:
                call.cancel()

    async def import_session(self, parts: Union[Iterable[bytes], AsyncIterable[bytes]], session_id: str = "") -> Session:
        call = self._memory.ImportSession(metadata=self._metadata)
        try:
            with translated():
                first = True
                async for part in _asynchronous(parts):
                    for request in wire.import_parts(session_id, part, first):
                        await call.write(request)
                    first = False
                await call.done_writing()
                return session_of((await call).session)
        except asyncio.InvalidStateError:  # the server ended the call before the last part: it says why
            with translated():
                return session_of((await call).session)
        finally:
            call.cancel()  # when the parts broke off; the server keeps nothing of it

    async def list_models(self) -> list[Model]:
        models: list[Model] = []
        request = memory.ListModelsRequest()
        while True:
            page = await self._call(self._memory.ListModels, request)
            models.extend(map(model_of, page.models))
            request.page_token = page.next_page_token
            if not request.page_token:
                return models

    async def create_backup(self) -> Backup:
        return backup_of(await self._call(self._admin.CreateBackup, admin.CreateBackupRequest()))

    async def open_stream(self, session_id: str = "", options: StreamOptions = StreamOptions()) -> AsyncStreamWriter:
        writer = AsyncStreamWriter(self._memory, self._metadata, session_id, options)
        self._writers.add(writer)
        await writer._opens()
        return writer

    def query(self, session_id: str, prompt: Content, options: QueryOptions = QueryOptions(),
              timeout: Optional[float] = None) -> AsyncAnswer:
        """Is no coroutine: the pieces are what is waited for."""
        request = wire.query(session_id, prompt, options)
        return AsyncAnswer(self._memory.Query(request, timeout=timeout, metadata=self._metadata))

    async def ask(self, session_id: str, prompt: Content, options: QueryOptions = QueryOptions(),
                  timeout: Optional[float] = None) -> str:
        return "".join([delta.text async for delta in self.query(session_id, prompt, options, timeout)])


async def _asynchronous(parts: Union[Iterable[bytes], AsyncIterable[bytes]]) -> AsyncIterator[bytes]:
    if isinstance(parts, AsyncIterable):
        async for part in parts:
            yield part
    else:
        for part in parts:
            yield part
