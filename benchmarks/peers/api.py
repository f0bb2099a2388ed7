"""The API that tokens are for, without a network."""

from __future__ import annotations

import io
from typing import Any

import requests
from requests.adapters import BaseAdapter

API = "https://api.example.com/"


class Api(BaseAdapter):
    """A transport adapter of requests that answers at once, in the process, with the token it was shown.

    Peers that renew as part of a request get their requests answered by it, so that what is counted and
    timed is the token and not an API.
    """

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """Answer with the Bearer token."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        response = requests.Response()
        response.status_code = 200
        response.url = API
        response.request = request
        response.raw = io.BytesIO(token.encode())
        return response

    def close(self) -> None:
        """Nothing is open."""


def api_request() -> requests.PreparedRequest:
    """Give a request that wants a token."""
    return requests.Request("GET", API).prepare()
