"""boot.sh runs as it is, as root, on a copy of this machine's files that is thrown away, with AWS and systemd played.

What plays them are programs in front of the PATH that write down how they were called. nft, tar and the rest are real,
in a network of their own.
"""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import certifi
import pytest

from deploy.aws.includes import HERE, without_comments
from services.platform.settings import WorkerSettings, read_settings
from tests.aws.test_templates import resources

BOOT = HERE / "boot.sh"
NEEDED = ("nft", "unshare", "ip")

COMMON = {
    "GRID": "grid",
    "VERSION": "0.2.0",
    "IMAGE": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/piecework:0.2.0",
    "REGION": "eu-west-1",
    "ACCOUNT": "123456789012",
    "DATABASE": "database.example.com:15432",
    "BUCKET": "grid-bucket",
    "LOGS": "/piecework/grid/x",
}
CONTROL = COMMON | {
    "KIND": "control",
    "DATABASE_OWNER": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:owner",
    "BOOTSTRAP_KEY": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:key",
    "WEBHOOK_KEY": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:webhooks",
    "STACK": "grid",
    "READ_FROM": "s3://claims/,s3://reference/",
    "WRITE_TO": "",
}
WORKER = COMMON | {
    "KIND": "worker",
    "POOL": "large",
    "SLOTS": "4",
    "DRAIN_SECONDS": "100",
    "TASKS_USE_NODE_ROLE": "false",
    "TASK_ROLE": "",
    "CONTAINERS": "true",
}

# $CALLS gets a line a call; what a program is told to say is in /fakes/NAME.
FAKE = """#!/bin/bash
echo "$(basename "$0") $*" >>/fakes/calls
[ -e "/fakes/$(basename "$0").sh" ] && . "/fakes/$(basename "$0").sh"
exit 0
"""
PLAYED = {
    "dnf": "",
    "sleep": "",
    "amazon-cloudwatch-agent-ctl": "",
    "cfn-signal": "",
    "systemctl": "",
    "curl": "for a; do [ \"$before\" = -o ] && [ \"$a\" != /dev/null ] && echo '-----BEGIN CERTIFICATE-----' >\"$a\"; "
    "before=$a; done",
    "aws": 'case $* in *get-login*) echo secret-of-registry ;; *get-secret*) echo key-of-webhooks ;; esac',
    "docker": 'case $1 in create) echo made ;; login) cat >/dev/null ;; export) cat /fakes/image.tar ;; esac',
}  # fmt: skip


def missing() -> str | None:
    if os.geteuid() != 0:
        return "it takes root"
    if lacking := [name for name in NEEDED if shutil.which(name) is None]:
        return f"there is no {lacking[0]}"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@dataclass
