"""A token lent to a command-line tool, which gets it through its standard input and knows nothing of OAuth.

Run with ``python examples/lend_to_subprocess.py``. The tool (this file again, with ``--tool``) calls an API
with the token. The API refuses the first one, as if it had been withdrawn; then another is lent.
"""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from datetime import timedelta

from oauth2broker import Broker, CachedTokenRequest, GrantType, TokenLender, TokenSecret
from oauth2broker.testing import LoopbackProvider

UPLOAD = CachedTokenRequest("tenant-acme", "nightly-upload", "files.write")
LONGEST_RUN = timedelta(minutes=15)
REFUSED = 77  # what the tool exits with when its token is refused


def tool(url: str) -> int:
    """What somebody else's program does: read a token, call an API."""
    token = sys.stdin.readline().strip()
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310 - ours
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - ours
            print(f"tool: the API answered {answer.status}")
    except urllib.error.HTTPError as error:
        error.close()
        print(f"tool: the API answered {error.code}")
        return REFUSED if error.code == 401 else 1
    return 0


def run_tool(url: str, token: TokenSecret) -> int:
    """Run the tool with ``token``, for less time than the token lasts; give its exit code."""
    command = [sys.executable, __file__, "--tool", url]  # no token here: everybody may list arguments
    done = subprocess.run(  # noqa: S603 - this very program
        command,
        input=token.expose() + "\n",
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=LONGEST_RUN.total_seconds(),
        check=False,
    )
    print(done.stdout, end="")
    return done.returncode


def main() -> int:
    with LoopbackProvider() as provider:
        with Broker(provider.descriptor(), "demo-client", "demo-secret") as broker:
            lender = TokenLender(broker, GrantType.CLIENT_CREDENTIALS)
            context = lender.context(UPLOAD, minimum_ttl=LONGEST_RUN + timedelta(minutes=5))
            print(f"before: {lender.state(context)}")
            with lender.lend(context) as lent:
                print(f"while it is lent: {lender.state(context)}")
                provider.revoke_user("demo-client")  # its tokens are dead, and the broker cannot know
                code = run_tool(provider.resource_endpoint, lent.access_token)
                if code == REFUSED:
                    code = run_tool(provider.resource_endpoint, lent.reject().access_token)
        print(f"token calls: {provider.token_calls}")
        return code


if __name__ == "__main__":
    sys.exit(tool(sys.argv[2]) if sys.argv[1:2] == ["--tool"] else main())
