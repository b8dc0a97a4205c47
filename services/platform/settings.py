"""Settings of every service, read from `PIECEWORK_…` environment variables; secrets reach only those who use them."""

import os
import ssl
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.contract.fields import DURATION, SIZE, Kept
from services.contract.layout import Layout
from services.contract.location import Location
from services.contract.secret import Reference
from services.contract.states import Isolation

LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(str.upper)]

Seconds = Annotated[PositiveFloat, DURATION]
WholeSeconds = Annotated[PositiveInt, DURATION]
Bytes = Annotated[PositiveInt, SIZE]

ANYWHERE = "*"


def _check_places(places: str) -> str:
    for place in filter(None, map(str.strip, places.split(","))):
        if place != ANYWHERE:
            Location.parse(place if place.count("/") > 2 else f"{place}/")
    return places


def _check_queues(queues: str) -> str:
    for arn in filter(None, map(str.strip, queues.split(","))):
        if arn != ANYWHERE and not (arn.startswith("arn:") and arn.count(":") == 5):
            raise ValueError(f"{arn!r} is not a queue's ARN; write arn:aws:sqs:region:account:name")
    return queues


Places = Annotated[str, AfterValidator(_check_places)]
QueueNames = Annotated[str, AfterValidator(_check_queues)]


def _check_topics(topics: str) -> str:
    for arn in filter(None, map(str.strip, topics.split(","))):
        if arn != ANYWHERE and not (arn.startswith("arn:") and arn.count(":") == 5 and arn.split(":")[2] == "sns"):
            raise ValueError(f"{arn!r} is not a topic's ARN; write arn:aws:sns:region:account:name")
    return topics


TopicNames = Annotated[str, AfterValidator(_check_topics)]


def _check_ports(ports: str) -> str:
    if not all(port.strip().isdecimal() and 0 < int(port) < 65_536 for port in ports.split(",")):
        raise ValueError("write numbers of ports, such as 80,443,8443")
    return ports


# What asyncpg and Postgres's own programs both understand in a URL.
_URL_OPTIONS = (
    *("host", "port", "user", "password", "dbname", "passfile", "application_name", "target_session_attrs"),
    *("sslmode", "sslrootcert", "sslcert", "sslkey"),
)


def _check_database_url(url: str) -> str:
    query = parse_qs(urlsplit(url).query, keep_blank_values=True)
    if unknown := sorted(set(query) - set(_URL_OPTIONS)):
        raise ValueError(f"it has the option {unknown[0]!r}; there are only {', '.join(_URL_OPTIONS)}")
    for mode in query.get("sslmode", []):
        if mode not in (*_TLS_MODES, "allow"):
            raise ValueError(f"its sslmode is {mode!r}; write one of {', '.join(_TLS_MODES)}")
    for file in query.get("sslrootcert", []):
        _check_certificates(file)
    return url


def _check_certificates(file: str) -> str:
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror if not isinstance(error, ssl.SSLError) else "it has no certificate in PEM form"
        raise ValueError(f"{file} can't be read: {reason}") from None
    return file


_TLS_MODES = ("disable", "prefer", "require", "verify-ca", "verify-full")
TlsMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
DatabaseUrl = Annotated[str, Field(pattern="^postgresql://"), AfterValidator(_check_database_url)]


def _check_source(source: str) -> str:
    if source.startswith("file:"):
        if not Path(source.removeprefix("file:")).is_absolute():
            raise ValueError(f"{source!r} is not a file's absolute path; write file:/run/…")
    elif Reference.parse(source).source not in ("secretsmanager", "ssm"):
        raise ValueError(f"{source!r} is not a source; write file:/PATH, or the ARN of a secret or of a parameter")
    return source


# Where a secret of the grid's own is: file:/PATH, or an ARN of Secrets Manager (with #KEY, of JSON) or of a parameter.
SecretSource = Annotated[str, AfterValidator(_check_source)]
PasswordSource = Annotated[str, AfterValidator(lambda source: source if source == "iam" else _check_source(source))]
CertificateFile = Annotated[str, AfterValidator(_check_certificates)]

Ports = Annotated[str, AfterValidator(_check_ports)]
SecretKey = Annotated[Annotated[str, Field(min_length=32)] | None, BeforeValidator(lambda value: value or None)]

HealthPort = Annotated[
    Annotated[int, Field(ge=0, le=65_535)] | None, BeforeValidator(lambda value: None if value == "" else value)
]

