"""What a client is told when a request fails, in the form of OpenAI's API."""

import sys
from typing import Any

from common import unexpected
from common.errors import UserError
from serving.work import Busy, Stopped

INVALID, SERVER = "invalid_request_error", "server_error"


class ApiError(Exception):
    """A request that cannot be answered: an HTTP status, a message, the parameter at fault, and a code for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers

    def body(self) -> dict[str, Any]:
        """The JSON that says so."""
        kind = SERVER if self.status >= 500 else INVALID
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def invalid(param: str | None, message: str, code: str | None = None) -> ApiError:
    """A 400: the parameter's name and what is wrong with it."""
    return ApiError(400, f"{param}: {message}" if param else message, param, code)


def shutting_down() -> ApiError:
    """What a request is told while the server ends."""
    headers = {"Retry-After": "30", "Connection": "close"}
    return ApiError(503, "the server is shutting down", code="shutting_down", headers=headers)


def timed_out() -> ApiError:
    """What a request is told that has taken as long as one may."""
    return ApiError(504, "the request took too long; ask for less, or raise --timeout", code="timeout")


def delivered(error: BaseException) -> ApiError:
    """The error that a client is told where the side that computes has failed, and has reported it."""
    if isinstance(error, Stopped):
        return shutting_down()
    return ApiError(400, str(error)) if isinstance(error, UserError) else _ours()


def api_error(error: Exception) -> ApiError:
    """The error that a client is told. What nobody expected is also one line on stderr; the client learns no more."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Busy):
        return ApiError(429, str(error), code="rate_limit_exceeded", headers={"Retry-After": str(error.retry_after)})
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    print(f"error: {unexpected.report(error)}", file=sys.stderr, flush=True)
    return _ours()


def _ours() -> ApiError:
    return ApiError(500, "this should not have happened; the server's log says more", code="internal_error")
