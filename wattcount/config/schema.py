"""Every key of the configuration: one axis = one group = one folder under `conf/` = one dataclass.

Nothing of it changes once it is made (`fields.Node`); `loader.changed` makes another one. Ranges, units and choices stand beside
the fields; what concerns several keys is in `validation`.

Fields made with `identity()` are part of a point's identity (see `identity.py`): they say *what* is
measured. The others say where, how often or how it is shown. A new identity field needs a default, so
that the hashes of older records stay as they are.
"""

# ruff: noqa: RUF009 - identity() only makes a dataclass field

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any

from wattcount.config.fields import (
    MISSING,
    ComputeCapability,
    FolderName,
    Form,
    FrozenDict,
    FrozenList,
    HostPort,
    Node,
    NotBlank,
    OneOf,
    Pattern,
    Public,
    Range,
    Tree,
    VariableName,
    identity,
)
from wattcount.config.paths import default_records_dir
from wattcount.engines import registry
from wattcount.masking import conceal, masked

APIS = ("completions", "chat")
"""The interfaces of an OpenAI-compatible server that requests may be sent to; the first is the default, for it takes token ids."""
DTYPES = ("bfloat16", "float16", "float32")
"""Types that weights may have without a quantization, by their names in PyTorch. The first is the default."""
BFLOAT16_CAPABILITY = 8.0
"""CUDA compute capability from which on GPUs compute in bfloat16 (Ampere)."""
MAX_REQUESTS = 5_000_000
"""The most requests of one load: it is kept in memory, and a record holds a row for each."""

Count = Annotated[int, Range(at_least=1)]
CountOrZero = Annotated[int, Range(at_least=0)]
Coefficient = Annotated[float, Range(at_least=0)]
Positive = Annotated[float, Range(above=0)]
Seconds = Annotated[float, Range(above=0, unit="s")]
SecondsOrZero = Annotated[float, Range(at_least=0, unit="s")]
LatencyMs = Annotated[float, Range(above=0, unit="ms", hint="null for no bound")]
PeriodMs = Annotated[float, Range(at_least=0.5, at_most=60_000, unit="ms")]
Watts = Annotated[float, Range(above=0, unit="W")]
MAX_SEED = 2**31 - 1
"""The largest seed: it fits a signed number of 32 bit, as those of engines do."""
Seed = Annotated[int, Range(at_least=0, at_most=MAX_SEED)]
Fingerprint = Annotated[str, Public(Form.digest)]
Name = Annotated[str, Public(Form.title)]
Word = Annotated[str, Public(Form.word)]
HubId = Annotated[str, Public(Form.hub_id)]

ARCHITECTURE_TEXTS = Tree(
    {
        **dict.fromkeys(
            (
                "architectures", "model_type", "torch_dtype", "dtype", "hidden_act", "hidden_activation", "activation_function",
                "mlp_hidden_act", "mamba_hidden_act", "mamba_ssm_cache_dtype", "hybrid_override_pattern", "layer_types", "rope_type",
                "type", "scoring_func", "topk_method", "position_embedding_type", "quant_method", "quant_algo", "fmt", "format",
                "activation_scheme", "checkpoint_format", "version", "truncate", "kv_cache_quant_algo", "ffn_config", "attn_type",
            ),
            Form.word,
        ),
        **dict.fromkeys(("modules_to_not_convert", "ignored_layers"), Form.module),
    }
)  # fmt: skip
"""Keys of a `config.json` whose text says what a model's architecture is. Text below others, as `_name_or_path`, does not."""
ARGUMENT_TEXTS = Tree(
    {
        **dict.fromkeys(
            (
                "attention_backend", "moe_backend", "all2all_backend", "mamba_backend", "load_format", "config_format",
                "tokenizer_mode", "dtype", "kv_cache_dtype", "quantization", "mamba_cache_dtype", "mamba_ssm_cache_dtype",
                "scheduling_policy", "distributed_executor_backend", "cudagraph_mode", "mode", "method", "performance_mode",
                "optimization_level", "prefix_caching_hash_algo", "server", "family", "task", "runner", "schedule_policy",
                "sampling_backend", "grammar_backend", "flash_attn", "cache_type_k", "cache_type_v", "split_mode",
            ),
            Form.word,
        ),
        "version": Form.version,
    }
)  # fmt: skip
"""Arguments and options of engines whose text is one of a few words. Others hold names, paths and keys."""


