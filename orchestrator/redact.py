"""Credentials never leave a process in text: the one place where plans, records, logs and messages lose them."""

from __future__ import annotations

import os
import re

HIDDEN = "***"
SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)  # fmt: skip
SHORTEST = 8  # a shorter value of a variable may be part of any word, and guards nothing

# A secret key may hold slashes that nobody escaped, so behind a colon everything up to the @ goes.
_IN_ADDRESS = re.compile(r"(?<![\w+.-])([A-Za-z][\w+.-]*:/{1,2})(?:[^/@:\s\"'?#]+@|[^/@:\s\"'?#]*:[^@\s\"'?#]*@)")
_IN_QUERY = re.compile(
    r"((?:[?&]|\bX-Amz-)(?:[\w-]*(?:key|secret|token|password|passwd|signature|credential|auth|sig)[\w-]*)=)[^&#\s\"']+",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """``text`` without the user and password of addresses, secrets in query strings, and those of the environment."""
    text = _IN_ADDRESS.sub(rf"\1{HIDDEN}@", text)
    text = _IN_QUERY.sub(rf"\1{HIDDEN}", text)
    for name in SECRET_VARIABLES:
        secret = os.environ.get(name, "")
        if len(secret) >= SHORTEST:
            text = text.replace(secret, HIDDEN)
    return text
