"""Whether a call that says "there was a push" comes from the git server: its signature, or its token, by our common secret.

Nothing of the body is believed or kept: a good call only makes us look at the repository now. Pure; `http_api` has the endpoint.
Sources: GitHub "Validating webhook deliveries", Gitea/Forgejo "Webhooks", GitLab "Webhooks".
"""

import hmac
from collections.abc import Mapping
from typing import Final

SIGNATURES: Final = (("x-hub-signature-256", "sha256="), ("x-forgejo-signature", ""), ("x-gitea-signature", ""), ("x-gogs-signature", ""))
"""Headers with the HMAC-SHA256 of the body in hexadecimal, and what stands before it."""

GITLAB: Final = "x-gitlab-token"
"""Header with the secret itself."""

BODY_MAX_BYTES: Final = 4 * 1024 * 1024
"""Longest body that is looked at; the rare push with a longer one is found by polling."""


def signature_ok(secret: bytes, body: bytes, headers: Mapping[str, str]) -> bool:
    """Whether every signature that a call has is right, and it has one; takes the same time wherever it is wrong.

    Args:
        secret: What both sides know; b"" = nobody can sign.
        headers: Names in any case.
    """
    if not secret:
        return False
    said = {name.lower(): value for name, value in headers.items()}
    right = hmac.digest(secret, body, "sha256").hex()
    checks = [(said[name], prefix + right) for name, prefix in SIGNATURES if name in said]
    if GITLAB in said:
        checks.append((said[GITLAB], secret.decode("latin-1")))
    same = [hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode("utf-8")) for given, wanted in checks]
    return bool(same) and all(same)
