"""Build the images of deploy/docker: `python -m deploy.images [server | local]`, `make images`."""

import subprocess
import sys

from deploy.images.build import TARGETS, build
from deploy.images.engine import NoEngine, running_engine


def main() -> int:
    """Exit codes: 0 built, 1 the build failed, 2 there is no engine, or no such target."""
    targets = sys.argv[1:] or list(TARGETS)
    if unknown := sorted({*targets} - {*TARGETS}):
        print(f"there is no target {unknown[0]!r}: give some of {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    try:
        with running_engine() as engine:
            for target in targets:
                print(f"built {build(engine, target)}", flush=True)
    except NoEngine as error:
        print(error, file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"`{' '.join(map(str, error.cmd[:2]))}` failed with exit code {error.returncode}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
