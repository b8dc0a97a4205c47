"""A Debian machine with systemd, which does what its user data says: an EC2 instance's double, as a container.

What Amazon Linux has and Debian lacks is played: its package manager, CloudWatch's agent and CloudFormation's helper.
Each notes how it was called. All else is real: systemd, nftables, Docker, curl, the AWS CLI.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deploy.images.build import make_base, pack
from deploy.images.engine import Engine
from deploy.local.process import ROOT
from tests.images.cloud import Cloud

_IMAGE = "piecework-machine:bookworm"

_PLAYED = '#!/bin/bash\necho "${0##*/} $*" >>/var/log/played\n'
_PROGRAMS = {
    "dnf": "",
    "cfn-signal": "",
    "amazon-cloudwatch-agent-ctl": 'file=${*: -1}; exec python3 -m json.tool "${file#file:}" >/dev/null\n',
}
_AWS = '#!/bin/sh\nexec /usr/bin/aws --endpoint-url "$AWS_ENDPOINT_URL" "$@"\n'  # Debian's does not know the variable
_FETCH = """#!/bin/sh
ask="curl -fsS --connect-timeout 2 --retry 300 --retry-delay 1 --retry-all-errors"
token=$($ask -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token)
$ask -H "X-aws-ec2-metadata-token: $token" -o /var/lib/user-data http://169.254.169.254/latest/user-data
"""
_CLOUD_INIT = """[Unit]
After=multi-user.target
[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=infinity
ExecStartPre=/usr/local/bin/fetch-user-data
ExecStart=/bin/bash /var/lib/user-data
StandardOutput=append:/var/log/cloud-init-output.log
StandardError=inherit
[Install]
WantedBy=cloud-init.target
"""
# Those of `--privileged`, but for one that root of a sandbox may lack itself.
_RIGHTS = (
    *("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--security-opt", "seccomp=unconfined"),
    *("--security-opt", "apparmor=unconfined", "--security-opt", "systempaths=unconfined", "--cgroupns", "host"),
    # Read-only above the hierarchies: systemd would begin further ones, and an engine that does not see all of them
    # is not told when a container runs out of memory.
    *("--volume", "/sys/fs/cgroup:/sys/fs/cgroup:ro"),
)
_DOCKERFILE = """
RUN apt-get -q update && apt-get -q install -y --no-install-recommends awscli curl dbus docker.io iptables nftables \\
    procps systemd systemd-sysv && rm -rf /var/lib/apt/lists/*
COPY programs/ /opt/aws/bin/
COPY aws fetch-user-data /usr/local/bin/
COPY cloud-final.service cloud-init.target /etc/systemd/system/
RUN chmod 755 /opt/aws/bin/* /usr/local/bin/* && systemctl enable cloud-final \\
    && systemctl disable docker.service docker.socket containerd.service \\
    && systemctl mask apt-daily.timer apt-daily-upgrade.timer systemd-udevd getty.target console-getty \\
    && systemctl set-default cloud-init.target
CMD ["/sbin/init"]
"""


def make_image(engine: Engine) -> str:
    """The name of the machines' image. Raises CalledProcessError."""
    files = {
        "Dockerfile": f"FROM {make_base(engine)}\n{_DOCKERFILE}".encode(),
        "aws": _AWS.encode(),
        "fetch-user-data": _FETCH.encode(),
        "cloud-final.service": _CLOUD_INIT.encode(),
        "cloud-init.target": b"[Unit]\nRequires=multi-user.target\n",
        **{f"programs/{name}": f"{_PLAYED}{body}".encode() for name, body in _PROGRAMS.items()},
    }
    engine.docker("build", "--network", "host", "--tag", _IMAGE, "-", input=pack(files))
    return _IMAGE


class Machine:
    """One that was started; `logs` is its /var/log."""

    def __init__(self, engine: Engine, name: str, address: str, logs: Path) -> None:
        self._engine = engine
        self.name = name
        self.address = address
        self.logs = logs

    def run(self, command: str) -> str:
        """What a command of a shell prints there. Raises CalledProcessError."""
        return self._engine.docker("exec", self.name, "bash", "-c", command).strip()

    def inspect(self, what: str) -> str:
        return self._engine.docker("inspect", "--format", what, self.name).strip()

    def is_on(self) -> bool:
        return self.inspect("{{.State.Running}}") == "true"

    def has_booted(self) -> bool:
        """Whether its user data has run to its end. Raises AssertionError with the last words if it has failed."""
        said = self.said("cloud-init-output.log")
        assert self.is_on() and "failed: " not in said, f"{said}\n{self.last_words()}"
        return said.endswith("piecework-boot: ready\n")

    def said(self, log: str) -> str:
        """What is in a log below /var/log."""
        file = self.logs / log
        return file.read_text(errors="replace") if file.exists() else ""

    def last_words(self) -> str:
        logs = (self.logs / "piecework").glob("*.log")
        return "\n".join(f"{log.name}: {line}" for log in sorted(logs) for line in log.read_text().splitlines()[-5:])


@contextmanager
def machine(
    cloud: Cloud, name: str, number: int, user_data: str, metadata: Mapping[str, str], directory: Path
) -> Iterator[Machine]:
    """A machine that boots with the user data, for the time of the context; its address ends with the number."""
    engine, address = cloud.engine, f"{cloud.prefix}.{number}"
    logs, name = directory / f"{name}-log", f"{cloud.network}-{name}"
    logs.mkdir()
    files = {
        "/etc/systemd/system.conf.d/emulator.conf": "[Manager]\nDefaultEnvironment="
        f"AWS_ENDPOINT_URL={cloud.emulator.url} PIECEWORK_AWS_ENDPOINT_URL={cloud.emulator.url} "
        "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://169.254.169.254/\n",
        "/etc/ssl/certs/ca-certificates.crt": cloud.authority.path.read_text(),
    }
    mounts = [f"{logs}:/var/log", "/var/lib/docker", "/var/lib/containerd"]
    for path, content in files.items():
        file = logs.with_name(f"{name}-{Path(path).name}")
        file.write_text(content)
        mounts.append(f"{file}:{path}:ro")
    started, service, image = Machine(engine, name, address, logs), None, make_image(engine)
    try:
        engine.docker(
            *("run", "--detach", *_RIGHTS),
            *("--name", name, "--hostname", name, "--network", cloud.network, "--ip", address),
            *("--tmpfs", "/run", "--tmpfs", "/run/lock"),
            *(f"--add-host={host}:{at}" for host, at in cloud.names.items()),
            *(f"--volume={mount}" for mount in mounts),
            image,
        )
        inside = ("nsenter", "--net", "--target", started.inspect("{{.State.Pid}}"))
        subprocess.run([*inside, "ip", "address", "add", "169.254.169.254/32", "dev", "lo"], check=True)
        items = json.dumps({"/latest/user-data": user_data, **metadata})
        service = subprocess.Popen([*inside, sys.executable, "-m", "tests.images.metadata", items], cwd=ROOT)
        yield started
    finally:
        if service is not None:
            service.terminate()
            service.wait()
        engine.docker("rm", "--force", "--volumes", name)