class Node:
    """A machine's files, on which boot.sh has run."""

    root: Path
    code: int
    output: str

    def calls(self, program: str) -> list[str]:
        lines = (self.root / "fakes/calls").read_text().splitlines()
        return [line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")]

    def read(self, path: str) -> str:
        return (self.root / path.lstrip("/")).read_text()

    def settings(self, name: str) -> dict[str, str]:
        lines = self.read(f"/etc/piecework/{name}.env").splitlines()
        return dict(line.split("=", 1) for line in lines)


Start = Callable[..., Node]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Run boot.sh with settings; a keyword replaces what a program does, and `then` runs on the node afterwards."""
    upper, work, root = (tmp_path / name for name in ("upper", "work", "root"))
    # An overlay of an overlay is refused, so its upper side is memory.
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path)], check=True)
    for directory in (upper, work, root):
        directory.mkdir()

    def run(settings: dict[str, str], then: str = "true", **played: str) -> Node:
        fakes, programs = upper / "fakes", upper / "usr/local/sbin"
        fakes.mkdir(mode=0o777)
        programs.mkdir(parents=True)
        for name, body in (PLAYED | {name.replace("_", "-"): body for name, body in played.items()}).items():
            (programs / name).write_text(FAKE)
            (programs / name).chmod(0o755)
            (fakes / f"{name}.sh").write_text(body)
        python = tmp_path / "python"
        python.write_text("#!/bin/sh\n")
        python.chmod(0o755)
        with tarfile.open(fakes / "image.tar", "w") as image:
            image.add(python, "usr/local/bin/python")
        (fakes / "boot.sh").write_text(BOOT.read_text())
        (fakes / "then.sh").write_text(then)
        (fakes / "settings").write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
        script = f"""
            set -e
            mount -t overlay overlay -o lowerdir=/,upperdir={upper},workdir={work} {root}
            mount -t proc proc {root}/proc
            mount --rbind /dev {root}/dev
            mount -t tmpfs none {root}/run
            mount -t tmpfs none {root}/var/log
            ip link set lo up
            cp {root}/fakes/settings {root}/run/piecework.boot
            code=0
            chroot {root} bash /fakes/boot.sh || code=$?
            cp -r {root}/var/log {upper}/fakes/log
            if [ $code = 0 ]; then chroot {root} bash /fakes/then.sh; fi
            exit $code
        """
        done = subprocess.run(
            ["unshare", "--mount", "--net", "--pid", "--fork", "bash", "-c", script],
            capture_output=True,
            text=True,
            timeout=100,
        )
        return Node(upper, done.returncode, done.stdout + done.stderr)

    yield run
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("there is no shellcheck")
    done = subprocess.run(["shellcheck", "-s", "bash", str(BOOT)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(("name", "settings"), [("grid.ControlTemplate", CONTROL), ("pool.Template", WORKER)])
def test_the_template_sets_all_that_the_script_needs(name: str, settings: dict[str, str]) -> None:
    [template] = [found for each, found in resources("AWS::EC2::LaunchTemplate") if each == name]
    preamble, script = template["Properties"]["LaunchTemplateData"]["UserData"]["Fn::Base64"]["Fn::Join"][1]
    lines = preamble["Fn::Sub"].splitlines()
    assert lines[:2] == ["#!/bin/bash", "cat >/run/piecework.boot <<'END'"] and lines[-1] == "END"
    assert {line.split("=")[0] for line in lines[2:-1]} == set(settings)
    assert "\n".join(without_comments(BOOT.read_text().splitlines())) in script


def test_a_control_node_migrates_serves_and_tells_its_stack(start: Start) -> None:
    node = start(CONTROL)

    assert node.code == 0, node.output
    started = [call.rpartition(" ")[2] for call in node.calls("systemctl") if "start" in call or "--now" in call]
    assert started == [
        "docker",
        "piecework-migrate",
        "piecework-logins",
        "piecework-api",
        "piecework-stats",
        "piecework-scheduler",
        "piecework-health.timer",
    ]
    assert node.calls("cfn-signal") == ["--success true --stack grid --resource ControlGroup --region eu-west-1"]
    assert "poweroff" not in node.calls("systemctl")
    assert [url for call in node.calls("curl") if (url := call.rpartition(" ")[2]).startswith("http://")] == [
        "http://127.0.0.1:8000/readyz",
        "http://127.0.0.1:8001/readyz",
        "http://127.0.0.1:8002/healthz",
    ]


def test_each_service_is_a_user_of_the_database_and_has_no_other_secret_than_its_own(start: Start) -> None:
    node = start(CONTROL)

    users = {name: node.settings(name)["PIECEWORK_DATABASE_URL"] for name in ("api", "scheduler", "stats", "migrate")}
    assert users == {
        "api": "postgresql://piecework_api_login@database.example.com:15432/piecework",
        "scheduler": "postgresql://piecework_scheduler_login@database.example.com:15432/piecework",
        "stats": "postgresql://piecework_stats_login@database.example.com:15432/piecework",
        "migrate": "postgresql://piecework_owner@database.example.com:15432/piecework",
    }
    for name in ("api", "scheduler", "stats"):
        assert node.settings(name)["PIECEWORK_DATABASE_PASSWORD_FROM"] == "iam"
        assert node.settings(name)["PIECEWORK_DATABASE_TLS"] == "verify-full"
        assert (node.root / f"etc/piecework/{name}.env").stat().st_mode & 0o777 == 0o600
    assert node.settings("migrate")["PIECEWORK_DATABASE_PASSWORD_FROM"] == f"{CONTROL['DATABASE_OWNER']}#password"
    secret = {name for name in ("api", "scheduler", "stats") if "key-of-webhooks" in node.settings(name).values()}
    assert secret == {"api", "scheduler"}
    assert node.settings("api")["PIECEWORK_BOOTSTRAP_API_KEY_FROM"] == CONTROL["BOOTSTRAP_KEY"]
    assert node.settings("api")["PIECEWORK_READ_FROM"] == "s3://claims/,s3://reference/"


def test_a_worker_node_runs_the_worker_and_ends_with_it(start: Start) -> None:
    node = start(WORKER)

    assert node.code == 0, node.output
    unit = node.read("/etc/systemd/system/piecework-worker.service")
    assert (
        "ExecStopPost=+/usr/local/bin/piecework-worker-ended" in unit
        and "TimeoutStopSec=115" in unit
        and "User=root" in unit
    )
    settings = node.settings("worker")
    assert (settings["PIECEWORK_POOL"], settings["PIECEWORK_SLOTS"]) == ("large", "4")
    assert settings["PIECEWORK_LIFECYCLE_HOOK"] == "grid-large-drain"
    assert node.calls("cfn-signal") == []
    assert node.calls("docker")[0] == "login -u AWS --password-stdin 123456789012.dkr.ecr.eu-west-1.amazonaws.com"


@pytest.mark.parametrize("containers", ["true", "false"])
def test_a_worker_has_the_nodes_container_engine_only_if_the_pool_says_so(
    start: Start, monkeypatch: pytest.MonkeyPatch, containers: str
) -> None:
    node = start(WORKER | {"CONTAINERS": containers}, df="echo 1B-blocks; echo 30000000000")

    for name, value in node.settings("worker").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIECEWORK_DATABASE_CA", certifi.where())  # RDS's own is on nodes alone
    settings = read_settings(WorkerSettings)
    last = [call for call in node.calls("systemctl") if "docker" in call][-1]
    if containers == "true":
        assert (settings.container_engine, settings.images_bytes_max) == ("unix:///run/docker.sock", 10_000_000_000)
        assert last == "enable -q docker"
    else:
        assert (settings.container_engine, last) == ("none", "stop docker docker.socket")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("settings", [CONTROL, WORKER], ids=["control", "worker"])
def test_systemd_understands_every_line_of_the_units(start: Start, settings: dict[str, str]) -> None:
    node = start(settings)
    units = sorted((node.root / "etc/systemd/system").glob("piecework-*"))
    assert len(units) > 3

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *map(str, units)],
        capture_output=True,
        text=True,
    )

    about = [line for line in done.stderr.splitlines() if "piecework" in line and "is not executable" not in line]
    assert about == []


# As each user, tries each port, which is open: it is shut if the fence says so.
PROBE = """
    ip addr add 169.254.169.254/32 dev lo
    ip addr add 10.1.1.1/32 dev lo
    python3 -c '
import os, socket, threading
servers = [socket.create_server((host, port)) for host, port in (("169.254.169.254", 80), ("10.1.1.1", 15432), ("10.1.1.1", 5432))]
for uid in (0, 10001, 52000, 52999):
    if os.fork() == 0:
        os.setuid(uid)
        for server in servers:
            name = server.getsockname()
            try:
                with socket.socket() as client:
                    client.settimeout(3)
                    client.connect(name)
                said = "open"
            except OSError as error:
                said = "shut"
            print("PROBE", uid, *name, said, flush=True)
        os._exit(0)
    os.wait()
' >/fakes/probes
"""  # noqa: E501


def probes(node: Node) -> dict[tuple[int, int], str]:
    """Whether a user (first) reaches a port (second): 80 is the metadata's, 15432 the grid's database's."""
    lines = [line.split() for line in node.read("/fakes/probes").splitlines()]
    return {(int(uid), int(port)): said for _, uid, _, port, said in lines}


def test_tasks_reach_neither_the_nodes_credentials_nor_the_database(start: Start) -> None:
    seen = probes(start(WORKER, then=PROBE))

    for uid in (0, 10001):
        assert {seen[uid, port] for port in (80, 15432, 5432)} == {"open"}
    for uid in (52000, 52999):
        assert (seen[uid, 80], seen[uid, 15432], seen[uid, 5432]) == ("shut", "shut", "open")


def test_tasks_reach_the_nodes_credentials_only_if_the_pool_says_so(start: Start) -> None:
    seen = probes(start(WORKER | {"TASKS_USE_NODE_ROLE": "true"}, then=PROBE))

    assert (seen[52000, 80], seen[52000, 15432]) == ("open", "shut")


def test_tasks_with_a_role_of_their_own_ask_the_worker_where_containers_reach_it(start: Start) -> None:
    role = "arn:aws:iam::123456789012:role/tasks"
    node = start(WORKER | {"TASK_ROLE": role}, then=PROBE)

    assert node.settings("worker")["PIECEWORK_TASK_ROLE"] == role
    fence = node.read("/etc/systemd/system/piecework-fence.service")
    assert "ExecStart=/usr/sbin/ip address replace 169.254.170.2/32 dev lo\n" in fence
    assert probes(node)[52000, 80] == "shut", "the node's own credentials stay out of reach"


def test_a_node_without_internet_trusts_the_certificates_of_rds_in_its_image(start: Start) -> None:
    played = PLAYED["docker"].replace("cat /fakes/image.tar", "cat /fakes/image-with-certificates.tar")
    packed = """
        cd /fakes
        mkdir -p i/etc/piecework
        tar -x -C i -f image.tar
        echo '-----BEGIN CERTIFICATE----- of the image' >i/etc/piecework/rds.pem
        tar -c -C i -f image-with-certificates.tar .
        cd /
    """

    node = start(WORKER, docker=played, dnf=packed, curl="case $* in *https*) exit 6 ;; esac")

    assert node.code == 0, node.output
    assert node.read("/etc/piecework/rds.pem") == "-----BEGIN CERTIFICATE----- of the image\n"
    assert (node.root / "etc/piecework/rds.pem").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("played", "why"),
    [
        ({"dnf": "exit 1"}, "dnf install"),
        ({"curl": "exit 6"}, "curl"),
        ({"docker": "[ $1 != pull ] || exit 1\n" + PLAYED["docker"]}, "docker pull"),
        (
            {"systemctl": '[ "$2" != piecework-migrate ] || { echo no way >/var/log/piecework/migrate.log; exit 1; }'},
            "migrate: no way",
        ),
    ],
    ids=["packages", "network", "image", "schema"],
)
def test_a_node_that_cannot_be_made_ready_tells_its_stack_and_powers_itself_off(
    start: Start, played: dict[str, str], why: str
) -> None:
    node = start(CONTROL, **played)

    assert node.code != 0
    assert node.calls("systemctl")[-1] == "poweroff"
    [signal] = node.calls("cfn-signal")
    assert "--success false" in signal and why in signal, signal