def has_bfloat16(compute_capability: str | None) -> bool:
    """Whether a GPU of this capability (`8.9`; None: not known) computes in bfloat16."""
    return compute_capability is None or float(compute_capability) >= BFLOAT16_CAPABILITY


class Weights(Enum):
    """Where a model's weights come from. Random and real weights are never pooled."""

    hub = "hub"
    """Downloaded from the hub, or taken from its cache on this machine."""
    path = "path"
    """From the folder `model.path`."""
    random = "random"
    """Drawn at random: nothing is downloaded."""
    served = "served"
    """Those of a server that somebody else runs, and that does not tell which they are."""


class Initializer(Enum):
    """What random weights are drawn from. Power depends on the values, so it is part of a point."""

    dummy = "dummy"
    """As the engine's own placeholder weights."""
    normal = "normal"
    """Normal with the standard deviation that `config.json` names (`initializer_range`, else 0.02); norms 1, biases 0."""
    fan_in = "fan_in"
    """Normal with standard deviation 1 / sqrt(inputs), which keeps activations at their size; norms 1, biases 0."""


class Device(Enum):
    auto = "auto"
    """`cuda` where a GPU and an engine for it are, else `cpu`."""
    cuda = "cuda"
    """An NVIDIA GPU."""
    cpu = "cpu"
    """The CPU: for trying things out."""


class PowerBackend(Enum):
    auto = "auto"
    """Real NVML where it has a GPU; else, with `gpu=auto`, the emulated library."""
    nvml = "nvml"
    """Real NVML or nothing."""
    emulated = "emulated"
    """The emulated library, whatever this machine has. Its figures are no measurement."""


class ScenarioKind(Enum):
    batch = "batch"
    """All requests at once."""
    server = "server"
    """Requests come one after the other, whether or not the ones before are answered (open loop)."""
    concurrency = "concurrency"
    """A fixed number of users, each of whom sends the next request when the last one is answered (closed loop)."""
    capacity = "capacity"
    """Runs of a server at rates that follow from each other, to find the highest one that keeps an SLO. No record is of this kind."""


class ArrivalKind(Enum):
    poisson = "poisson"
    """Arrivals are independent of each other."""
    gamma = "gamma"
    """Gaps follow a gamma distribution: burstier than Poisson with `cv` above 1, more even below 1."""
    constant = "constant"
    """All gaps are equal."""
    trace = "trace"
    """At the times that the file `scenario.arrivals.path` gives."""


class SpeculativeMethod(Enum):
    ngram = "ngram"
    """Proposes what followed the last tokens where they stood before, in prompt or output; no second model."""
    draft_model = "draft_model"
    """A smaller model of the same vocabulary proposes."""


class LengthKind(Enum):
    fixed = "fixed"
    """All requests have the same lengths."""
    uniform = "uniform"
    """Every length between the two bounds is as likely as any other."""
    lognormal = "lognormal"
    """Lognormal with the given mean and coefficient of variation, within the bounds."""
    trace = "trace"
    """Lengths that a trace file gives; the tokens are random."""
    prompts = "prompts"
    """Prompts that a file gives; of conversations the first turns."""
    conversations = "conversations"
    """All turns of the conversations that a file gives: each prompt begins with all that was said before."""


FROM_FILES = (LengthKind.trace, LengthKind.prompts, LengthKind.conversations)
"""Kinds of lengths that a file gives."""


