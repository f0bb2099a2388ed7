"""A request as a program made it, shown to the protected_request hooks of requests-oauthlib."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from oauth2broker.integrations.compliance import Hook
from oauth2broker.integrations.signed_calls import checked_origin


class ProtectedRequest:
    """What a program wants to be sent. It stays as it is, whatever the hooks change in place.

    So they can be called again, for another token. ``files`` can be gone through more than once.
    """

    def __init__(self, hooks: Iterable[Hook], url: str, headers: Any, data: Any, files: Any) -> None:
        self.files = list(files.items() if isinstance(files, Mapping) else files or ())
        self._hooks = tuple(hooks)
        self._url, self._headers, self._data = url, headers, data
        self._places = [(stream, _place_of(stream)) for stream in _streams(self.files)]

    def shown(self) -> tuple[str, Any, Any]:
        """Give URL, headers and data as the hooks leave them.

        Raises what they raise, and :class:`ConfigError` when they lead to where no token may go.
        """
        url, headers, data = self._url, _copied(self._headers), _copied(self._data)
        for hook in self._hooks:
            url, headers, data = hook(url, headers, data)
        checked_origin(url)
        return url, headers, data

    def rewind(self) -> bool:
        """Take ``files`` back to where they stood; False when one cannot go."""
        try:
            for stream, place in self._places:
                stream.seek(place)
        except Exception:  # noqa: BLE001 - a file of any kind: closed, without seek ...
            return False
        return True


def _copied(given: Any) -> Any:
    """Give a copy of what hooks change in place."""
    return copy.copy(given) if isinstance(given, MutableMapping | list) else given


def _streams(files: Iterable[tuple[str, Any]]) -> list[Any]:
    """Give what requests will read: each value is a file, or a tuple whose second member is one."""
    given = [value[1] if isinstance(value, tuple | list) else value for _, value in files]
    return [each for each in given if hasattr(each, "read")]


def _place_of(stream: Any) -> Any:
    """Give where ``stream`` stands; None, where it cannot go back to, when it does not say."""
    try:
        return stream.tell()
    except Exception:  # noqa: BLE001 - a file of any kind
        return None
