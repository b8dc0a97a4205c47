"""The AWS emulator (ministack): S3, SQS and Auto Scaling on one local port, persistent if given a directory.

With a state directory, objects are on disk as soon as they are written. Queues with their messages and Auto Scaling
groups are saved by a clean stop only: after a crash they are as they were before, which deploy.local.provision repairs
(a lost message costs time, never correctness).
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from deploy.local.process import ROOT, last_lines

# What any client of the emulator must have in its environment; no real account is ever touched.
AWS_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class Emulator:
    """A ministack server process."""

    command = [sys.executable, "-m", "deploy.local.emulator_server"]
    health = "/_ministack/health"

    def __init__(self, port: int, state: Path | None = None, log: Path | None = None) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        self.environment = {
            **AWS_ENVIRONMENT,
            "SERVICES": "s3,sqs,autoscaling,secretsmanager,ssm,sns",
            "GATEWAY_PORT": str(port),
            "BIND_HOST": "127.0.0.1",
            "MINISTACK_HOST": "127.0.0.1",
            "LOG_LEVEL": "WARNING",
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
        }
        if state is not None:
            self.environment |= {
                "PERSIST_STATE": "1",
                "STATE_DIR": str(state.resolve() / "state"),
                "S3_PERSIST": "1",
                "S3_DATA_DIR": str(state.resolve() / "s3"),
            }

    def start(self, timeout_seconds: float = 30.0) -> None:
        """Start the server and wait until it answers; raises RuntimeError with its last words if it does not."""
        output = self._log.open("ab") if self._log else subprocess.DEVNULL
        self.process = subprocess.Popen(
            self.command,
            env=os.environ | self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.is_ready():
                return
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(
            f"the AWS emulator did not start at {self.url}: {last_lines(self._log) if self._log else 'no log'}"
        )

    def is_ready(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}{self.health}", timeout=1).close()
        except (urllib.error.URLError, OSError):
            return False
        return True

    def stop(self) -> None:
        """Stop the server; with a state directory it saves its queues and groups first."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