@dataclass(frozen=True)
class ModelConfig(Node):
    """A model: where its weights come from and the facts needed to tell whether it fits."""

    name: Annotated[str, NotBlank(), Public(Form.title)] = identity()
    """What the model is called in tables. It is part of a point: give a model of your own a name of its own."""
    hf_id: HubId | None = identity(None)
    """Hugging Face hub id, `org/name`."""
    revision: HubId | None = identity(None)
    """Branch, tag or commit on the hub. None: its main branch."""
    weights: Weights = identity(Weights.hub)
    """Where the weights come from. Runs with random and with real weights are never pooled."""
    initializer: Initializer = identity(Initializer.dummy)
    """What random weights are drawn from, where the engine can draw them."""
    path: str | None = None
    """Folder with `config.json` (and weights for `weights=path`). Its content, not its place, is part of a point."""
    path_fingerprint: Fingerprint | None = identity(None)
    """Filled in by wattcount for `weights=path`: `2:` and SHA-256 of config.json and of samples of the weights (see
    `run.resolve`). Records of before have the SHA-256 of config.json and of the weight files' names and sizes, which two
    fine-tunes of one shape share: they are never taken for a point of today, which is measured anew."""
    hf_config: Annotated[dict[str, Any], Public(ARCHITECTURE_TEXTS)] = identity(FrozenDict())
    """The model's Hugging Face `config.json` values; lets `weights=random` run with no download.

    With `weights=random` and a `path`, read from that folder. Part of the identity for `weights=random`
    only: real weights bring their own config.
    """
    dtype: Annotated[str, OneOf(DTYPES)] = identity("bfloat16")
    """Number format of weights and activations. GPUs compute in `bfloat16` from compute capability 8.0 on."""
    quantization: Annotated[str, NotBlank("null for none"), Public(Form.word)] | None = identity(None)
    """Method by its name in the engine (`fp8`, `awq`, `gptq`, ...); None: none, or what config.json says."""
    tokenizer: HubId | None = identity(None)
    """Hub id or folder; None: prompts are token ids and none is needed."""
    gated: bool = False
    """The hub asks for a token and an accepted licence."""
    parameters_b: Positive | None = None
    """Parameters in all; computed from `hf_config` where None."""
    active_parameters_b: Positive | None = None
    """Parameters that are used for one token (mixture of experts)."""
    source: str | None = None
    """Where the facts come from."""


@dataclass(frozen=True)
class GpuConfig(Node):
    """A GPU model and its data-sheet facts. `auto`: the one that is there."""

    name: Annotated[str, Public(Form.title, required=True)] = "auto"
    """What the GPU model is called in tables."""
    nvml_names: list[Annotated[str, Pattern()]] = FrozenList()
    """Regular expressions, matched in full against NVML's device name; empty: any."""
    count: Count = identity(1)
    """GPUs of the run: the product of the three parallel sizes of `engine`."""
    devices: Annotated[list[str], Public(Form.board)] = FrozenList()
    """UUIDs or indices of the GPUs to use; empty: the first `count` that match."""
    sm_clock_mhz: Annotated[int, Range(above=0, unit="MHz")] | None = identity(None)
    """Lock the SM clock to this while the run goes on; None: leave it alone. Needs root; always undone."""
    power_limit_w: Watts | None = identity(None)
    """Set the power limit to this while the run goes on; None: leave it alone. Needs root; always undone."""
    found_name: Name | None = identity(None)
    """Filled in by wattcount: the device name as NVML gives it (with the MIG profile where there is one)."""
    architecture: Word | None = None
    """NVIDIA's name of the generation, e.g. `Hopper`."""
    compute_capability: Annotated[str, ComputeCapability(), Public(Form.version)] | None = None
    """CUDA compute capability, e.g. `9.0`."""
    memory_gib: Positive | None = None
    """Nominal; NVML shows up to a tenth less (ECC, reserved)."""
    memory_bandwidth_gb_s: Positive | None = None
    """Bandwidth of the GPU's memory, from the data sheet; 1 GB is 10^9 bytes."""
    fp16_dense_tflops: Positive | None = None
    """Tensor-core peak without sparsity, accumulating in 32 bit."""
    fp8_dense_tflops: Positive | None = None
    """The same for 8 bit. None: no FP8 tensor cores."""
    tdp_w: Watts | None = None
    """Thermal design power of the board, from the data sheet."""
    idle_w: Annotated[float, Range(at_least=0, unit="W")] | None = None
    """Typical idle power, for the emulated library only; never used as a measurement."""
    emulator_profile: Name | None = None
    """Which sensors the emulated library gives it; see docs/emulator.md."""
    emulated_name: Name | None = None
    """NVML's device name for this variant, for the emulated library."""
    source: str | None = None
    """Where the facts come from."""


