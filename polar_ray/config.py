"""Every knob, as frozen pydantic models: the YAML `args:` block, the constructor and `key=value`.

Reads no environment and keeps no runtime facts. What all of them have in common is `config_base`.
"""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from polar_ray.call_options import LONGEST_S
from polar_ray.config_base import Config
from polar_ray.sizes import SHARD_BYTES

DTypeName = Literal["auto", "float32", "bfloat16", "float16", "int8", "fp8"]


class EncodingConfig(Config):
    """How text becomes token ids. The defaults are POLAR's."""

    max_length: int | None = Field(default=None, ge=16)
    """Tokens of a whole record. None: POLAR's 16384, or the model's window if that is smaller."""

    max_response_length: int | None = Field(default=None, ge=2)
    """Tokens of the reference and of the output. None: POLAR's 4096, at most max_length / 4."""

    cut_side: Literal["right", "left"] = "right"
    """The end that a long response loses: "right" as in POLAR's repository, "left" as in xtuner."""

    max_field_bytes: int = Field(default=1 << 20, ge=1)
    """A longer field is an error of its row, not a minute of tokenising."""


class NativeEngineConfig(Config):
    """polar_ray's own torch engine."""

    type: Literal["native"] = "native"
    """polar_ray's own engine, on torch: the default."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where there is one."""

    dtype: DTypeName = "auto"
    """auto: bfloat16 on cuda, float32 on a CPU (most have no fast 16-bit arithmetic). int8 (CPU)
    and fp8 (Hopper and later) round the layers' weights and activations: faster, other scores."""

    num_threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads of the forward pass, of all engines in this process. None: as many as torch has,
    by its own choice or by that of an engine before."""

    prefix_cache_bytes: int | None = Field(default=None, ge=0)
    """Keys and values of prompts and references that are kept for candidates which come later.
    None: on cuda what the largest packs leave of the device's memory, and a second model beside
    this one; nothing on a CPU or with tensor parallelism."""

    tensor_parallel_size: int = Field(default=1, ge=1)
    """Devices (on a CPU: processes) of one node among which every layer is divided, for a model
    that does not fit into one."""

    kernels: bool = True
    """On cuda, use this project's Triton kernels where a trial at load finds them right and faster
    than torch: for attention, rotations, activations and norms. A CPU never uses them."""

    graphs: bool = False
    """On cuda, launch the forward of a small pack (below 768 tokens for a 1.8B, 256 for a 7B) as
    one CUDA graph. Each load takes seconds longer; not measured yet. A CPU has none."""


class StubEngineConfig(Config):
    """Scores that are a pure function of the token ids: for tests and to measure the pool alone."""

    type: Literal["stub"] = "stub"
    """No network, but numbers made from the token ids: for tests, and to measure the pool alone."""

    seconds_per_token: float = Field(default=0.0, ge=0)
    """Sleep that stands in for a forward pass."""

    salt: int = 0
    """Another number makes other scores and another digest: it stands in for another model."""

    fatal_token: int | None = None
    """A record that contains this token ends the process, as one does that crashes a kernel."""

    hanging_token: int | None = None
    """A record that contains this token never comes back, as one does on which a kernel hangs."""

    failing_token: int | None = None
    """A record that contains this token raises what is no `EngineError`, as a bug does."""
    lost_device_token: int | None = None
    """A record that contains this token makes it and all that come after it fail, as one does after
    which the device computes nothing any more."""


def _listed(value: Any) -> Any:
    """Addresses that came as one text, as from a command line."""
    return value.split(",") if isinstance(value, str) else value


class RemoteEngineConfig(Config):
    """Servers that run already: sglang, vllm or lmdeploy with the same checkpoint as `model`."""

    type: Literal["remote"] = "remote"
    """sglang, vllm or lmdeploy servers that run elsewhere, with the checkpoint that `model` is."""

    server: Literal["sglang", "vllm", "lmdeploy"]
    """What these servers are."""

    addresses: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_listed)]
    """Their URLs, "http://host:port", as every replica reaches them; on a command line with commas
    between them. One of another kind begins with it: "sglang+http://host:port"."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the servers compute in: it bounds how far they may be from the known answers, and every
    result says it."""

    tolerance: float | None = Field(default=None, gt=0)
    """Largest difference to known answers that is forgiven. None: by dtype, 0.001 in float32, 0.15
    in bfloat16, 0.05 in float16."""

    served_name: str | None = None
    """The model's name at the servers, where they want one."""

    token_file: str | None = None
    """A file whose first line is the bearer token for the servers; read again when one refuses it.
    None: no token is sent."""

    ca_file: str | None = None
    """Certificates (PEM) by which https servers are known. None: those that the system trusts."""

    verify_tls: bool = True
    """Whether an https server must prove who it is. False is for trials only."""

    requests_per_address: int = Field(default=4, ge=1, le=256)
    """Requests that one server has at once."""

    request_tokens: int = Field(default=4096, ge=16, le=1 << 20)
    """Tokens of one request; a longer record is a request of its own."""

    timeout_s: float = Field(default=120, gt=0, le=LONGEST_S)
    """How long one request may take, its answer read to the end, before it is given up."""

    patience_s: float = Field(default=10, ge=0, le=LONGEST_S)
    """How long work waits for the first server to come back when all are away. Then a pool keeps it
    in the router's queue, until its deadline; a scorer without a pool raises `ServersAway`."""

    @model_validator(mode="after")
    def _reachable(self) -> "RemoteEngineConfig":
        for address in self.addresses:
            if not re.match(r"((sglang|vllm|lmdeploy)\+)?https?://[^?#]+$", address):
                raise ValueError(f"addresses has {address!r:.80}, which is no http:// or https://")
        if len({url for _, url in self.kinds_and_urls}) < len(self.addresses):
            raise ValueError("addresses names a server twice")
        if self.ca_file is not None and not self.verify_tls:
            raise ValueError("ca_file says whom to trust, verify_tls=false to trust anybody")
        return self

    @property
    def kinds_and_urls(self) -> list[tuple[str, str]]:
        """Of each server what it is, and where, in the order of `addresses`."""
        apart = [address.rstrip("/").rpartition("+http") for address in self.addresses]
        return [(kind or self.server, ("http" * bool(plus)) + url) for kind, plus, url in apart]


