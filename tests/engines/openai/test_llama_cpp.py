"""A server of another project: llama.cpp's, with a model that is made here."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wattcount.records import Record
from wattcount.result import judge

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("gguf") is None,
        reason="needs llama.cpp's server: pip install 'wattcount[llama-cpp]'",
    ),
]

SERVER = """
import sys, threading
import xllamacpp

asked = xllamacpp.CommonParams()
asked.model.path, asked.n_ctx, asked.n_parallel, asked.port, asked.endpoint_metrics = sys.argv[1], 2048, 4, 0, True
server = xllamacpp.Server(asked)
print(server.listening_address, flush=True)
threading.Event().wait()
"""
VOCABULARY = 512
RUN = (
    "engine=openai", "gpu=h200", "power=emulated", "power.probe=false", "tracking=none", "scenario=server",
    "scenario.rate_rps=4", "scenario.window_s=3", "scenario.warmup_s=1", "scenario.warmup_limit_s=1",
    "scenario.loaded_idle_s=0.5", "scenario.rehearsal_requests=4",
    "scenario.lengths.input_tokens=24", "scenario.lengths.output_tokens=12",
)  # fmt: skip


def write_model(path: Path) -> None:
    """A Llama of two layers with random weights, and a tokenizer of bytes and made-up words, as GGUF."""
    import gguf

    width, heads, inner, layers = 64, 4, 128, 2
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(VOCABULARY)
    kinds = gguf.TokenType
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = [f"\u2581w{number}" for number in range(VOCABULARY - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens + words)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types(
        [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, *[kinds.NORMAL] * len(words)]
    )
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)

    def matrix(name: str, *shape: int) -> None:
        writer.add_tensor(name, (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32))

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(width, np.float32))

    matrix("token_embd.weight", VOCABULARY, width)
    matrix("output.weight", VOCABULARY, width)
    ones("output_norm.weight")
    for layer in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{layer}.{name}.weight", width, width)
        matrix(f"blk.{layer}.ffn_gate.weight", inner, width)
        matrix(f"blk.{layer}.ffn_up.weight", inner, width)
        matrix(f"blk.{layer}.ffn_down.weight", width, inner)
        ones(f"blk.{layer}.attn_norm.weight")
        ones(f"blk.{layer}.ffn_norm.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    model = tmp_path / "tiny.gguf"
    write_model(model)
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(model)], stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert server.stdout is not None
        yield next(line.strip() for line in server.stdout if line.startswith("http"))
    finally:
        server.kill()
        server.communicate()


def test_a_run_against_llama_cpp(url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "wattcount",
            *RUN,
            f"engine.base_url={url}",
            f"records_dir={tmp_path / 'records'}",
        ],
        env={**os.environ, "WATTCOUNT_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    (file,) = (tmp_path / "records").rglob("run.json")
    judged = judge(file.parent)
    # How fast this machine is, is no part of it.
    assert set(judged.reasons) <= {"client_limited"}, (done.stdout, done.stderr)
    record = Record.open(file.parent)
    details = record.info.engine["details"]
    assert details["server"]["engine"] == "llama_cpp"
    assert details["vocab_size"] == VOCABULARY
    assert details["server"]["max_model_len"] == 512  # of each of four slots
    rows = [row for row in record.requests.to_pylist() if row["phase"] == "window"]
    assert rows
    assert {(row["status"], row["input_tokens"], row["output_tokens"]) for row in rows} == {
        ("completed", 24, 12)
    }
    assert judged.metrics["power/idle_bare_w"] is None