@dataclass(frozen=True)
class ArrivalConfig(Node):
    """When requests arrive."""

    kind: ArrivalKind = identity(ArrivalKind.poisson)
    """How the times of arrival are made."""
    cv: Annotated[float, Range(above=0, hint="scenario.arrivals.kind=constant for 0")] = identity(1.0)
    """Coefficient of variation of the gaps between arrivals, for `gamma`."""
    path: str | None = None
    """Trace file (`TIMESTAMP,ContextTokens,GeneratedTokens`, as the Azure LLM inference traces)."""
    fingerprint: Fingerprint | None = identity(None)
    """Filled in by wattcount: SHA-256 of the trace file."""

    @property
    def file(self) -> str | None:
        """`path`, if arrivals are read from it."""
        return self.path if self.kind is ArrivalKind.trace else None


@dataclass(frozen=True)
class LengthConfig(Node):
    """How long prompts and answers are, and what prompts are made of."""

    kind: LengthKind = identity(LengthKind.fixed)
    """How lengths are made, or which file gives them."""
    input_tokens: Count = identity(512)
    """Tokens of a prompt: the fixed value, or the mean of the lognormal distribution."""
    output_tokens: Count = identity(128)
    """Tokens of an answer: the fixed value, or the mean of the lognormal distribution."""
    input_tokens_min: Count = identity(1)
    """The shortest prompt, for all kinds but `fixed`."""
    input_tokens_max: Count = identity(4096)
    """The longest prompt, for all kinds but `fixed`."""
    output_tokens_min: Count = identity(1)
    """The shortest answer, for all kinds but `fixed`."""
    output_tokens_max: Count = identity(1024)
    """The longest answer, for all kinds but `fixed`."""
    input_cv: Coefficient = identity(1.0)
    """Coefficient of variation of prompt lengths (standard deviation / mean), for `lognormal`."""
    output_cv: Coefficient = identity(1.0)
    """Coefficient of variation of answer lengths (standard deviation / mean), for `lognormal`."""
    path: str | None = None
    """Trace, prompt file or file of conversations, in any of the forms of docs/loads.md: plain text, JSON Lines, JSON, ShareGPT and other data
    sets; traces of Azure, BurstGPT and Mooncake."""
    fingerprint: Fingerprint | None = identity(None)
    """Filled in by wattcount: SHA-256 of the file."""
    force_output: bool = identity(True)
    """True: answers have exactly that many tokens (`ignore_eos`). False: the model ends them, at the latest after that many."""

    @property
    def file(self) -> str | None:
        """`path`, if lengths or prompts are read from it."""
        return self.path if self.kind in FROM_FILES else None


@dataclass(frozen=True)
class SamplingConfig(Node):
    """How each next token is drawn. By default as the model says, with nothing cut off.

    Servers take what a checkpoint's `generation_config.json` says where a client does not; here every request says all.
    """

    temperature: Annotated[float, Range(at_least=0)] = identity(1.0)
    """How much is left to chance; 0: always the most likely token."""
    top_p: Annotated[float, Range(above=0, at_most=1)] = identity(1.0)
    """Only the most likely tokens are drawn from, as many as have this probability together; 1: all."""
    top_k: CountOrZero = identity(0)
    """Only so many of the most likely tokens are drawn from; 0: all."""
    min_p: Annotated[float, Range(at_least=0, at_most=1)] = identity(0.0)
    """Only tokens are drawn from that have at least this share of the most likely one's probability; 0: all."""
    seed: CountOrZero | None = identity(None)
    """Each request gets a generator of its own with this seed; an engine may then draw for one request at a time. None: one
    generator for all."""


@dataclass(frozen=True)
class SloConfig(Node):
    """Latency bounds a request must meet to count as good; None: not bounded."""

    ttft_ms: LatencyMs | None = identity(None)
    """The longest time to the first token."""
    tpot_ms: LatencyMs | None = identity(None)
    """The longest time per further token, as a mean of the request."""
    e2e_ms: LatencyMs | None = identity(None)
    """The longest time from the request to its last token."""
    attainment: Annotated[float, Range(above=0, at_most=1)] = 0.95
    """Share of the requests that must keep every bound, for `scenario=capacity`. It is no part of a point: a run counts them all."""