SGLANG_OWN_ARGS = frozenset({
    "context_length", "data_parallel_size", "device", "dp_size", "dtype", "is_embedding",
    "log_level", "max_total_tokens", "mem_fraction_static", "model_path", "skip_tokenizer_init",
    "tensor_parallel_size", "tokenizer_path", "tp_size", "trust_remote_code",
})  # fmt: skip
"""Arguments of sglang's that polar_ray sets itself."""

SGLangArg = bool | int | float | str


def _typed(value: Any) -> Any:
    """A number or a truth that came as text, as those of a command line do."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value
    return found if isinstance(found, bool | int | float) else value


class SGLangEngineConfig(Config):
    """sglang, in a process and an environment of its own beside each replica."""

    type: Literal["sglang"] = "sglang"
    """sglang, which runs in a process of its own, with the libraries that it pins."""

    python: str | None = None
    """The interpreter of the environment that has sglang, on every node that scores
    (`/envs/sglang/bin/python`). None: that of polar_ray itself, which must then have sglang."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where sglang's environment sees one."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on cuda, float32 on a CPU."""

    num_threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads of the forward pass (OMP_NUM_THREADS). None: as the environment has it."""

    tensor_parallel_size: int = Field(default=1, ge=1, le=64)
    """Devices of one node among which every layer is divided; reserve as many by num_gpus."""

    data_parallel_size: int = Field(default=1, ge=1, le=64)
    """Copies of the model that sglang feeds by itself. More replicas do the same and keep groups
    together."""

    context_length: int | None = Field(default=None, ge=16, le=1 << 24)
    """Tokens of the longest record. None: as many as POLAR asks for, or the model's window if that
    is smaller."""

    max_total_tokens: int | None = Field(default=None, ge=32, le=1 << 32)
    """Tokens whose keys and values are kept, above `context_length`. None: what
    `mem_fraction` leaves on cuda, twice the longest record on a CPU."""

    mem_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Share of a GPU's memory for weights, keys and values. None: sglang's own choice."""

    start_timeout_s: float = Field(default=1200, gt=0, le=LONGEST_S)
    """How long sglang may take to load a model, or to take other weights."""

    answer_timeout_s: float = Field(default=600, gt=0, le=LONGEST_S)
    """How long one pack may take before sglang counts as lost. A pool's watchdog knows sooner."""

    server_args: dict[str, Annotated[SGLangArg, BeforeValidator(_typed)]] = Field(default={})
    """More arguments of sglang's `ServerArgs` (`chunked_prefill_size: 4096`)."""

    @model_validator(mode="after")
    def _fits_together(self) -> "SGLangEngineConfig":
        if own := sorted(SGLANG_OWN_ARGS & self.server_args.keys()):
            raise ValueError(
                f"server_args has {', '.join(own)}, which polar_ray sets; for most of them the "
                "engine has a setting"
            )
        longest, total = self.context_length, self.max_total_tokens
        if longest is not None and total is not None and total < longest + 8:
            raise ValueError(
                f"max_total_tokens={total} must be at least 8 above context_length={longest}: "
                "sglang never answers to a record that fills it"
            )
        return self


