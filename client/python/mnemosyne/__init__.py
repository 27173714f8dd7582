"""A client of a Mnemosyne server.

    from mnemosyne import Client

    with Client("127.0.0.1:50051") as client:
        with client.open_stream("book") as writer:          # makes the session when it is missing
            writer.append("The key is under the third stone. ")
        print(client.ask("book", "Where is the key?"))

`Client` blocks and may be used by any number of threads; `AsyncClient` has the same calls for asyncio. Times to wait are
seconds; what the server tells of times is a timedelta or a datetime in UTC. Errors are in `mnemosyne.errors`: a class for
every gRPC code, with the server's message. proto/mnemosyne/v1/memory_service.proto has every range and default.
"""
from mnemosyne import errors
from mnemosyne.async_client import AsyncAnswer, AsyncClient
from mnemosyne.async_stream_writer import AsyncStreamWriter
from mnemosyne.client import Answer, Client
from mnemosyne.errors import MnemosyneError
from mnemosyne.options import QueryOptions, StreamOptions, Tls
from mnemosyne.stream_state import Level, Opening, Progress
from mnemosyne.stream_writer import StreamWriter
from mnemosyne.values import (Backup, Delta, ErasedSpan, Model, QuerySummary, Retention, Session, SessionSettings,
                              StopReason, TokenizerKind, Watermarks)

__all__ = [
    "Answer", "AsyncAnswer", "AsyncClient", "AsyncStreamWriter", "Backup", "Client", "Delta", "ErasedSpan", "Level",
    "MnemosyneError", "Model", "Opening", "Progress", "QueryOptions", "QuerySummary", "Retention", "Session",
    "SessionSettings", "StopReason", "StreamOptions", "StreamWriter", "Tls", "TokenizerKind", "Watermarks", "errors",
]