@dataclass(frozen=True)
class ScenarioConfig(Node):
    """What all scenarios share."""

    name: Name = MISSING
    """What the scenario is called in tables."""
    kind: ScenarioKind = identity(always=True)
    """How the load is made. The option of the group sets it."""
    lengths: LengthConfig = identity(LengthConfig())
    """How long prompts and answers are."""
    sampling: SamplingConfig = identity(SamplingConfig())
    """How each next token is drawn."""
    slo: SloConfig = identity(SloConfig())
    """Bounds of latency that make a request good."""
    bare_idle_s: SecondsOrZero = identity(10.0)
    """How long the GPU's power is measured before the engine starts; 0: not at all."""
    loaded_idle_s: SecondsOrZero = identity(10.0)
    """How long the power of the idle engine is measured, before the load and after it; 0: not at all."""
    rehearsal_requests: CountOrZero | None = identity(None)
    """Requests of the window's beginning that are played before the warm-up, again and again until the engine compiles nothing new.
    None: as many as it runs at once, and 20 s of a server's arrivals at most; 0: none."""
    bare_idle_after_s: SecondsOrZero = 5.0
    """How long the GPU's power is measured after the engine has ended; 0: not at all. Nothing that was measured before depends on it."""
    drain_limit_s: Seconds = 600.0
    """Requests still running this long after the window are cancelled."""


@dataclass(frozen=True)
class BatchConfig(ScenarioConfig):
    """All requests at once; the window is from the first send to the last token."""

    kind: ScenarioKind = identity(ScenarioKind.batch, always=True)
    num_requests: Annotated[int, Range(at_least=1, at_most=MAX_REQUESTS)] = identity(512)
    """Requests of the batch."""
    warmup_requests: CountOrZero = identity(16)
    """Requests that are answered before the window; 0: none."""
    time_limit_s: Seconds = 3600.0
    """A batch that takes longer is ended, and the run is invalid."""


@dataclass(frozen=True)
class ServerConfig(ScenarioConfig):
    """Open-loop arrivals at a rate; warm-up, window, drain."""

    kind: ScenarioKind = identity(ScenarioKind.server, always=True)
    arrivals: ArrivalConfig = identity(ArrivalConfig())
    """When requests arrive."""
    rate_rps: Annotated[float, Range(above=0, unit="requests/s")] | None = identity(1.0)
    """Mean arrivals per second. For a trace: rescaled to this rate; None: as recorded."""
    warmup_s: SecondsOrZero = identity(10.0)
    """The shortest warm-up; 0: none."""
    warmup_limit_s: SecondsOrZero = identity(60.0)
    """A warm-up goes on until power and throughput have settled, at most this long. Up to `warmup_s`: exactly
    `warmup_s`. The window's arrivals are the same however long it takes."""
    window_s: Seconds = identity(45.0)
    """How long energy, power and throughput are measured: the window."""
    max_in_flight: Count | None = identity(None)
    """Requests at once, at most: further ones wait at the sender. None: open loop, no request is held back."""


@dataclass(frozen=True)
class CapacityConfig(ServerConfig):
    """A search for the highest rate that keeps `scenario.slo`; each probe is a run of a server at one rate (`sweep.capacity`).

    `rate_rps` is the rate that is tried first.
    """

    kind: ScenarioKind = identity(ScenarioKind.capacity, always=True)
    """`capacity`."""
    tolerance: Annotated[float, Range(at_least=0.001, at_most=1)] = 0.03
    """The search ends when the lowest rate that breaks the SLO is at most this share above the highest one that keeps it."""
    max_probes: Annotated[int, Range(at_least=2)] = 10
    """Runs, at most."""


@dataclass(frozen=True)
class ConcurrencyConfig(ScenarioConfig):
    """A closed loop: a fixed number of users, each of whom sends the next request when the last one is answered."""

    kind: ScenarioKind = identity(ScenarioKind.concurrency, always=True)
    """`concurrency`."""
    concurrency: Count = identity(32, always=True)
    """Users, and so requests in flight at any moment."""
    warmup_s: SecondsOrZero = identity(10.0)
    """The shortest warm-up; 0: none."""
    warmup_limit_s: SecondsOrZero = identity(60.0)
    """A warm-up goes on until power and throughput have settled, at most this long. Up to `warmup_s`: exactly `warmup_s`."""
    window_s: Seconds = identity(45.0)
    """How long energy, power and throughput are measured: the window."""
    max_requests: Annotated[int, Range(at_least=1, at_most=MAX_REQUESTS)] | None = None
    """Requests that there are to send, warm-up included. None: more than any engine answers in that time. A run that sends
    all of them before its window ends is invalid."""


