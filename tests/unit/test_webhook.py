"""Who may say that there was a push."""

import pytest

from xds_server.services.webhook import signature_ok

SECRET = b"It's a Secret to Everybody"
BODY = b"Hello, World!"
HEXADECIMAL = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
"""From GitHub's documentation, "Testing the webhook payload validation"."""


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Hub-Signature-256": f"sha256={HEXADECIMAL}"},
        {"x-gitea-signature": HEXADECIMAL},
        {"X-Forgejo-Signature": HEXADECIMAL, "X-Gitea-Signature": HEXADECIMAL, "X-Hub-Signature-256": f"sha256={HEXADECIMAL}"},
        {"X-Gitlab-Token": SECRET.decode()},
    ],
)
def test_a_call_signed_with_the_secret_is_believed(headers):
    assert signature_ok(SECRET, BODY, headers)
    assert not signature_ok(b"another", BODY, headers)
    assert not signature_ok(b"", BODY, headers)


def test_a_signature_is_of_this_body_only():
    assert not signature_ok(SECRET, BODY + b" ", {"X-Hub-Signature-256": f"sha256={HEXADECIMAL}"})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Hub-Signature-256": HEXADECIMAL},
        {"X-Hub-Signature-256": "sha256="},
        {"X-Hub-Signature": f"sha1={HEXADECIMAL}"},
        {"X-Gitea-Signature": f"sha256={HEXADECIMAL}"},
        {"X-Gitea-Signature": "ü" * 64},
        {"X-Gitea-Signature": "\udcff"},
        {"X-Gitea-Signature": ""},
        {"X-Gitlab-Token": ""},
        {"X-Gitlab-Token": SECRET.decode() + "x"},
        {"X-Gitlab-Token": SECRET.decode(), "X-Gitea-Signature": "0" * 64},
    ],
)
def test_any_other_call_is_not(headers):
    assert not signature_ok(SECRET, BODY, headers)


def test_without_a_secret_an_empty_token_opens_nothing():
    assert not signature_ok(b"", BODY, {"X-Gitlab-Token": ""})


def test_a_secret_of_any_bytes_is_compared_as_it_came_over_http():
    """Header values arrive as Latin-1."""
    assert signature_ok("schlüssel".encode(), BODY, {"X-Gitlab-Token": "schlüssel".encode().decode("latin-1")})
