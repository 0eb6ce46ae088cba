"""ApiError: a request that is refused or has failed, as the JSON document that OpenAI's clients know."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """`status`: of HTTP. `param`: the field at fault; `code`: a word for programs. `headers`: of the answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers or {}

    def document(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = "server_error" if self.status >= 500 else "rate_limit_error" if self.status == 429 else _KIND
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


_KIND = "invalid_request_error"