Scenario = BatchConfig | ServerConfig | ConcurrencyConfig
"""Any scenario, by its `kind`."""


@dataclass(frozen=True)
class SpeculativeConfig(Node):
    """Speculative decoding: several tokens are proposed cheaply and checked in one step of the model.

    How many are accepted decides what it saves, and depends on the text: of random weights it means nothing.
    """

    method: SpeculativeMethod | None = identity(None)
    """How tokens are proposed. None: speculative decoding is off. Methods that need weights of their own (EAGLE, MTP, ...): `engine.args.speculative_config`."""
    num_speculative_tokens: Count = identity(4)
    """Tokens that are proposed in each step."""
    prompt_lookup_min: Count | None = identity(None)
    """The fewest tokens that must match, for `ngram`; None: the engine's default."""
    prompt_lookup_max: Count | None = identity(None)
    """The most tokens that are looked for, for `ngram`; None: the engine's default."""
    draft_model: Name | None = identity(None)
    """For `draft_model`: an option of the group `model`. Its weights come from where the model's do, hub or random."""


@dataclass(frozen=True)
class EngineConfig(Node):
    """What serves the model, and its settings. Null means what the engine itself chooses (docs/configuration.md, What null means)."""

    name: Word = identity(registry.DEFAULT)
    """Name of the engine: `engine=NAME` chooses it."""
    device: Device = identity(Device.auto)
    """What the engine computes on. `auto` is resolved before anything is hashed."""
    version_minor: Annotated[str, Public(Form.version)] | None = identity(None)
    """Filled in by wattcount, e.g. `0.26`."""
    tensor_parallel_size: Count = identity(1)
    """GPUs that each layer is split over."""
    pipeline_parallel_size: Count = identity(1)
    """Groups of GPUs that the layers are dealt out to."""
    data_parallel_size: Count = identity(1)
    """Replicas, each with its own GPUs and KV cache; requests are spread over them."""
    max_model_len: Count | None = identity(None)
    """None: the longest prompt plus completion of the scenario, rounded up to 256."""
    max_num_seqs: Count | None = identity(None)
    """Requests that run at once. None, here and below: what the engine chooses on that GPU for that scenario, as people deploy it;
    filled in before a run starts."""
    max_num_batched_tokens: Count | None = identity(None)
    """Tokens of a step, prompt and answer together, at most."""
    gpu_memory_utilization: Annotated[float, Range(above=0, at_most=1)] | None = identity(None, left_out=0.9)
    """Share of a GPU's memory for weights, activations and KV cache."""
    enforce_eager: bool = identity(False)
    """No compilation and no CUDA graphs: a quick start, slower steps."""
    enable_prefix_caching: bool | None = identity(None, left_out=False)
    """Whether what is computed of a prompt is kept for prompts that begin alike. Random prompts never do."""
    kv_cache_dtype: Word = identity("auto")
    """Number format of the KV cache by its name in the engine, e.g. `fp8`; `auto`: as the model."""
    enable_chunked_prefill: bool | None = identity(None, left_out=True)
    """Whether long prompts are cut, so that other requests go on beside them."""
    unset: Annotated[list[str], Public(Form.code)] = FrozenList()
    """Filled in by wattcount: names of the settings above that were left to the engine (null as asked)."""
    speculative: SpeculativeConfig = identity(SpeculativeConfig())
    """Speculative decoding."""
    pinned_cpus: Count | None = identity(None)
    """CPUs that the engine's processes are kept to once it is up, for each GPU of the run, from that GPU's share of the machine's. None: any."""
    nice: Annotated[int, Range(at_least=-20, at_most=19)] | None = identity(None)
    """Priority of the engine's processes once it is up, as `nice` has it: below 0 takes root. None: as the run's."""
    args: Annotated[dict[str, Any], Public(ARGUMENT_TEXTS)] = identity(FrozenDict())
    """Any further engine argument, by its name in the engine."""
    base_url: str | None = None
    """`http://HOST:PORT` of a server that runs already. Where it is, is no part of a point."""
    served: Annotated[dict[str, Any], Public(ARGUMENT_TEXTS)] = identity(FrozenDict())
    """Filled in by wattcount: what kind of server it is, its version, and the options and settings that it tells."""
    served_model: str | None = None
    """Name of the model to measure, where a server has several."""
    api: Annotated[str, OneOf(APIS)] = identity(APIS[0])
    """What requests to a server are sent to: `/v1/completions`, or `/v1/chat/completions` with the model's chat template."""
    api_key_env: Annotated[str, VariableName()] | None = None
    """Name of the environment variable that holds the server's API key."""
    headers: dict[str, Annotated[str, VariableName()]] = FrozenDict()
    """Further headers of each request: the name of a header, and of the environment variable that holds its value."""
    ca_file: str | None = None
    """Certificates (PEM) that an `https` server is checked against; None: those of the system."""
    client_processes: Count | None = None
    """Processes that send requests to a server over HTTP; None: as many as the host's cores suggest."""
    start_timeout_s: Seconds = 1800.0
    """An engine that is not up by then is ended, and the run has failed."""


