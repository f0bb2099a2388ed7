"""What a token endpoint can do wrong, as values to hand to `LoopbackProvider.inject`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from oauth2broker.testing._answer import Answer

Payload = dict[str, object]


class Delivery(Enum):
    """How the bytes of an answer reach the client, or do not."""

    WHOLE = auto()
    CUT = auto()
    HANG_UP = auto()
    RESET = auto()
    SILENCE = auto()
    DRIP_HEADERS = auto()
    DRIP_BODY = auto()
    FLOOD = auto()

    @property
    def answers(self) -> bool:
        """Whether the client gets to see a status."""
        return self not in {Delivery.HANG_UP, Delivery.RESET, Delivery.SILENCE}


@dataclass(frozen=True, slots=True)
class Fault:
    """One misbehaviour, used up by one token call. Build it with the class methods.

    `processed` says whether the provider really does what was asked (spends the code, rotates the
    refresh token) before it misbehaves. A call that is not processed and still needs an answer is
    answered 503 `temporarily_unavailable`.
    """

    processed: bool = True
    edit: Callable[[Answer], Answer] | None = field(default=None, repr=False)
    delivery: Delivery = Delivery.WHOLE
    seconds: float = 0.0
    interval: float = 0.0
    size: int | None = None

    def apply(self, process: Callable[[], Answer]) -> Answer:
        """Give the answer to be delivered, calling `process` only if the call is processed."""
        answer = process() if self.processed else _unavailable()
        return answer if self.edit is None else self.edit(answer)

    # Another answer instead of processing.

    @classmethod
    def answer(
        cls,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        content_type: str = "application/json",
    ) -> "Fault":
        """Answer this without processing: `Fault.answer(503, headers={"Retry-After": "7"})`."""
        lines = (("Content-Type", content_type), *(headers or {}).items())
        fixed = Answer(status, lines, body)
        return cls(processed=False, edit=lambda _: fixed)

    @classmethod
    def json(cls, status: int, payload: Mapping[str, object]) -> "Fault":
        """Answer this JSON object without processing."""
        fixed = Answer.of_json(status, payload)
        return cls(processed=False, edit=lambda _: fixed)

    @classmethod
    def html(cls, status: int = 502) -> "Fault":
        """Answer an HTML page without processing, as proxies in front of providers do."""
        fixed = Answer.of_html(status, f"<html><body><h1>{status}</h1></body></html>")
        return cls(processed=False, edit=lambda _: fixed)

    @classmethod
    def redirect(cls, location: str, status: int = 307) -> "Fault":
        """Send the client elsewhere without processing; 307 asks it to repeat the POST there."""
        fixed = Answer.of_redirect(location, status)
        return cls(processed=False, edit=lambda _: fixed)

    @classmethod
    def reset(cls) -> "Fault":
        """Reset the connection without processing and without an answer."""
        return cls(processed=False, delivery=Delivery.RESET)

    # Another answer after processing: rotation has happened.

    @classmethod
    def rewrite(cls, change: Callable[[Payload], Mapping[str, object]]) -> "Fault":
        """Process, then answer what `change` makes of the JSON payload. The status stays."""
        return cls(edit=lambda answer: Answer.of_json(answer.status, change(answer.payload)))

    @classmethod
    def garble(cls, body: bytes) -> "Fault":
        """Process, then answer this body under the status and headers of the true answer."""
        return cls(edit=lambda answer: replace(answer, body=body))

    # No answer, or one that takes its time.

    @classmethod
    def lost_answer(cls, *, reset: bool = False) -> "Fault":
        """Process, then close (or reset) the connection without sending a byte."""
        return cls(delivery=Delivery.RESET if reset else Delivery.HANG_UP)

    @classmethod
    def silence(cls, *, processed: bool = True) -> "Fault":
        """Take the request and never answer, until the client leaves or the provider closes."""
        return cls(processed=processed, delivery=Delivery.SILENCE)

    @classmethod
    def slow(cls, seconds: float, *, processed: bool = True) -> "Fault":
        """Answer `seconds` late, on top of the provider's latency."""
        return cls(processed=processed, seconds=seconds)

    @classmethod
    def cut(cls, size: int, *, processed: bool = True) -> "Fault":
        """Announce the whole body, send its first `size` bytes and close the connection."""
        return cls(processed=processed, delivery=Delivery.CUT, size=size)

    @classmethod
    def drip_headers(cls, interval: float, *, processed: bool = True) -> "Fault":
        """Send status line and headers one byte every `interval` seconds, without an end."""
        return cls(processed=processed, delivery=Delivery.DRIP_HEADERS, interval=interval)

    @classmethod
    def drip_body(cls, interval: float, *, processed: bool = True) -> "Fault":
        """Send the body one byte every `interval` seconds, then spaces, without an end."""
        return cls(processed=processed, delivery=Delivery.DRIP_BODY, interval=interval)

    @classmethod
    def flood(cls, size: int | None = None, *, processed: bool = True) -> "Fault":
        """Pad the body with spaces to `size` bytes; None sends an endless chunked body."""
        return cls(processed=processed, delivery=Delivery.FLOOD, size=size)


def _unavailable() -> Answer:
    return Answer.of_json(503, {"error": "temporarily_unavailable"})
