"""Revoking a token by presenting it, as several providers want it instead of RFC 7009."""

from __future__ import annotations

import base64

from oauth2broker.provider.kinds import BodyFormat
from oauth2broker.provider.strategy import RequestDraft


def present_token(draft: RequestDraft, *, method: str = "POST") -> None:
    """Make ``draft`` a call without a body that the token itself authorizes (RFC 6750 section 2.1).

    The client's own credentials are left out.
    """
    draft.method, draft.body_format = method, BodyFormat.QUERY
    draft.headers["Authorization"] = f"Bearer {draft.form['token']}"
    draft.form.clear()


def basic_header(user: str, password: str = "") -> str:
    """Give the header of HTTP Basic with both parts as they are (RFC 7617 section 2)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