@dataclass(frozen=True)
class PowerConfig(Node):
    """Where power is read and how often. Rates say how often NVML is asked, not how often it has news."""

    backend: PowerBackend = PowerBackend.auto
    """Which NVML library is asked."""
    remote: Annotated[str, HostPort()] | None = None
    """`HOST:PORT` of a `wattcount sampler --listen` on the machine whose GPUs are measured (docs/remote.md). None: this machine."""
    energy_counter_period_ms: PeriodMs | None = None
    """How often the energy counter is read. None: chosen by what the sensors are like (`wattcount doctor --sensors`)."""
    power_period_ms: PeriodMs | None = None
    """How often the power reading is asked for. None: chosen by what the sensors are like."""
    samples_period_ms: PeriodMs | None = None
    """How often the driver's ring of power samples is emptied; shortened on the spot where it would overflow. None: chosen by what
    the sensors are like."""
    probe: bool | None = None
    """Read the sensors fast for some seconds before the first run on a GPU, to know them. None: on real GPUs only."""
    status_period_ms: PeriodMs = 1000.0
    """How often temperature, clocks, utilisation, memory, clock event reasons, power limit and processes are read."""
    heartbeat_ms: PeriodMs = 1000.0
    """How often the sampler writes down that it is alive: a gap tells that it stood still."""
    buffer_mib_per_gpu: Annotated[int, Range(at_least=1, unit="MiB")] = 64
    """Memory for readings that are not yet written to the disk, for each GPU."""


@dataclass(frozen=True)
class TrackingConfig(Node):
    """Where runs are logged (MLflow)."""

    enabled: bool = True
    """Whether a run is logged when it has ended. `wattcount log` does it later."""
    uri: str | None = None
    """MLflow's tracking URI. None: sqlite, `$WATTCOUNT_HOME/mlflow.db` (without that variable `~/.local/share/wattcount/mlflow.db`).

    A password in it is masked wherever it is shown or written.
    """
    experiment: str = "wattcount"
    """Name of MLflow's experiment; it is made where there is none."""
    run_name: str | None = None
    """Name of the run in MLflow. None: made of model, GPU, load and repeat."""
    tags: dict[str, str] = FrozenDict()
    """Further tags of each run; none of those that wattcount sets itself (`config.validation`)."""

    def __post_init__(self) -> None:
        # Configurations are kept in records, plans and logs: a password is passed by the environment.
        if self.uri:
            object.__setattr__(self, "uri", conceal(self.uri))
        tags = {key: masked(text) if isinstance(text, str) else text for key, text in self.tags.items()}
        object.__setattr__(self, "tags", tags)
        super().__post_init__()


@dataclass(frozen=True)
class DisplayConfig(Node):
    """What is shown while a run goes on."""

    live: bool | None = None
    """Whether the display is drawn again and again. None: yes on a terminal, plain lines elsewhere."""
    screen: bool | None = None
    """Whether a sweep has the whole screen of the terminal. None: yes where there is one with room for it; no: a block at its bottom."""
    plain_interval_s: Seconds = 10.0
    """How long it takes from one plain line to the next."""


