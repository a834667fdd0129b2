"""Authentication by an API token, or by a Global API Key with its e-mail address."""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_d1.emulator.envelopes import (
    INVALID_HEADERS,
    INVALID_TOKEN,
    MISSING_CREDENTIALS,
    NO_ACCESS,
    NO_AUTHENTICATION,
    NO_ROUTE,
    ApiError,
)

if TYPE_CHECKING:
    from airflow_provider_d1.emulator.faults import Faults

_ACCOUNT_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Checks the credential of the account.

    :param tokens: each as ``Authorization: Bearer``, or as ``X-Auth-Key`` beside ``X-Auth-Email``.
    :param account_id: the account.
    :param email: the Global API Key's address.
    :param account_owned: whether the token belongs to the account, not to a user: each kind has its own
        verify call. With None both accept it.
    :param faults: may revoke the token, or take its D1 permission.
    """

    tokens: Collection[str] = field(repr=False)
    account_id: str
    email: str
    account_owned: bool | None
    faults: Faults = field(repr=False)

    def authenticate(self, headers: Mapping[str, str]) -> None:
        """Check the credential of a call.

        :raises ApiError: when it is missing, wrong or revoked.
        """
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme and scheme.lower() != "bearer":
            raise ApiError(400, INVALID_HEADERS, "Invalid request headers")
        key = headers.get("x-auth-key", "")
        if not bearer and not key:
            raise ApiError(400, MISSING_CREDENTIALS, "Missing X-Auth-Key, X-Auth-Email or Authorization headers")
        right = any(hmac.compare_digest((bearer or key).encode(), token.encode()) for token in list(self.tokens))
        if not bearer and headers.get("x-auth-email") != self.email:
            right = False
        if not right or self._revoked():
            raise ApiError(401, NO_AUTHENTICATION, "Authentication error")

    def _revoked(self) -> bool:
        return self.faults.revoked_after >= 0 and not self.faults.take("revoked_after")

    def enter(self, account_id: str, route: str) -> None:
        """Check that an authenticated call may use the account's D1.

        :param account_id: the one in the path.
        :param route: the path, for the message.
        :raises ApiError: for another account, or a token without D1 permission.
        """
        if account_id != self.account_id:
            if _ACCOUNT_ID.fullmatch(account_id):
                raise ApiError(403, NO_ACCESS, "Unauthorized to access requested resource")
            raise ApiError(404, NO_ROUTE, no_route(route))
        if self.faults.no_d1_right:
            raise ApiError(403, NO_AUTHENTICATION, "Authentication error")

    def verify(self, account_id: str | None) -> dict[str, str]:
        """The result of the verify calls for an authenticated token.

        :param account_id: the one in the path, None for ``/user/tokens/verify``.
        :raises ApiError: for a token of the other kind.
        """
        wrong_kind = self.account_owned not in (None, account_id is not None)
        if wrong_kind or account_id not in (None, self.account_id):
            raise ApiError(401, INVALID_TOKEN, "Invalid API Token")
        return {"id": "ed17574386854bf78a67040be0a770b0", "status": "active"}


def no_route(path: str) -> str:
    """Cloudflare's message for an unknown path, or an unknown id in it."""
    return f"Could not route to {path}, perhaps your object identifier is invalid?"
