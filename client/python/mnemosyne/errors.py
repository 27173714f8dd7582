"""What a call may raise: a class for every gRPC code. The code says what to do, the message names the thing and the limit."""
from __future__ import annotations

import contextlib
from typing import Any, ClassVar, Iterator, Optional

import grpc


class MnemosyneError(Exception):
    """A call failed. `message`: the server's, or gRPC's. `retry_after`: seconds that the server asks to wait before the
    next try, or None; it comes with Unavailable and ResourceExhausted."""

    code: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str, retry_after: Optional[float] = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Cancelled(MnemosyneError):
    """The call, its stream or its client was cancelled."""
    code = "CANCELLED"


class Unknown(MnemosyneError):
    """An error without a code."""


class InvalidArgument(MnemosyneError):
    """Fix the call."""
    code = "INVALID_ARGUMENT"


class DeadlineExceeded(MnemosyneError):
    """Out of time."""
    code = "DEADLINE_EXCEEDED"


class NotFound(MnemosyneError):
    """No such session or model."""
    code = "NOT_FOUND"


class AlreadyExists(MnemosyneError):
    """The id is taken."""
    code = "ALREADY_EXISTS"


class PermissionDenied(MnemosyneError):
    """Not with this token's role."""
    code = "PERMISSION_DENIED"


class ResourceExhausted(MnemosyneError):
    """A quota or a size."""
    code = "RESOURCE_EXHAUSTED"


class FailedPrecondition(MnemosyneError):
    """Fix the session's state first: another stream has the writer's seat, its memory has stopped, its log is trimmed."""
    code = "FAILED_PRECONDITION"


class Aborted(MnemosyneError):
    """Lost the writer's seat: to another stream, or to a reset or an erasure."""
    code = "ABORTED"


class OutOfRange(MnemosyneError):
    """An offset or a sequence number that is not there."""
    code = "OUT_OF_RANGE"


class Unimplemented(MnemosyneError):
    """What listens there does not know the call."""
    code = "UNIMPLEMENTED"


class Internal(MnemosyneError):
    """A bug of one side, or of what is between them."""
    code = "INTERNAL"


class Unavailable(MnemosyneError):
    """The server cannot be reached, or cannot serve now: try again later."""
    code = "UNAVAILABLE"


class DataLoss(MnemosyneError):
    """Damaged, and not recoverable."""
    code = "DATA_LOSS"


class Unauthenticated(MnemosyneError):
    """No token, or not one of this server's."""
    code = "UNAUTHENTICATED"


_CLASSES: dict[str, type[MnemosyneError]] = {kind.code: kind for kind in MnemosyneError.__subclasses__()}


def from_rpc(error: Any) -> MnemosyneError:
    """The error of a gRPC call, of either of gRPC's two APIs."""
    retry_after = None
    for key, value in error.trailing_metadata() or ():
        if key == "retry-after-ms" and str(value).isdigit():
            retry_after = int(value) / 1000
    return _CLASSES.get(error.code().name, Unknown)(error.details() or "", retry_after)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """What gRPC raises inside comes out as ours."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc(error) from error