class SweepOrder(Enum):
    """In which order the points of a sweep are measured."""

    blocks = "blocks"
    """All points of the first repeat in random order, then all of the next, ...: drift does not look like a model."""
    given = "given"
    """As the sweep lists them."""
    starts = "starts"
    """As the sweep lists them, but all points that share a start of the engine follow the first of them."""


@dataclass(frozen=True)
class SweepConfig(Node):
    """How a sweep goes about its points; nothing here changes what a point is."""

    name: Annotated[str, FolderName()] | None = None
    """Name of the sweep. None: the experiment's name, else one made from the arguments of the command line."""
    workers: Count | None = None
    """Runs at once on this machine, at most. None: as many as free GPUs match; emulated GPUs: one."""
    order: SweepOrder = SweepOrder.blocks
    """In which order the points are measured."""
    order_seed: CountOrZero = 0
    """Seed of the random order of `blocks`."""
    share_engine: bool | None = None
    """Whether points that differ only in scenario and load are measured on one start of the engine (docs/sweeps.md). None: on an
    engine that takes long to start. Repeats never share one."""
    attempts: Count = 2
    """How often a point that fails is tried, each time the sweep is started."""
    retry_invalid: bool = False
    """Try a run again too that went to its end but did not meet the checks of validity."""
    stop_after_same_failures: Count | None = 5
    """So many different points that fail alike before any is measured end the sweep: the installation is broken, not
    they. None: every point is tried."""
    time_limit_s: Seconds | None = None
    """A run that takes longer is ended (reason `timeout`). None: only the limits of its phases."""
    placement: dict[str, Any] = FrozenDict()
    """What a launcher is to ask its cluster for, by GPU option: keys of `hydra.launcher`, e.g.
    `a100: {constraint: sxm4, gres: "gpu:1"}`. Options that are not in it: by what the cluster says it has."""


@dataclass(frozen=True)
class RunConfig(Node):
    """One point and its repeat: what `python -m wattcount` composes."""

    model: ModelConfig = identity(ModelConfig())
    """What is served."""
    gpu: GpuConfig = identity(GpuConfig())
    """On which GPUs."""
    scenario: Scenario = identity(ServerConfig())
    """The load."""
    engine: EngineConfig = identity(EngineConfig())
    """What serves."""
    power: PowerConfig = PowerConfig()
    """How power is read."""
    tracking: TrackingConfig = TrackingConfig()
    """Where runs are logged."""
    display: DisplayConfig = DisplayConfig()
    """What is shown meanwhile."""
    sweep: SweepConfig = SweepConfig()
    """How a sweep goes about its points."""
    dry_run: bool = False
    """Show what a sweep would measure, and measure nothing."""
    evidence: Annotated[str, Public(Form.code)] | None = identity(None)
    """Filled in by wattcount from the NVML library that was loaded."""
    cohort: Word | None = None
    """Quarter of the data set that the run is measured for (docs/dataset.md): the seed is the cohort's."""
    seed: Seed = 0
    """Seed of the load: arrivals, lengths and tokens. Null on the command line: the cohort's, without a cohort 0."""
    repeat: Seed = 0
    """Number of this repeat: the arrivals and lengths of the load are a function of seed and repeat alone."""
    records_dir: Annotated[str, NotBlank()] = field(default_factory=default_records_dir)
    """Folder that records are written to and looked for: `$WATTCOUNT_HOME/records`, without that variable `~/.local/share/wattcount/records`."""
    resume: bool | None = None
    """Leave out what `records_dir` has a valid record of. None: in a sweep, yes; a single run measures again."""
    allow_busy_gpu: bool = False
    """Measure although another process computes on the GPU; the record says so."""
    cooldown_limit_s: SecondsOrZero = 60.0
    """Before a sweep's next run: how long to wait until the GPU is as it was before the first; 0: not at all."""
    gpu_busy_timeout_s: SecondsOrZero = 60.0
    """How long to wait for other processes to leave the GPU before the run is refused; 0: not at all."""
    gpu_lock_timeout_s: SecondsOrZero = 3600.0
    """How long to wait for another run on a GPU of this one to end; 0: not at all."""
