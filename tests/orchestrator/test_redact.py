"""Credentials go from addresses, query strings and what the environment holds; nothing else does."""

import json

import pytest

from orchestrator.files import write_json
from orchestrator.redact import redacted


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("s3://AKIA:se%2Fcret@bucket/a", "s3://***@bucket/a"),
        ("open 's3://AKIA:se/cret+x=@bucket/a' now", "open 's3://***@bucket/a' now"),
        ("http://ann:pw@host:5000/x?y=1", "http://***@host:5000/x?y=1"),
        ("https://token@host/x", "https://***@host/x"),
        ("https://host/x?sig=abc&n=1&access_token=zz", "https://host/x?sig=***&n=1&access_token=***"),
        ("https://host/x?X-Amz-Signature=abc&X-Amz-Date=2", "https://host/x?X-Amz-Signature=***&X-Amz-Date=2"),
        ("s3:/AKIA:secret@bucket", "s3:/***@bucket"),
    ],
)
def test_credentials_of_addresses_go(text, clean):
    assert redacted(text) == clean


@pytest.mark.parametrize(
    "text",
    ["s3://bucket/a/b@c", "http://host:5000/a", "mail ann@example.org", "a: b @ c", "stages.x.optim.lr=3e-4", "?n=1"],
)
def test_all_else_stays(text):
    assert redacted(text) == text


def test_secrets_of_the_environment_go_from_files_too(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abcdefgh12345")
    write_json(tmp_path / "x.json", {"error": "bad key abcdefgh12345", "at": "s3://a:b@c/d"})
    assert json.loads((tmp_path / "x.json").read_text()) == {"error": "bad key ***", "at": "s3://***@c/d"}
