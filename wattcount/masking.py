"""Passwords and tokens in text and in URIs: found, masked, and handed to child processes by the environment.

`conceal` takes the password out of a URI and keeps the whole URI in an environment variable of this process, which
its child processes inherit; `reveal` puts the password back where a connection is made. What lies between them
(configurations, records, plans, command lines, messages) holds the masked URI only.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence

MASK = "***"
"""What stands in place of a password or a token."""

ENVIRONMENT_PREFIX = "WATTCOUNT_SECRET_URI_"
"""Begin of the names of environment variables that hold whole URIs; 12 hexadecimal digits of the masked URI follow."""

_NAMES = (
    r"(?:[a-z0-9_-]*(?:password|passwd|passphrase|secret(?:[_-]?key)?|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|credentials?)"
    r"|(?:[a-z0-9]+[_-])*(?:hf|hub|auth|access|api|bearer|session|security|refresh)[_-]?token|token)"
)
"""Names of values that are secret. `eos_token` and `max_tokens` are not."""

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{0,30}://"
"""Begin of a URI. Its length has a bound, so that the time that a long text takes does not grow with its square."""

# `scheme://user:password@`; the password may hold an `@`. A port is no password.
_PASSWORD = re.compile(rf"({_SCHEME}[^\s/?#@:\"]*:)(?!\d+[/?#\s\"])([^\s/\"]+)@")
# `https://TOKEN@host`: a user without a password is a token there.
_LONE_USER = re.compile(r"(https?://)([^\s/?#@:\"]+)@")
# `?token=...` and the like in a URI, with the names of signed links (AWS).
_QUERY = re.compile(
    rf"([?&;](?:{_NAMES}|sig|signature|x-amz-signature|x-amz-credential)=)([^&;\s\"'#]+)", re.IGNORECASE
)
# A line of HTTP's headers.
_HEADER = re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?(?:basic|bearer)\s+)([^\s'\"]+)", re.IGNORECASE)
# Tokens with a form of their own: Hugging Face, GitHub, OpenAI and its kin, AWS key ids.
_TOKEN = re.compile(
    r"\b(hf_|gh[pousr]_|github_pat_|sk-(?:proj-)?)([A-Za-z0-9_-]{16,})\b|\b(AKIA|ASIA)([A-Z0-9]{16})\b"
)
# One URI of an override: a comma before the next one, quotes and brackets end it.
_URI = re.compile(rf"{_SCHEME}(?:(?!,{_SCHEME})[^\s\"'\[\]{{}}])+")
# `"hf_token": "..."` of JSON in an argument.
_JSON_SECRET = re.compile(rf"([\"']{_NAMES}[\"']\s*:\s*[\"'])[^\"']*([\"'])", re.IGNORECASE)
_SECRET_FLAGS = frozenset({"-hft"})
"""Short names of such arguments: llama.cpp's token for Hugging Face."""
_SECRET_NAME = re.compile(_NAMES, re.IGNORECASE)
"""A name that is one of _NAMES."""


def masked(text: str) -> str:
    """`text` with `MASK` in place of every password and token that can be told by its form; else as it is."""
    if "://" in text:
        text = _PASSWORD.sub(rf"\g<1>{MASK}@", text)
        text = _LONE_USER.sub(rf"\g<1>{MASK}@", text)
    text = _QUERY.sub(rf"\g<1>{MASK}", text)
    text = _HEADER.sub(rf"\g<1>{MASK}", text)
    return _TOKEN.sub(lambda found: f"{found[1] or found[3]}{MASK}", text)


def has_secret(text: str) -> bool:
    """Whether `text` holds a password or a token that `masked` would take out."""
    return masked(text) != text


def is_secret_name(name: str) -> bool:
    """Whether a value of this name (`hf_token`, `api_key`, ...) is a secret, whatever its form."""
    return _SECRET_NAME.fullmatch(name) is not None


def conceal(uri: str) -> str:
    """The masked URI. The environment of this process keeps the whole URI, for `reveal` here and in child processes."""
    hidden = masked(uri)
    if hidden != uri:
        os.environ[_variable(hidden)] = uri
    return hidden


def reveal(uri: str) -> str | None:
    """The inverse of `conceal`. None: the password is masked, and this process does not know it."""
    if MASK not in uri:
        return uri
    return os.environ.get(_variable(uri))


def concealed_argument(argument: str) -> str:
    """A command-line argument, or an override of Hydra, with each URI in it concealed and other secrets masked."""
    return masked(_URI.sub(lambda found: conceal(found[0]), argument))


def concealed_arguments(arguments: Sequence[str]) -> list[str]:
    """All of a command line's arguments, each as `concealed_argument`."""
    return [concealed_argument(argument) for argument in arguments]


def masked_command(arguments: Sequence[str]) -> list[str]:
    """Another program's command line with `MASK` in place of each secret: of what follows `--api-key` and its like, too."""
    shown: list[str] = []
    secret = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("-"):
            secret = argument.startswith("--") and not equals and is_secret_name(name.lstrip("-"))
            secret = secret or argument in _SECRET_FLAGS
        elif secret:
            shown.append(MASK)
            continue
        if equals and value and is_secret_name(name.lstrip("-")):
            shown.append(f"{name}={MASK}")
        else:
            shown.append(masked(_JSON_SECRET.sub(rf"\g<1>{MASK}\g<2>", argument)))
    return shown


def _variable(hidden: str) -> str:
    return ENVIRONMENT_PREFIX + hashlib.sha256(hidden.encode()).hexdigest()[:12].upper()