_SECRETS = ("database_url", "bootstrap_api_key", "secret_key", "metrics_key", "smtp_password")


class Settings(BaseSettings):
    """What a service needs to find the database, the queues and the bucket, and to pace its work.

    Durations are in seconds, sizes in bytes, unless they have a unit: `2h`, `16MiB`. AWS credentials and region come
    from the usual AWS variables.
    """

    model_config = SettingsConfigDict(env_prefix="PIECEWORK_", extra="ignore")

    database_url: DatabaseUrl = "postgresql://postgres@127.0.0.1:5432/piecework"
    database_tls: TlsMode | None = Field(
        None, description="verify-full: only with the server that the URL names; unset: as the URL's sslmode says"
    )
    database_ca: CertificateFile | None = Field(
        None, description="file of the CA certificates that the server's must come from; it means verify-full"
    )
    database_password_from: PasswordSource | None = Field(
        None,
        description="the password, read again when the server refuses it: file:/PATH or an ARN; iam: a token of RDS",
    )
    database_connections_max: PositiveInt = 10
    database_seconds: Annotated[Seconds, Field(ge=1, le=60)] = Field(
        10.0,
        description="how long a statement may take, or a process that stands still in a transaction may hold up others",
    )

    aws_endpoint_url: str | None = Field(
        None, pattern="^https?://", description="S3, SQS and Auto Scaling emulator; unset for AWS"
    )
    s3_read_seconds: Seconds = Field(
        20.0, description="S3 must answer, or send more of a body, this soon; an attempt tries for six times as long"
    )
    s3_floor_bytes: Bytes = Field(
        65_536, description="a second, over s3_read_seconds: what is slower is broken off, and goes on from there"
    )
    bucket: str = "piecework"
    bucket_owner: str | None = Field(
        None, pattern=r"^\d{12}$", description="AWS account that the bucket must belong to; unset: any"
    )
    prefix: str = Field("", description="key prefix inside the bucket, without leading and trailing slashes")

    read_from: Places = Field(
        "",
        description="where jobs may read besides uploads and jobs' results: s3://bucket/prefix, separated by commas; "
        "* is anywhere",
    )
    write_to: Places = Field("", description="where jobs may have results, in the same form; Piecework's own place is")
    queues: QueueNames = Field(
        "", description="queues of output_queue and of triggers: ARNs, possibly with *, separated by commas; * is any"
    )

    stages_max: PositiveInt = 20
    items_max: PositiveInt = 10_000
    requests_per_second: PositiveFloat = Field(
        200.0, description="of each API key to each process; ten seconds' worth may come at once"
    )
    failures_per_second: PositiveFloat = Field(
        10.0, description="requests without a good API key, from each address; ten seconds' worth may come at once"
    )
    memory_bytes_max: Bytes = Field(1_099_511_627_776, description="highest memory_bytes that a stage may have")
    key_jobs_max: PositiveInt = Field(
        5_000, description="jobs of a key that have not ended, unless it has its own quota"
    )
    key_tasks_max: PositiveInt = Field(1_000_000_000, description="tasks of these jobs")
    key_schedules_max: PositiveInt = 200
    key_triggers_max: PositiveInt = 100
    key_upload_bytes_max: Bytes = Field(10 * 2**40, description="of a key's uploads that are not completed")
    key_upload_bytes_day_max: Bytes = Field(50 * 2**40, description="of all its uploads of the last 24 hours")
    share_jobs_max: PositiveInt = Field(20_000, description="jobs of a share that have not ended, whatever their keys")
    share_tasks_max: PositiveInt = Field(4_000_000_000, description="tasks of these jobs")

    lease_seconds: Seconds = Field(30.0, description="a worker without a heartbeat for this long loses its tasks")
    heartbeat_seconds: Seconds = 5.0
    resend_seconds: Seconds = Field(60.0, description="an unclaimed bundle is sent again after this long")
    loop_seconds: Seconds = Field(0.1, description="pause between the steps of a busy scheduler loop")
    idle_seconds: Seconds = Field(
        5.0, description="pause of an idle scheduler loop; a NOTIFY ends it early, and one look a pause is for all"
    )
    bundle_seconds: Seconds = Field(0.5, description="target amount of work per SQS message")
    bundle_tasks_max: int = Field(500, ge=1, le=1_000_000)
    window_bundles: PositiveFloat = Field(2.0, description="unclaimed bundles to keep queued per slot of a pool")
    window_seconds: Seconds = Field(5.0, description="if tasks are long, queue at most this much work per slot")
    ready_tasks_max: PositiveInt = Field(
        10_000, description="make no more tasks of a stage while this many are ready, or 100 for each slot of its pool"
    )
    losses_max: PositiveInt = Field(5, description="a task fails after this many lost workers")

    straggler_factor: PositiveFloat = Field(3.0, description="a task is late after this multiple of its stage's mean")
    straggler_seconds: Seconds = Field(5.0, description="minimum age of a late task")

    scale_seconds: Seconds = Field(5.0, description="pause between two checks of a pool's capacity")
    scale_out_seconds: Seconds = Field(60.0, description="add nodes until the backlog takes at most this long")
    scale_in_seconds: Seconds = Field(120.0, description="drain a surplus node that is idle for this long")
    register_seconds: Seconds = Field(
        600.0, description="an instance of a pool's group without a live worker for this long is replaced"
    )

    secret_key: SecretKey = Field(
        None,
        description="what makes webhook secrets: random text of 32 characters or more, the same for API and schedulers",
    )
    webhook_private_addresses: bool = Field(
        False, description="allow webhooks to private and loopback addresses, at any port"
    )
    webhook_ports: Ports = Field("80,443,8443", description="ports that webhooks may go to, separated by commas")
    webhook_hours: PositiveFloat = 24.0
    webhook_disable_days: PositiveFloat = Field(
        5.0, description="an endpoint that has failed for so long, without a success, is disabled"
    )

    smtp_host: str | None = Field(None, description="the mail server of alerts; unset: none can be told by e-mail")
    smtp_port: Annotated[int, Field(ge=1, le=65_535)] = 587
    smtp_tls: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="tls: from the first byte, as at port 465; none: in the clear, for a relay of this host"
    )
    smtp_ca: CertificateFile | None = Field(None, description="the CA certificates that it is trusted by; unset: usual")
    smtp_user: str | None = Field(None, description="who logs in; unset: nobody does")
    smtp_password: str | None = None
    smtp_password_from: SecretSource | None = Field(None, description="the same, in file:/PATH or an ARN")
    smtp_from: str | None = Field(
        None, pattern=r"^[^\r\n]*[^\s@<>]+@[^\s@<>]+>?$", description="the sender: grid@example.com, or Name <…>"
    )
    alert_topics: TopicNames = Field(
        "", description="SNS topics that alerts may go to: ARNs, possibly with *, separated by commas; * is any"
    )

    uploads_open_seconds: Seconds = Field(604_800.0, description="an upload that is not completed by then is aborted")
    keep_uploads: Kept = Field("forever", description="how long uploads are kept that no job, schedule or trigger uses")
    keep_packages: Kept = Field("forever", description="how long packages are kept that no version of a processor uses")

    audit_days: Annotated[int, Field(ge=7)] = Field(400, description="how long the audit log is kept")
    metrics_key: str | None = Field(None, description="the bearer that /metrics asks for; unset: none")

    health_host: str = Field("127.0.0.1", description="where scheduler and worker answer probes; 0.0.0.0 is anywhere")
    health_port: HealthPort = Field(None, description="0 is any free one; unset: they answer none")
    hung_seconds: Seconds = Field(120.0, description="a loop whose step takes longer hangs: /healthz says so")

    log_level: LogLevel = "INFO"

    @model_validator(mode="after")
    def _one_word_on_tls(self) -> Self:
        given = parse_qs(urlsplit(self.database_url).query)
        for name, option in (("database_tls", "sslmode"), ("database_ca", "sslrootcert")):
            if getattr(self, name) is not None and option in given:
                raise contradiction(name, f"PIECEWORK_DATABASE_URL has {option}, too; leave one of them out")
        verifies = (self.database_tls or "").startswith("verify-")
        if verifies and self.database_ca is None and "sslrootcert" not in given:
            raise contradiction("database_ca", f"set it, since PIECEWORK_DATABASE_TLS is {self.database_tls}")
        if self.database_ca is not None and self.database_tls is not None and not verifies:
            raise contradiction("database_tls", "PIECEWORK_DATABASE_CA is set, which needs verify-full or verify-ca")
        return self

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        place = urlsplit(self.database_url)
        given = parse_qs(place.query)
        if self.database_password_from is not None and (place.password is not None or "password" in given):
            raise contradiction(
                "database_password_from", "PIECEWORK_DATABASE_URL has a password; leave one of them out"
            )
        if self.database_password_from == "iam":
            if not place.hostname or place.username is None or "," in place.netloc:
                raise contradiction(
                    "database_url", "iam needs the server's name and the user in it: …//user@host:port/"
                )
            if not (self.database_ca or "sslrootcert" in given):
                raise contradiction("database_ca", "set it: iam's token is for no other server than RDS")
        return self

    @model_validator(mode="after")
    def _whole_mail_server(self) -> Self:
        if self.smtp_password is not None and self.smtp_password_from is not None:
            raise contradiction("smtp_password", "PIECEWORK_SMTP_PASSWORD_FROM is set, too; leave one of them out")
        if self.smtp_host is not None and self.smtp_from is None:
            raise contradiction("smtp_from", "set it, since PIECEWORK_SMTP_HOST is set: mail needs a sender")
        has_password = self.smtp_password is not None or self.smtp_password_from is not None
        if (self.smtp_user is not None) != has_password:
            raise contradiction("smtp_user", "a login needs both a user and a password; set both, or none")
        if has_password and self.smtp_tls == "none":
            raise contradiction(
                "smtp_tls", "it is none, and a password must not go in the clear; write starttls or tls"
            )
        return self

    def webhooks_may_use(self, port: int) -> bool:
        """Whether webhooks may go to this port."""
        return self.webhook_private_addresses or port in map(int, self.webhook_ports.split(","))

    @property
    def layout(self) -> Layout:
        """Where the services write in S3."""
        return Layout(self.bucket, self.prefix)