def test_what_the_network_fails_once_is_tried_again(start: Start) -> None:
    once = "[ $1 != pull ] || [ -e /fakes/failed ] || { touch /fakes/failed; exit 1; }\n"

    node = start(CONTROL, docker=once + PLAYED["docker"])

    assert node.code == 0, node.output
    assert [call for call in node.calls("docker") if call.startswith("pull")] == [f"pull -q {CONTROL['IMAGE']}"] * 2


def health(name: str, port: int, minutes: int) -> tuple[dict[str, str], str]:
    """What makes a service silent, and what asks for as many minutes."""
    silent = f"case $* in *{port}*) [ ! -e /fakes/silent ] || exit 7 ;; esac\n" + PLAYED["curl"]
    asked = f"touch /fakes/silent; for i in {{1..{minutes}}}; do piecework-health; done"
    return {"curl": silent}, f"{asked}; cp /var/log/piecework/health.log /fakes/"


def actions(node: Node) -> list[str]:
    return [call for call in node.calls("systemctl") if call == "poweroff" or "try-restart" in call]


def test_a_worker_that_is_silent_for_fifteen_minutes_ends_its_node(start: Start) -> None:
    """systemd has started it again each minute, by its watchdog."""
    played, then = health("worker", 8002, 15)

    node = start(WORKER, then=then, **played)

    assert node.read("/fakes/health.log").splitlines() == ["piecework-health: not ready: worker"] * 15
    assert actions(node) == ["poweroff"]


