"""The coordinator's Prometheus series: what each means. `observer` counts some of them, `collector` reads others."""

from worker.telemetry.series import Series

# a token of the demo model takes a millisecond, a whole answer may take many minutes
INTERVALS = (1e-3, 2.5e-3, 5e-3, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0)
DURATIONS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
LENGTHS = tuple(float(2**power) for power in range(0, 21, 2))

NO_REQUEST = "until the first request"
NOT_BEATING = "for a stage without a heartbeat: down, starting or loading"

INFO = Series(
    name="stageline_info",
    kind="gauge",
    unit="1",
    meaning="Always 1; says which version serves which model in how many stages",
    labels=("version", "model", "stages"),
)
READY = Series(name="stageline_ready", kind="gauge", unit="0 or 1", meaning="Whether requests can run now")
EPOCH = Series(
    name="stageline_epoch",
    kind="gauge",
    unit="number",
    meaning="The epoch of the links; the next one begins when a stage is lost",
)
STAGE_UP = Series(
    name="stageline_stage_up",
    kind="gauge",
    unit="0 or 1",
    meaning="Whether the stage is loaded and linked; it is still listed when its worker is gone",
    labels=("stage",),
)
HEARTBEAT_AGE = Series(
    name="stageline_stage_heartbeat_age_seconds",
    kind="gauge",
    unit="seconds",
    meaning="Time since the worker's last heartbeat came; there are two a second",
    labels=("stage",),
    empty=NOT_BEATING,
)
RESTARTS = Series(
    name="stageline_stage_restarts_total",
    kind="counter",
    unit="restarts",
    meaning="How often the stage's worker was started again",
    labels=("stage",),
)
REFUSED = Series(
    name="stageline_refused_connections_total",
    kind="counter",
    unit="connections",
    meaning="Connections that the control link or an agent turned away, by reason; none in a cluster without keys",
    labels=("reason",),
)
RUNNING = Series(
    name="stageline_requests_running",
    kind="gauge",
    unit="requests",
    meaning="Requests whose state the stages hold",
)
WAITING = Series(
    name="stageline_requests_waiting",
    kind="gauge",
    unit="requests",
    meaning="Requests that wait for a place",
)
QUEUE_SECONDS = Series(
    name="stageline_request_queue_seconds",
    kind="histogram",
    unit="seconds",
    meaning="From a request's arrival until its first rows are ordered",
    buckets=DURATIONS,
    empty=NO_REQUEST,
)
FIRST_TOKEN_SECONDS = Series(
    name="stageline_time_to_first_token_seconds",
    kind="histogram",
    unit="seconds",
    meaning="From a request's arrival until its first token arrives at the coordinator",
    buckets=DURATIONS,
    empty=NO_REQUEST,
)
INTER_TOKEN_SECONDS = Series(
    name="stageline_inter_token_seconds",
    kind="histogram",
    unit="seconds",
    meaning="From one token of a request to its next one, as they arrive at the coordinator",
    buckets=INTERVALS,
    empty="until the second token of a request",
)
REQUEST_SECONDS = Series(
    name="stageline_request_seconds",
    kind="histogram",
    unit="seconds",
    meaning="From a request's arrival to its end, whatever the reason",
    buckets=DURATIONS,
    empty="until the first request has ended",
)
PROMPT_LENGTH = Series(
    name="stageline_request_prompt_tokens",
    kind="histogram",
    unit="tokens",
    meaning="Prompt lengths of the requests that have ended",
    buckets=LENGTHS,
    empty="until the first request has ended",
)
GENERATED_LENGTH = Series(
    name="stageline_request_generated_tokens",
    kind="histogram",
    unit="tokens",
    meaning="Answer lengths of the requests that have ended",
    buckets=LENGTHS,
    empty="until the first request has ended",
)
PROMPT_TOKENS = Series(
    name="stageline_prompt_tokens_total",
    kind="counter",
    unit="tokens",
    meaning="Prompt tokens of the requests that have got a place",
)
GENERATED_TOKENS = Series(
    name="stageline_generated_tokens_total",
    kind="counter",
    unit="tokens",
    meaning="Tokens that clients were given",
)
PREFIX_QUERIES = Series(
    name="stageline_prefix_queries_total",
    kind="counter",
    unit="requests",
    meaning="Prompts that were looked up among the snapshots; none is while snapshots are off",
)
PREFIX_HITS = Series(
    name="stageline_prefix_hits_total",
    kind="counter",
    unit="requests",
    meaning="Those that began from a snapshot",
)
PREFIX_TOKENS = Series(
    name="stageline_prefix_tokens_total",
    kind="counter",
    unit="tokens",
    meaning="Prompt tokens that were known from a snapshot and not computed again",
)
PREFIX_SNAPSHOTS = Series(
    name="stageline_prefix_snapshots",
    kind="gauge",
    unit="snapshots",
    meaning="Snapshots that prompts can begin from: all stages hold them",
)
PREFIX_EVICTIONS = Series(
    name="stageline_prefix_evictions_total",
    kind="counter",
    unit="snapshots",
    meaning="Snapshots that had to make room for others",
)
FINISHED = Series(
    name="stageline_requests_finished_total",
    kind="counter",
    unit="requests",
    meaning="Requests that have ended, by reason: stop, length, cancelled (the client left) or error",
    labels=("reason",),
)
REJECTED = Series(
    name="stageline_requests_rejected_total",
    kind="counter",
    unit="requests",
    meaning="HTTP requests that were refused or failed before they got a place, by the code of the error; none "
    "counts as finished",
    labels=("code",),
    empty="until the first refusal",
)

SERIES = (
    INFO,
    READY,
    EPOCH,
    STAGE_UP,
    HEARTBEAT_AGE,
    RESTARTS,
    REFUSED,
    RUNNING,
    WAITING,
    QUEUE_SECONDS,
    FIRST_TOKEN_SECONDS,
    INTER_TOKEN_SECONDS,
    REQUEST_SECONDS,
    PROMPT_LENGTH,
    GENERATED_LENGTH,
    PROMPT_TOKENS,
    GENERATED_TOKENS,
    PREFIX_QUERIES,
    PREFIX_HITS,
    PREFIX_TOKENS,
    PREFIX_SNAPSHOTS,
    PREFIX_EVICTIONS,
    FINISHED,
    REJECTED,
)