class ApiSettings(Settings):
    """The API."""

    bootstrap_api_key: str | None = Field(None, description="registered as an operator's key if there is no key yet")
    bootstrap_api_key_from: SecretSource | None = Field(
        None, description="the same, in file:/PATH or an ARN, which is read only if there is no key yet"
    )
    queue_prefix: str = Field(
        "piecework-",
        pattern="^[A-Za-z0-9_-]{0,40}$",
        description="of the queues that `pools put` makes; each grid of an account and region needs its own",
    )
    body_bytes_max: Bytes = 1_048_576
    link_seconds: WholeSeconds = Field(3600, description="how long presigned links stay valid")

    @model_validator(mode="after")
    def _one_bootstrap_key(self) -> Self:
        if self.bootstrap_api_key is not None and self.bootstrap_api_key_from is not None:
            raise contradiction(
                "bootstrap_api_key", "PIECEWORK_BOOTSTRAP_API_KEY_FROM is set, too; leave one of them out"
            )
        return self


def _state_directory() -> Path:
    """Where a worker keeps its files, and nobody cleans up as in /tmp: for all users, or else for its own.

    https://specifications.freedesktop.org/basedir-spec/latest/
    """
    for_all = Path("/var/lib/piecework")
    if os.access(for_all if for_all.exists() else for_all.parent, os.W_OK):
        return for_all
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".local" / "state") / "piecework"


