"""Passwords and tokens are found by their form, masked, and given back where a connection is made."""

import os
import subprocess
import sys

import pytest

from wattcount.errors import one_line
from wattcount.masking import (
    conceal,
    concealed_argument,
    has_secret,
    is_secret_name,
    masked,
    masked_command,
    reveal,
)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://bob:hunter2@host:5000/x", "http://bob:***@host:5000/x"),
        ("http://:hunter2@host", "http://:***@host"),
        ("http://bob:p@ss@host", "http://bob:***@host"),
        ("http://bob:12345@host", "http://bob:***@host"),
        ("https://hf_x@host/repo", "https://***@host/repo"),
        ("postgresql+psycopg2://me:pw@h/db?sslpassword=x&a=b", "postgresql+psycopg2://me:***@h/db?sslpassword=***&a=b"),
        ("postgresql+psycopg2://me@h/db", "postgresql+psycopg2://me@h/db"),
        ("wasbs://c@acc.blob.core/x?sv=1&sig=abc%3D", "wasbs://c@acc.blob.core/x?sv=1&sig=***"),
        ("s3://KEY:SECRET@bucket/x", "s3://KEY:***@bucket/x"),
        ("proxy http://u:pw@proxy:3128 refused, http://v:pw@h too", "proxy http://u:***@proxy:3128 refused, http://v:***@h too"),
        ("Authorization: Bearer abcdef", "Authorization: Bearer ***"),
        ("token hf_abcdefghijklmnopqrstuvwxyz", "token hf_***"),
        ("http://host:8000/a@b", "http://host:8000/a@b"),
        ("http://host:8000", "http://host:8000"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("hf_home is /x", "hf_home is /x"),
        ("max_num_batched_tokens=8192", "max_num_batched_tokens=8192"),
    ],
)  # fmt: skip
def test_what_is_masked_and_what_is_not(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert masked(expected) == expected
    assert has_secret(text) == (text != expected)


@pytest.mark.parametrize(
    "name", ["hf_token", "token", "API_KEY", "aws_secret_access_key", "password", "auth-token"]
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["tokenizer", "eos_token", "max_tokens", "hf_config", "pad_token_id", "tokens"]
)
def test_names_of_what_is_no_secret(name: str) -> None:
    assert not is_secret_name(name)


def test_a_concealed_uri_is_known_here_and_in_child_processes() -> None:
    uri = "http://bob:hunter2@host:5000"
    hidden = conceal(uri)
    assert hidden == "http://bob:***@host:5000"
    assert reveal(hidden) == uri
    code = f"from wattcount.masking import reveal; print(reveal({hidden!r}))"
    child = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True, timeout=60
    )
    assert child.stdout.strip() == uri


def test_a_masked_uri_of_another_process_is_not_known() -> None:
    assert reveal("http://eve:***@host") is None
    assert reveal("http://host") == "http://host"


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("tracking.uri=http://a:b@h", "tracking.uri=http://a:***@h"),
        ("tracking.uri='http://a:b=c,d@h'", "tracking.uri='http://a:***@h'"),
        ("tracking.uri=http://a:b@h,http://c:d@h", "tracking.uri=http://a:***@h,http://c:***@h"),
        ("tracking={uri: 'http://a:b@h'}", "tracking={uri: 'http://a:***@h'}"),
        ("--uri=http://a:b@h", "--uri=http://a:***@h"),
        ("engine.args.x=hf_abcdefghijklmnopqrstuvwxyz", "engine.args.x=hf_***"),
        ("model=tiny", "model=tiny"),
    ],
)
def test_arguments(typed: str, kept: str) -> None:
    assert concealed_argument(typed) == kept


def test_both_uris_of_a_swept_key_are_known() -> None:
    concealed_argument("tracking.uri=http://a:b@h,http://c:d@h")
    assert reveal("http://a:***@h") == "http://a:b@h"
    assert reveal("http://c:***@h") == "http://c:d@h"


def test_one_line_of_an_error() -> None:
    error = ValueError("went\n wrong\tat http://a:b@h \x1b[31mred")
    assert one_line(error) == "went wrong at http://a:***@h ?[31mred"
    assert one_line(ValueError()) == "ValueError"
    assert one_line("x" * 500) == "x" * 300
    assert one_line("abc", 2) == "ab"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", ["a" * 1_000_000, "://" + "a" * 1_000_000, "a://u:" + "b" * 1_000_000])
def test_a_long_text_of_others_takes_no_time_that_grows_with_its_square(text: str) -> None:
    assert masked(text) == concealed_argument(text) == text


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (
            ["vllm", "serve", "m", "--api-key", "k1", "k2", "--port", "80"],
            ["vllm", "serve", "m", "--api-key", "***", "***", "--port", "80"],
        ),
        (["--api-key=k1", "--hf_token=x"], ["--api-key=***", "--hf_token=***"]),
        (["HF_TOKEN=x", "python"], ["HF_TOKEN=***", "python"]),
        (["--otlp", "http://me:pw@host/x"], ["--otlp", "http://me:***@host/x"]),
        (
            ["--overrides", '{"hf_token": "abc", "max_tokens": 3}'],
            ["--overrides", '{"hf_token": "***", "max_tokens": 3}'],
        ),
        (["--max-tokens", "5", "--eos-token", "x"], ["--max-tokens", "5", "--eos-token", "x"]),
        (["-hft", "abc", "-ngl", "99"], ["-hft", "***", "-ngl", "99"]),
        (["-H", "Authorization: Bearer abcdef"], ["-H", "Authorization: Bearer ***"]),
    ],
)
def test_another_programs_command_line_is_shown_without_its_secrets(
    arguments: list[str], shown: list[str]
) -> None:
    assert masked_command(arguments) == shown