def _native_unless_said(value: Any) -> Any:
    """`engine.device=cpu` alone means the native engine."""
    if isinstance(value, str):
        raise ValueError(f"{value!r:.40} is no block of settings; write engine.type={value:.40}")
    return {"type": "native", **value} if isinstance(value, dict) else value


EngineConfig = Annotated[
    NativeEngineConfig | RemoteEngineConfig | SGLangEngineConfig | StubEngineConfig,
    Field(discriminator="type"),
    BeforeValidator(_native_unless_said),
]


class ScorerConfig(Config):
    """One scorer in one process."""

    model: str | None = None
    """A checkpoint directory, which every node that scores can read, or a hub's name for a model,
    OWNER/NAME or OWNER/NAME@REVISION, which each of them fetches into its cache. None: the small
    model that ships with the package."""

    encoding: EncodingConfig = EncodingConfig()
    """How text becomes token ids."""

    engine: EngineConfig = NativeEngineConfig()
    """What computes scores from token ids."""

    max_tokens: int | None = Field(default=None, ge=16)
    """Tokens of one forward pass (a pack). A longer record is a pack of its own. None: what the
    engine finds room for at its start."""


class HostConfig(ScorerConfig):
    """Whatever runs scorers elsewhere: a scorer's settings, and its own."""

    @property
    def scorer(self) -> ScorerConfig:
        """What each replica or worker runs."""
        return ScorerConfig(**{name: getattr(self, name) for name in ScorerConfig.model_fields})


class HttpConfig(Config):
    """The HTTP side of a pool."""

    max_body_bytes: int = Field(default=64 << 20, ge=1)
    """A larger request body, or one that unpacks to more, is refused with 413."""

    max_rows: int = Field(default=100_000, ge=1)
    """A batch of more records is refused with 413."""

    body_timeout_s: float = Field(default=120, gt=0, le=LONGEST_S)
    """A body that takes longer to arrive is refused, whatever the deadline of its call: who sends
    byte by byte must not hold a place for hours."""

    token_file: str | None = None
    """A file with one bearer token a line, on every node with a router; read again when it changes.
    None: no token is asked for, and HTTP may listen on this machine only."""


class AdmissionConfig(Config):
    """What a router holds at once, over all callers; beyond it calls are refused with 429."""

    max_calls: int = Field(default=10_000, ge=1)
    """Calls that are being served or wait. `eval` calls may fill 80 %, `offline` calls half."""

    max_bytes: int = Field(default=1 << 30, ge=1)
    """Bytes of their batches. `eval` calls may fill 80 %, `offline` calls half of it."""


