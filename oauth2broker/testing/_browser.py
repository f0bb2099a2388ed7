"""The scripted browser: opens a consent page, fills in the form and submits it."""

import http.client
from contextlib import closing
from html.parser import HTMLParser
from urllib.parse import urlencode, urljoin, urlsplit

_TIMEOUT = 10.0  # seconds


def consent(authorize_url: str, decision: str, user: str) -> str:
    """Give the URL that the authorization server sends the browser to.

    `decision` is "approve" or "deny". Raises RuntimeError when the server shows an error page
    instead, which it does whenever it must not redirect (RFC 6749 section 4.1.2.1).
    """
    status, location, page = _fetch("GET", authorize_url)
    if status == 200:
        form = _ConsentForm()
        form.feed(page)
        fields = {**form.fields, "user": user, "decision": decision}
        target = urljoin(authorize_url, form.action)
        status, location, page = _fetch("POST", target, urlencode(fields))
    if location is None:
        raise RuntimeError(f"no redirection but HTTP {status}: {_text_of(page)}")
    return location


def _fetch(method: str, url: str, form: str | None = None) -> tuple[int, str | None, str]:
    parts = urlsplit(url)
    headers = {} if form is None else {"Content-Type": "application/x-www-form-urlencoded"}
    with closing(http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT)) as connection:
        connection.set_debuglevel(0)  # the code comes back here
        connection.request(method, f"{parts.path}?{parts.query}", form, headers)
        with connection.getresponse() as response:
            page = response.read().decode()
            return response.status, response.getheader("Location"), page


class _ConsentForm(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form":
            self.action = found.get("action") or ""
        elif tag == "input" and (name := found.get("name")):
            self.fields[name] = found.get("value") or ""


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words += data.split()


def _text_of(page: str) -> str:
    text = _Text()
    text.feed(page)
    return " ".join(text.words)