@pytest.mark.parametrize(("name", "port"), [("api", 8000), ("stats", 8001), ("scheduler", 8002)])
def test_a_silent_service_of_the_control_node_is_left_to_its_watchdog(start: Start, name: str, port: int) -> None:
    """It may be silent because the database is away, which no restart ends."""
    played, then = health(name, port, 16)

    node = start(CONTROL, then=then, **played)

    assert node.read("/fakes/health.log").splitlines() == [f"piecework-health: not ready: {name}"] * 16
    assert actions(node) == []
    unit = node.read(f"/etc/systemd/system/piecework-{name}.service")
    assert "Type=notify" in unit and "WatchdogSec=60" in unit


# What runs in place of a service, in the image's files: it says how it was started, and ends as it is told in turn.
PLAYED_SERVICE = """#!/usr/bin/python3
import os, socket, sys, time
with open("/var/lib/piecework/seen", "a") as seen:
    print(os.environ["WATCHDOG_USEC"], os.access("/run/docker.sock", os.W_OK), file=seen)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
    systemd.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
end = ENDS[len(open("/var/lib/piecework/seen").readlines()) - 1]
time.sleep(1000) if end == "hangs" else sys.exit(end)
"""

# Beside the unit under test there is no other. Power is off (SIGRTMIN+14) when systemd is gone; minutes are seconds.
SYSTEMD = """
    set -e
    mount -t tmpfs none /mnt
    mkdir /mnt/upper /mnt/work /mnt/image /mnt/image-work
    root=$1/root
    mkdir $root
    mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work $root
    mkdir -p $root/opt/piecework $root/etc/piecework $root/var/lib/piecework $root/var/log/piecework $root/units
    mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/image,workdir=/mnt/image-work $root/opt/piecework
    mkdir -p $root/opt/piecework/app $root/opt/piecework/etc/piecework $root/opt/piecework/var/lib/piecework
    install -m 755 $1/service $root/opt/piecework/usr/local/bin/python
    install -m 755 $1/ended $root/usr/local/bin/piecework-worker-ended
    printf '#!/bin/bash\necho "$*" >>/var/lib/piecework/off; kill -s RTMIN+14 1\n' >$root/usr/local/bin/systemctl
    chmod 755 $root/usr/local/bin/systemctl
    cp $1/piecework-worker.service $root/units/
    touch $root/etc/piecework/worker.env
    mount --bind $1/kept $root/var/lib/piecework
    mount -t proc proc $root/proc
    mount --rbind /sys $root/sys
    mount --rbind /dev $root/dev
    mount -t tmpfs none $root/run
    /usr/bin/python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' $root/run/docker.sock
    exec chroot $root /usr/bin/env -i container=other SYSTEMD_UNIT_PATH=/units \
        /lib/systemd/systemd --system --unit=piecework-worker.service --show-status=no
"""