class ScalingConfig(Config):
    """When a pool with `max_replicas` grows and shrinks."""

    target_wait_s: float = Field(default=20, gt=0, le=LONGEST_S)
    """Seconds of work for each replica, at the speed that they show, up to which they are left to
    it. More than that asks for more replicas; below the time that one takes to load, they come too
    late to help."""

    upscale_delay_s: float = Field(default=5, ge=0, le=LONGEST_S)
    """More is asked for during so long before replicas start."""

    downscale_delay_s: float = Field(default=600, ge=0, le=LONGEST_S)
    """Replicas stop that were not needed at any time during so long. Longer than the pause between
    two steps of training: to load a model again costs more than a replica that waits."""


class PoolConfig(HostConfig):
    """A pool: how many replicas of which scorer, and its limits."""

    num_replicas: int | None = Field(default=None, ge=1)
    """How many replicas there are, always. None: 1, or what `max_replicas` allows."""

    min_replicas: int | None = Field(default=None, ge=0)
    """With `max_replicas`: how many there are at least. 0: none while there is nothing to do; the
    first call waits until one has loaded. None: 1."""

    max_replicas: int | None = Field(default=None, ge=1)
    """Start and stop replicas by the work that waits, up to so many. What the cluster has no room
    for starts once it has. None: there are always `num_replicas`."""

    autoscaling: ScalingConfig | None = None
    """With `max_replicas`: when replicas start and stop. None: by the defaults."""

    num_cpus: float = Field(default=1, ge=0)
    """CPUs that Ray reserves for each replica."""

    num_gpus: float = Field(default=0, ge=0)
    """GPUs that Ray reserves for each replica."""

    runtime_env: dict[str, Any] = Field(default={})
    """Ray's runtime environment of the replicas, which Ray makes on each node: `uv` or `pip` with
    packages, `py_executable`, `image_uri`, `env_vars`. Its Python has polar_ray and the cluster's
    own Ray."""

    timeout_s: float = Field(default=600, gt=0, le=LONGEST_S)
    """Deadline of a call that names none."""

    min_shard_bytes: int = Field(default=SHARD_BYTES, ge=1)
    """A batch smaller than two of these is not divided at all."""

    num_routers: int = Field(default=1, ge=1)
    """Processes that divide batches among the replicas. Each carries some hundred calls a second,
    or some thousand small ones that clients join."""

    router_num_cpus: float = Field(default=0, ge=0)
    """CPUs that Ray reserves for each router. It waits more than it works, and 0 leaves a small
    machine all of them to score; but what reserves none may run on a head that has none (`ray start
    --head --num-cpus=0`), where no work belongs: 1 keeps routers off it."""

    admission: AdmissionConfig = AdmissionConfig()
    """How much a router holds at once."""

    http: HttpConfig = HttpConfig()
    """The HTTP side: limits and tokens."""

    @model_validator(mode="after")
    def _fixed_or_scaled(self) -> "PoolConfig":
        if self.max_replicas is None:
            for name in ("min_replicas", "autoscaling"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} needs max_replicas, and there is none")
        elif self.num_replicas is not None:
            raise ValueError(
                f"num_replicas={self.num_replicas} is a fixed number of replicas, "
                f"max_replicas={self.max_replicas} lets it change; drop one of them"
            )
        elif self.least_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas={self.min_replicas} is more than max_replicas={self.max_replicas}"
            )
        return self

    @property
    def least_replicas(self) -> int:
        """How many replicas there are when there is nothing to do."""
        given = self.num_replicas if self.max_replicas is None else self.min_replicas
        return 1 if given is None else given

    @property
    def most_replicas(self) -> int:
        """How many replicas there can be."""
        return self.max_replicas or self.least_replicas


class ColumnsConfig(Config):
    """Where the record is in a dataset's rows."""

    prompt: str | None = None
    """Column, or path within one (`extra_info.prompt`). None: the usual names."""

    reference: str | None = None
    """Column, or path within one (`reward_model.ground_truth`). None: the usual names."""

    output: str | None = None
    """Column, or path within one. None: the usual names."""

    wrapper: str | None = None
    """Column of the template, sft or pretrain. None: `wrapper`, where there is one."""

    strip_think: bool = False
    """Leave `<think>...</think>` out of the outputs before they are scored."""


