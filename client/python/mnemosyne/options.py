"""What a caller may choose. Of what is None the server's default holds; memory_service.proto has the ranges."""
from __future__ import annotations

import pathlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Callable, Mapping, Optional, Sequence, Union

from mnemosyne.errors import MnemosyneError
from mnemosyne.values import SessionSettings

if TYPE_CHECKING:
    from mnemosyne.stream_state import Progress

# What is told or asked: text; its UTF-8, which may be cut anywhere; or the model's token ids.
Content = Union[str, bytes, Sequence[int]]


@dataclass(frozen=True)
class Tls:
    """What a connection by TLS needs: contents of PEM files, not their names."""
    root_certificates: Optional[bytes] = None  # of who may sign the server's; None: gRPC's own list
    certificate: Optional[bytes] = None        # the client's own, and its key, for a server that asks for one
    key: Optional[bytes] = None

    @classmethod
    def from_files(cls, root_certificates: Optional[str] = None, certificate: Optional[str] = None,
                   key: Optional[str] = None) -> Tls:
        """Reads the files of these names. OSError: one cannot be read."""
        def read(name: Optional[str]) -> Optional[bytes]:
            return None if name is None else pathlib.Path(name).read_bytes()
        return cls(read(root_certificates), read(certificate), read(key))


@dataclass(frozen=True)
class QueryOptions:
    """How an answer is made. InvalidArgument: a value out of its range."""
    max_tokens: Optional[int] = None     # 1 to 65536; default 256
    temperature: Optional[float] = None  # 0.01 to 100; None or 0: greedy
    top_k: Optional[int] = None          # at least 1
    top_p: Optional[float] = None        # above 0, to 1
    seed: Optional[int] = None           # the same seed, state and question give the same answer
    stop: Sequence[str] = ()             # the answer ends before the first of these; at most 16
    remember: bool = False               # append the question and the answer to the session afterwards
    raw_prompt: bool = False             # without the model's question token
    as_of_offset: Optional[int] = None   # as if nothing behind that offset had come; not with `remember`


@dataclass(frozen=True)
class StreamOptions:
    """How a stream is opened, and how long it holds on. Times are seconds."""
    create_if_missing: bool = True
    model: str = ""                                          # of a session that is created; "": the server's only one
    labels: Mapping[str, str] = field(default_factory=dict)  # of a session that is created
    settings: SessionSettings = SessionSettings()            # of a session that is created
    take_over: bool = False                    # take the writer's seat from the stream that has it
    max_unacknowledged_bytes: int = 4 << 20    # content that is not known to be durable; at least 1
    max_message_bytes: int = 256 << 10         # content of one message, and never more than the server takes; at least 1
    open_timeout: float = 10                   # for the server's answer, every time the stream is opened
    reconnect_timeout: float = 60              # without progress, until a broken stream is given up
    initial_backoff: float = 0.1               # doubled for each attempt
    max_backoff: float = 5
    # Called from the writer's thread or task, for every word of the server's and before every wait for a reconnect. They
    # must not call the writer's append, wait, flush or close.
    on_progress: Optional[Callable[[Progress], None]] = None
    on_reconnect: Optional[Callable[[MnemosyneError, float], None]] = None

    def __post_init__(self) -> None:
        if self.max_unacknowledged_bytes < 1 or self.max_message_bytes < 1:
            raise ValueError("max_unacknowledged_bytes and max_message_bytes are at least 1")
