"""Writes the part of presets.rst that is made from the presets: ``python docs/presets_table.py``."""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import oauth2broker.provider
from oauth2broker import ExpiryRule, ProviderDescriptor
from oauth2broker.provider import presets

PAGE = Path(__file__).with_name("presets.rst")
BEGIN, END = ".. made by presets_table.py: begin", ".. made by presets_table.py: end"
SAMPLES = {
    "host": "acme.example.com",
    "label": "acme",
    "segment": "acme",
    "base_url": "https://acme.example.com",
    "version": "v1",
    "text": "acme",
}
_COLUMNS = ("Preset", "Variables", "Grants", "Client", "PKCE", "Rotation", "What is different", "Known")
_WIDTHS = "18 16 9 14 8 9 36 6"
_GRANTS = {"authorization_code": "code", "refresh_token": "refresh", "client_credentials": "client"}


def sample(name: presets.PresetName, environment: str | None = None) -> ProviderDescriptor:
    """Give a preset with some value for each variable that has no default."""
    preset = presets.about(name, environment=environment)
    given = {key: SAMPLES[kind] for key, kind in preset.variables.items() if key not in preset.defaults}
    return presets.get(name, environment=environment, **given)


def rendered() -> str:
    """Give the table, and the notes below it."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {_WIDTHS}", ""]
    for row in (_COLUMNS, *map(_row, presets.names())):
        lines += [f"   {'*' if column == 0 else ' '} - {cell}".rstrip() for column, cell in enumerate(row)]
    lines += ["", "Notes", "-----", ""]
    for name in presets.names():
        notes = presets.about(name).notes
        if notes:
            lines += [f"``{name}``", *_wrapped(" ".join(notes)), ""]
    return "\n".join(lines)


def page(text: str) -> str:
    """Give ``text`` with the part between the markers made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{rendered()}\n{END}{after}"


def _wrapped(text: str) -> list[str]:
    indent = "   "
    return textwrap.wrap(
        text,
        117,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _row(name: presets.PresetName) -> tuple[str, ...]:
    preset, descriptor = presets.about(name), sample(name)
    variables = [
        f"{key} ({kind}" + (f", else {preset.defaults[key]})" if key in preset.defaults else ")")
        for key, kind in preset.variables.items()
    ]
    if preset.environments:
        variables.append(f"environment {' or '.join(preset.environments)}")
    methods = [str(descriptor.client_auth), *sorted(descriptor.client_auth_also)]
    return (
        f"``{name}``: {preset.name}",
        "; ".join(variables),
        ", ".join(short for grant, short in _GRANTS.items() if grant in descriptor.grants),
        ", ".join(methods),
        str(descriptor.pkce),
        _rotation(name, descriptor),
        "; ".join(_differences(descriptor)),
        preset.confidence,
    )


def _rotation(name: str, descriptor: ProviderDescriptor) -> str:
    if "refresh_token" not in descriptor.grants:
        return ""
    file = Path(oauth2broker.provider.__file__).with_name("presets.toml")
    said = str(tomllib.loads(file.read_text("utf-8"))[name].get("rotation", "unknown"))
    grace = descriptor.reuse_grace
    return said if grace is None else f"{said}, grace {grace.total_seconds():.0f} s"


def _differences(descriptor: ProviderDescriptor) -> Iterator[str]:
    """Say in words what is not as in the RFCs."""
    quirks = descriptor.quirks
    if descriptor.scope_delimiter == ",":
        yield "commas between scopes"
    if descriptor.body_format != "form":
        yield f"requests in {descriptor.body_format.upper()}"
    if descriptor.refresh_endpoint is not None:
        yield "renews at an endpoint of its own"
    yield from (f"sends the header {header}" for header in descriptor.token_headers)
    if descriptor.resource_param not in {None, "resource"}:
        yield f"a resource is called {descriptor.resource_param}"
    for ours, theirs in quirks.param_names.items():
        yield f"no {ours}" if theirs is None else f"{ours} is called {theirs}"
    if quirks.assertion_audience is not None:
        yield "assertions name the token endpoint"
    if quirks.error_codes or quirks.error_paths:
        yield "errors of its own"
    if quirks.token_path is not None:
        yield f"the token is inside {quirks.token_path}"
    if quirks.expiry != ExpiryRule():
        yield "0 is never" if quirks.expiry.zero_is_never else f"{quirks.expiry.member} is an instant"
    if quirks.scope_member != "scope":
        yield f"the scope is in {quirks.scope_member}"
    if quirks.api_header != "Authorization":
        yield f"APIs want the token in {quirks.api_header}"
    elif quirks.api_scheme is not None:
        yield f"APIs want {quirks.api_scheme or 'no scheme'} before the token"
    if quirks.token_type is not None:
        yield "the token type stated is none"
    if quirks.callback_members:
        yield f"keeps {' and '.join(quirks.callback_members)} of the callback"
    if quirks.extra_members is not None:
        yield "keeps nothing else of the answer"
    if descriptor.revocation_endpoint is None:
        yield "no revocation"
    elif quirks.revoke_access_token:
        yield "revokes by the access token"
    if descriptor.strategy is not None:
        yield f"strategy {type(descriptor.strategy).__name__}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
