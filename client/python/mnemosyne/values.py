"""What the server tells of sessions, models and answers. All of it is constant: a new call brings new values."""
from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Mapping, Optional

from google.protobuf import timestamp_pb2

from mnemosyne.v1 import admin_service_pb2 as admin
from mnemosyne.v1 import memory_service_pb2 as memory


class Retention(enum.Enum):
    """What of a session's log is kept."""
    KEEP = memory.RETENTION_KEEP  # all of it
    TRIM = memory.RETENTION_TRIM  # what the snapshots need


class TokenizerKind(enum.Enum):
    """How a model cuts text into tokens."""
    UNKNOWN = memory.TOKENIZER_KIND_UNSPECIFIED  # one that this client does not know
    BYTES = memory.TOKENIZER_KIND_BYTES
    SENTENCEPIECE = memory.TOKENIZER_KIND_SENTENCEPIECE
    NONE = memory.TOKENIZER_KIND_NONE  # token ids only


class StopReason(enum.Enum):
    """Why an answer ended."""
    UNKNOWN = memory.STOP_REASON_UNSPECIFIED  # one that this client does not know
    END_OF_ANSWER = memory.STOP_REASON_END_OF_ANSWER
    STOP_STRING = memory.STOP_REASON_STOP_STRING
    MAX_TOKENS = memory.STOP_REASON_MAX_TOKENS


@dataclass(frozen=True)
class SessionSettings:
    """How a session is kept. None, or 0: the server's default; in an update None leaves it as it is."""
    retention: Optional[Retention] = None
    ttl: Optional[timedelta] = None           # deleted this long after its creation
    idle_ttl: Optional[timedelta] = None      # deleted when nothing used it for so long
    max_backlog_tokens: Optional[int] = None  # accepted and not memorized before appends have to wait
    max_log_bytes: Optional[int] = None       # of content that the log may hold


@dataclass(frozen=True)
class Watermarks:
    """How far a session has come, in tokens; `accepted_bytes` in bytes of content, a token id counting 4."""
    accepted: int = 0
    durable: int = 0    # they outlive a crash
    memorized: int = 0  # in the state; a multiple of the model's block
    accepted_bytes: int = 0


@dataclass(frozen=True)
class Session:
    """A session as it was when the server answered."""
    session_id: str
    model: str
    fingerprint: str  # of the model, 32 hex digits
    watermarks: Watermarks
    epoch: int          # counted up by every reset and erasure, from 1
    next_sequence: int  # that the next append must carry
    pending_tokens: int
    state_bytes: int
    log_bytes: int  # approximate
    resident: bool  # whether the state is in memory
    labels: Mapping[str, str]
    create_time: datetime
    update_time: datetime
    failure: Optional[str]  # why its memory stopped
    settings: SessionSettings
    earliest_offset: int  # that the session can go back to
    expire_time: Optional[datetime]
    last_append_crc32: Optional[int]  # of the content of the append next_sequence - 1, if it is known


@dataclass(frozen=True)
class Model:
    """A model that the server has loaded."""
    name: str
    fingerprint: str
    parameter_count: int
    vocab_size: int    # token ids are 0 to vocab_size - 1
    block_tokens: int  # that the model steps by
    state_bytes: int   # of one session in memory
    tokenizer: TokenizerKind


@dataclass(frozen=True)
class Delta:
    """A piece of an answer. The text may lag behind the tokens; the last piece brings the rest."""
    text: str
    token_ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]  # natural logarithms at temperature 1, one for each of token_ids


@dataclass(frozen=True)
class QuerySummary:
    """How an answer went. The times count from the call's arrival at the server."""
    stop_reason: StopReason
    prompt_tokens: int
    pending_tokens: int  # of the session, read before the prompt
    answer_tokens: int
    queue_time: timedelta
    time_to_first_token: timedelta
    total_time: timedelta
    as_of_offset: int  # tokens of the session that the answer knows
    remembered_offset: Optional[int]  # with QueryOptions.remember: `accepted` afterwards


@dataclass(frozen=True)
class ErasedSpan:
    """A session without the span, and the ids of the sessions that share its log by a fork and have tokens of it still."""
    session: Session
    still_in: tuple[str, ...]


@dataclass(frozen=True)
class Backup:
    """A backup in the server's backup folder."""
    backup_id: int  # counted up from 1
    bytes: int      # of its files, those shared with other backups among them
    create_time: datetime


def _time(time: timestamp_pb2.Timestamp) -> datetime:
    return datetime.fromtimestamp(time.seconds, timezone.utc) + timedelta(microseconds=time.nanos // 1000)


def watermarks_of(message: memory.Watermarks) -> Watermarks:
    return Watermarks(message.accepted, message.durable, message.memorized, message.accepted_bytes)


def _settings_of(message: memory.SessionSettings) -> SessionSettings:
    known = {kind.value: kind for kind in Retention}
    return SessionSettings(
        known.get(message.retention), message.ttl.ToTimedelta() if message.HasField("ttl") else None,
        message.idle_ttl.ToTimedelta() if message.HasField("idle_ttl") else None, message.max_backlog_tokens or None,
        message.max_log_bytes or None)


def session_of(message: memory.Session) -> Session:
    return Session(
        session_id=message.session_id, model=message.model, fingerprint=message.fingerprint,
        watermarks=watermarks_of(message.watermarks), epoch=message.epoch, next_sequence=message.next_sequence,
        pending_tokens=message.pending_tokens, state_bytes=message.state_bytes, log_bytes=message.log_bytes,
        resident=message.resident, labels=dict(message.labels), create_time=_time(message.create_time),
        update_time=_time(message.update_time), failure=message.failure if message.HasField("failure") else None,
        settings=_settings_of(message.settings), earliest_offset=message.earliest_offset,
        expire_time=_time(message.expire_time) if message.HasField("expire_time") else None,
        last_append_crc32=message.last_append_crc32 if message.HasField("last_append_crc32") else None)


def model_of(message: memory.Model) -> Model:
    known = {kind.value: kind for kind in TokenizerKind}
    return Model(message.name, message.fingerprint, message.parameter_count, message.vocab_size, message.block_tokens,
                 message.state_bytes, known.get(message.tokenizer, TokenizerKind.UNKNOWN))


def delta_of(message: memory.Delta) -> Delta:
    return Delta(message.text, tuple(message.token_ids), tuple(message.log_probabilities))


def summary_of(message: memory.Summary) -> QuerySummary:
    known = {kind.value: kind for kind in StopReason}
    return QuerySummary(
        stop_reason=known.get(message.stop_reason, StopReason.UNKNOWN), prompt_tokens=message.prompt_tokens,
        pending_tokens=message.pending_tokens, answer_tokens=message.answer_tokens,
        queue_time=message.queue_time.ToTimedelta(), time_to_first_token=message.time_to_first_token.ToTimedelta(),
        total_time=message.total_time.ToTimedelta(), as_of_offset=message.as_of_offset,
        remembered_offset=message.remembered_offset if message.HasField("remembered_offset") else None)


def erased_span_of(message: memory.EraseSpanResponse) -> ErasedSpan:
    return ErasedSpan(session_of(message.session), tuple(message.still_in))


def backup_of(message: admin.CreateBackupResponse) -> Backup:
    return Backup(message.backup_id, message.bytes, _time(message.create_time))
