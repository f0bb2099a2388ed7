"""monday.com says in the access token, and nowhere else, until when it works.

See https://developer.monday.com/apps/docs/migrating-to-the-new-oauth-flow.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oauth2broker.grants import GrantType
from oauth2broker.provider.strategy import ProviderStrategy


@dataclass(frozen=True)
class Monday(ProviderStrategy):
    """Gives an answer the ``expires_at`` of its access token, which is a JWT.

    The signature is not checked: the token came from its issuer, and who takes it checks it.
    """

    def normalize_token_response(self, grant: GrantType, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        expires_at = _claims(payload.get("access_token")).get("exp")
        return payload if expires_at is None else {**payload, "expires_at": expires_at}


def _claims(token: object) -> Mapping[str, Any]:
    """Give what a JWT says (RFC 7519 section 3), or nothing for what is none."""
    parts = token.split(".") if isinstance(token, str) else []
    if len(parts) != 3:
        return {}
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
