"""The two HTML pages of the authorization endpoint."""

from collections.abc import Mapping
from html import escape

from oauth2broker.testing._answer import Answer

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Loopback provider</title></head>
<body>{body}</body></html>
"""

_CONSENT = """<h1>Let {client} act for you?</h1>
<p>It asks for: {scope}</p>
<form method="post" action="{action}">
{hidden}
<label>You are <input name="user" value="alice" required></label>
<button name="decision" value="approve">Approve</button>
<button name="decision" value="deny">Deny</button>
</form>"""


def consent_page(action: str, parameters: Mapping[str, str]) -> Answer:
    """Build the page that asks the user; its form carries the authorization request along."""
    hidden = "\n".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in parameters.items()
    )
    client, scope = escape(parameters["client_id"]), escape(parameters.get("scope", "nothing"))
    body = _CONSENT.format(client=client, scope=scope, action=escape(action), hidden=hidden)
    return Answer.of_html(200, _PAGE.format(body=body))


def error_page(error: str, description: str) -> Answer:
    """Build the page for requests that must not be redirected (RFC 6749 section 4.1.2.1)."""
    return Answer.of_html(400, _PAGE.format(body=f"<h1>{escape(error)}</h1> {escape(description)}"))
