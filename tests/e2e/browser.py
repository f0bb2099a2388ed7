"""A scripted browser: it logs in and consents, or refuses, at oidc-provider's development forms."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin

import requests

MAX_STEPS = 20
SECONDS_PER_PAGE = 20


@dataclass(slots=True)
class Page:
    """What the forms of one page hold: where to submit, which inputs, where to cancel."""

    action: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    cancel: str = ""


class _PageParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self._link = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.page.action = attributes["action"]
        elif tag == "input":
            self.page.inputs[attributes["name"]] = attributes.get("value", "")
        elif tag == "a":
            self._link = attributes["href"]

    def handle_data(self, data: str) -> None:
        if "Cancel" in data:
            self.page.cancel = self._link


def parse_page(html: str) -> Page:
    """Read the form and the cancel link of a development page."""
    parser = _PageParser()
    parser.feed(html)
    parser.close()
    return parser.page


def authorize(authorize_url: str, redirect_uri: str, *, login: str, consent: bool = True) -> str:
    """Take the authorization URL as `login` and return the callback URL that the server sends."""
    with requests.Session() as http:
        http.trust_env = False
        response = _get(http, authorize_url)
        for _ in range(MAX_STEPS):
            if response.is_redirect:
                location = urljoin(response.url, response.headers["Location"])
                if location.startswith(f"{redirect_uri}?"):
                    return location
                response = _get(http, location)
            else:
                response.raise_for_status()
                response = _answer(http, response, login, consent)
    raise AssertionError(f"no callback after {MAX_STEPS} pages; the last was {response.url}")


def _answer(
    http: requests.Session, response: requests.Response, login: str, consent: bool
) -> requests.Response:
    page = parse_page(response.text)
    if page.inputs["prompt"] == "login":
        return _submit(http, page, {"login": login, "password": "anything"})
    return _submit(http, page, {}) if consent else _get(http, page.cancel)


def _get(http: requests.Session, url: str) -> requests.Response:
    return http.get(url, allow_redirects=False, timeout=SECONDS_PER_PAGE)


def _submit(http: requests.Session, page: Page, filled: dict[str, str]) -> requests.Response:
    return http.post(
        page.action,
        data={**page.inputs, **filled},
        allow_redirects=False,
        timeout=SECONDS_PER_PAGE,
    )