def systemd_unusable() -> str | None:
    found = [
        path for path in ("/lib/systemd/systemd", "/usr/bin/python3", "/sys/fs/cgroup/systemd") if Path(path).exists()
    ]
    return None if len(found) == 3 else f"there is only {found}"


@pytest.mark.skipif(systemd_unusable() is not None, reason=str(systemd_unusable()))
@pytest.mark.parametrize(
    ("ends", "starts"),
    [((0,), 1), ((71,), 1), (("hangs", 70, 75, 71), 4)],
    ids=["drained", "instance-not-ended", "hung-then-unfit"],
)
def test_systemd_keeps_a_worker_running_until_it_has_drained(
    start: Start, tmp_path_factory: pytest.TempPathFactory, ends: tuple[Any, ...], starts: int
) -> None:
    """Within the image's files it reaches systemd, by its watchdog, and the container engine."""
    node = start(WORKER)
    unit = node.read("/etc/systemd/system/piecework-worker.service")
    place = tmp_path_factory.mktemp("systemd")
    (place / "kept").mkdir()
    (place / "ended").write_text(node.read("/usr/local/bin/piecework-worker-ended"))
    (place / "service").write_text(PLAYED_SERVICE.replace("ENDS", repr(ends)))
    for real, played in (
        ("[Unit]", "[Unit]\nDefaultDependencies=no"),
        ("Requires=piecework-fence.service", ""),
        ("RestartSec=30", "RestartSec=0"),
        ("WatchdogSec=60", "WatchdogSec=2"),
    ):
        assert unit.count(real) == 1
        unit = unit.replace(real, played)
    (place / "piecework-worker.service").write_text(unit)

    namespaces = ("unshare", "--mount", "--pid", "--net", "--uts", "--fork", "--kill-child")
    done = subprocess.run([*namespaces, "bash", "-c", SYSTEMD, "-", str(place)], capture_output=True, timeout=60)

    assert (place / "kept/seen").read_text().splitlines() == ["2000000 True"] * starts, done.stderr
    assert (place / "kept/off").read_text().splitlines() == ["--no-block poweroff"]