_AWS_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


class WorkerSettings(Settings):
    """One worker node."""

    database_pooler: bool = Field(
        False, description="the database's URL is that of PgBouncer, with a session for each transaction"
    )
    pool: str = "default"
    slots: PositiveInt = 2
    cpus: PositiveFloat | None = Field(
        None, description="cores for tasks; unset: those of the machine or its container"
    )
    memory: Annotated[PositiveInt | None, SIZE] = Field(
        None, description="memory for tasks; unset: that of the machine or its container, without a reserve"
    )
    gpus: Annotated[int, Field(ge=0)] | None = Field(None, description="GPUs for tasks; unset: NVIDIA's that are found")
    disk: Annotated[PositiveInt | None, SIZE] = Field(
        None, description="disk space for tasks that ask for some; unset: what is free when the worker starts"
    )
    instance_id: str | None = Field(
        None, description="EC2 instance, so that a drained node can terminate itself; unset: as EC2 says"
    )
    scratch: str = Field(
        default_factory=lambda: str(_state_directory() / "scratch"),
        description="directory of the tasks' private working directories",
    )
    cache: str = Field(
        default_factory=lambda: str(_state_directory() / "cache"),
        description="directory of the packages' code and environments",
    )
    node_faults_max: PositiveInt = Field(
        3, description="attempts in a row that this node could not run, after which it takes itself out of service"
    )
    disk_bytes_min: Bytes = Field(
        64 << 20, description="free disk space without which a node is unfit; on a small disk, a twentieth of it"
    )
    packages_max: PositiveInt = Field(
        50, description="packages kept in the cache; beyond that, the least recently used are removed if they are idle"
    )
    inputs_bytes_max: Bytes = Field(
        10_737_418_240, description="disk space for the objects that processors declare as inputs"
    )
    container_engine: str = Field(
        "",
        pattern="^(none|unix://.*)?$",
        description="socket of Docker or Podman, such as unix:///run/docker.sock; none: use none; unset: one of the "
        "usual ones, if it answers",
    )
    images_bytes_max: Bytes = Field(
        21_474_836_480, description="disk space for the images that workers have pulled; the least used go first"
    )
    registries: str = Field(
        "", description="file with the credentials of private registries but ECR, in the form of Docker's config.json"
    )
    processor_path: str = Field("", description="directories put on PYTHONPATH of user code, colon-separated")
    secrets: str = Field("/run/secrets", description="directory of the files that processors name as secrets")
    task_environment: str = Field(
        "",
        description="variables of the worker's environment that tasks inherit beside the usual ones, comma-separated; "
        "a * in a name stands for anything",
    )
    task_role: str = Field(
        "",
        pattern=r"^(arn:[^:]+:iam::\d{12}:role/.+)?$",
        description="ARN of the role of which tasks get AWS credentials; unset: they get none",
    )
    isolation: Isolation | None = Field(
        None, description="how strongly tasks are kept apart; unset: the strongest level that works here"
    )
    task_uids: str = Field(
        "52000-52999",
        pattern="^[1-9][0-9]{0,8}-[1-9][0-9]{0,8}$",
        description="users that the tasks of a root worker run as",
    )
    readable: str = Field("", description="further directories that isolated tasks may read, colon-separated")
    processes_max: PositiveInt = Field(4096, description="processes and threads of an isolated child and its programs")
    file_bytes_max: Annotated[PositiveInt | None, SIZE] = Field(
        None, description="largest file that a task may write; unset: no limit"
    )
    cut_off_seconds: Annotated[PositiveFloat | None, DURATION] = Field(
        None,
        description="after so long without the database, kill attempts of processors that are not idempotent, since "
        "others may run their tasks; unset: let them run on",
    )
    drain_seconds: Seconds = Field(
        100.0, description="time that running tasks have to end when the worker drains; less if EC2 gives less"
    )
    lifecycle_hook: str | None = Field(
        None, description="terminating lifecycle hook of the group: it waits until the worker has drained"
    )
    power_off: str | None = Field(
        None, description="command that switches this machine off, if Auto Scaling does not end it; unset: none"
    )
    log_bytes_max: Bytes = 1_048_576
    receive_wait_seconds: Annotated[int, Field(ge=1, le=20), DURATION] = 20

    @model_validator(mode="after")
    def _credentials_of_one(self) -> Self:
        listed = [each.strip() for each in self.task_environment.split(",")]
        found = next((name for name in _AWS_KEYS for each in listed if fnmatchcase(name, each)), None)
        if self.task_role and found:
            fault = f"it names {found}, and PIECEWORK_TASK_ROLE gives tasks credentials, too; leave them out"
            raise contradiction("task_environment", fault)
        return self


def contradiction(setting: str, fault: str) -> PydanticCustomError:
    """To be raised for a setting that does not go with another one."""
    return PydanticCustomError("contradiction", "{fault}", {"setting": setting, "fault": fault})


S = TypeVar("S", bound=Settings)


def read_settings(kind: type[S], **given: Any) -> S:
    """The settings; `given` ones override those of the environment. Raises SystemExit if any is invalid."""
    try:
        return kind(**given)
    except ValidationError as error:
        refuse_to_start(*map(_fault, error.errors()))


def refuse_to_start(*faults: str) -> NoReturn:
    """End a process that can't run as configured: one line per fault on standard error, exit code 2."""
    print(*faults, sep="\n", file=sys.stderr)
    raise SystemExit(2)


def _fault(error: Any) -> str:
    """The variable, the fix, and the value, unless it may hold a password."""
    name = str(error["loc"][0]) if error["loc"] else error["ctx"]["setting"]
    fault = f"PIECEWORK_{name.upper()}: {error['msg'].removeprefix('Value error, ')}"
    if not error["loc"]:  # it is about two settings
        return fault
    value = "its value is not shown" if name in _SECRETS else f"it is {error['input']!r}"
    return f"{fault}; {value}"