class EvalConfig(ColumnsConfig, HostConfig):
    """`polar-ray eval`: where the columns are, and who scores what has no scores yet."""


class PreferencesConfig(EvalConfig):
    """`polar-ray eval`: where the columns are. `chosen` and `rejected` are for `preferences`."""

    chosen: str = "chosen"
    """Column, or path within one, of the better outputs."""

    rejected: str = "rejected"
    """Column, or path within one, of the others."""

    @model_validator(mode="after")
    def _two_outputs(self) -> "PreferencesConfig":
        if self.output is not None:
            raise ValueError(f"output={self.output}: preferences have chosen= and rejected=")
        return self


class ScoreConfig(ColumnsConfig, HostConfig):
    """`polar-ray score`: where the columns are, who scores, and what is written."""

    id: str | None = None
    """Column, or path within one, that the results keep as `id`. None: `id`, where there is one."""

    keep_columns: bool = False
    """Write the input's columns before those of the results."""

    prefix: str = ""
    """Put before the names of the results' columns."""


class RescoreConfig(ColumnsConfig, HostConfig):
    """A job that rescores a dataset: where its columns are, who scores, how it is cut."""

    prefix: str = ""
    """Put before the names of the columns that are added."""

    num_workers: int = Field(default=0, ge=0)
    """Replicas of a pool that is started for the job, on the Ray cluster at hand or a local one. 0:
    one scorer in this process, without Ray; it cannot survive a record that ends the process, as
    a pool does."""

    num_cpus: float = Field(default=1, ge=0)
    """CPUs that Ray reserves for each replica."""

    num_gpus: float = Field(default=0, ge=0)
    """GPUs that Ray reserves for each replica."""

    runtime_env: dict[str, Any] = Field(default={})
    """Ray's runtime environment of the replicas, as a pool has it."""

    app_name: str | None = None
    """A running pool of this Ray cluster that scores instead; tasks on all its nodes read and write
    the files."""

    address: str | None = None
    """A running pool elsewhere, "http://host:port", that scores instead; this process reads and
    writes the files."""

    token_file: str | None = None
    """A file with the token for `address` in its first line."""

    timeout_s: float = Field(default=600, gt=0, le=LONGEST_S)
    """Deadline of one call of a pool."""

    patience_s: float = Field(default=3600, gt=0, le=LONGEST_S)
    """How long a pool may take to start, or fail to score a part because it restarts or has more
    urgent work, before the job stops."""

    rows_per_part: int = Field(default=4096, ge=1)
    """Rows of one output file. What is at work when the job is killed is done again: at most
    `in_flight` parts, or twice as many for each replica."""

    in_flight: int = Field(default=3, ge=1)
    """Parts that are at work at once, one being scored, the others being read or written; with a
    pool of this cluster, tasks for each of its replicas, which have two parts at work."""

    group: Literal["auto", "always", "never"] = "auto"
    """Bring records of one prompt and reference together across parts; rows then leave in the order
    of their groups. auto: where that saves a tenth of the work."""

    on_corrupt: Literal["stop", "skip"] = "stop"
    """What to do about an input that cannot be read. skip: leave it out and list it."""

    max_errors: int | None = Field(default=None, ge=0)
    """Stop once more rows than this have no score."""

    @model_validator(mode="after")
    def _one_scorer(self) -> "RescoreConfig":
        if self.app_name is not None and self.address is not None:
            raise ValueError("app_name and address are two pools; name one")
        if self.uses_pool and self.model_fields_set & {
            "model", "engine", "encoding", "max_tokens", "num_workers", "num_gpus", "num_cpus",
            "runtime_env",
        }:  # fmt: skip
            raise ValueError("a pool has a model and workers of its own; drop those settings")
        if self.token_file is not None and self.address is None:
            raise ValueError(f"token_file={self.token_file} is for an address, and there is none")
        if self.runtime_env and not self.num_workers:
            raise ValueError(
                "runtime_env is for replicas: it needs num_workers, and there are none"
            )
        return self

    @property
    def uses_pool(self) -> bool:
        """Whether a running pool scores."""
        return self.app_name is not None or self.address is not None
