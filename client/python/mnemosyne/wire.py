"""What both clients send: the channel's options and the requests. Internal."""
from __future__ import annotations

from typing import Any, Iterator, Mapping, Optional

import grpc

from mnemosyne.options import Content, QueryOptions, Tls
from mnemosyne.v1 import admin_service_pb2_grpc, memory_service_pb2_grpc
from mnemosyne.v1 import memory_service_pb2 as memory
from mnemosyne.values import SessionSettings

Labels = Mapping[str, str]
IMPORT_PART_BYTES = 256 << 10


def channel_options(keepalive: Optional[float]) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", -1),  # a page of sessions with all their labels is over the default
        # A server that restarts is back within seconds: gRPC's own backoff would wait for up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 5000),  # in fact what an attempt to connect may take
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    if keepalive is not None:
        options.append(("grpc.keepalive_time_ms", max(1, round(keepalive * 1000))))
    return options


def channel_credentials(tls: Tls) -> Any:
    return grpc.ssl_channel_credentials(tls.root_certificates, tls.key, tls.certificate)


def call_metadata(token: str) -> tuple[tuple[str, str], ...]:
    """gRPC's own call credentials refuse a connection without TLS, which a server on this machine may well have."""
    return (("authorization", f"Bearer {token}"),) if token else ()


def memory_stub(channel: Any) -> Any:
    return memory_service_pb2_grpc.MemoryServiceStub(channel)  # type: ignore[no-untyped-call]


def admin_stub(channel: Any) -> Any:
    return admin_service_pb2_grpc.AdminServiceStub(channel)  # type: ignore[no-untyped-call]


def set_settings(settings: SessionSettings, out: memory.SessionSettings) -> None:
    if settings.retention is not None:
        out.retention = settings.retention.value
    if settings.ttl:  # zero is the server's default, as unset is
        out.ttl.FromTimedelta(settings.ttl)
    if settings.idle_ttl:
        out.idle_ttl.FromTimedelta(settings.idle_ttl)
    out.max_backlog_tokens = settings.max_backlog_tokens or 0
    out.max_log_bytes = settings.max_log_bytes or 0


def create_session(session_id: str, model: str, labels: Labels, settings: SessionSettings) -> memory.CreateSessionRequest:
    request = memory.CreateSessionRequest(session_id=session_id, model=model, labels=labels)
    set_settings(settings, request.settings)
    return request


def update_session(session_id: str, labels: Optional[Labels], settings: SessionSettings) -> memory.UpdateSessionRequest:
    request = memory.UpdateSessionRequest(session_id=session_id, labels=labels)
    if labels is not None:
        request.update_mask.paths.append("labels")
    changed = [name for name, value in vars(settings).items() if value is not None]
    request.update_mask.paths.extend(f"settings.{name}" for name in changed)
    set_settings(settings, request.settings)
    return request


def fork_session(session_id: str, fork_id: str, offset: Optional[int], labels: Labels,
                 settings: Optional[SessionSettings]) -> memory.ForkSessionRequest:
    request = memory.ForkSessionRequest(session_id=session_id, fork_id=fork_id, offset=offset, labels=labels)
    if settings is not None:
        request.settings.SetInParent()
        set_settings(settings, request.settings)
    return request


def query(session_id: str, prompt: Content, options: QueryOptions) -> memory.QueryRequest:
    request = memory.QueryRequest(
        session_id=session_id, max_tokens=options.max_tokens, temperature=options.temperature, top_k=options.top_k,
        top_p=options.top_p, seed=options.seed, stop=options.stop, remember=options.remember,
        raw_prompt=options.raw_prompt, as_of_offset=options.as_of_offset)
    if isinstance(prompt, (bytes, bytearray, memoryview)):
        prompt = bytes(prompt).decode()
    if isinstance(prompt, str):
        request.text = prompt
    else:
        request.token_ids.ids.extend(prompt)
    return request


def import_parts(session_id: str, part: bytes, first: bool) -> Iterator[memory.ImportSessionRequest]:
    """The messages of a part of an export, which may be of any size; at least one when it is the first."""
    for begin in range(0, max(len(part), 1 if first else 0), IMPORT_PART_BYTES):
        data = part[begin:begin + IMPORT_PART_BYTES]
        yield memory.ImportSessionRequest(session_id=session_id if first and begin == 0 else "", data=data)
