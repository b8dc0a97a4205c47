"""Whether the service in this container is healthy: `python -m services.platform.probe`, for the image's HEALTHCHECK.

It knows the ports that the services of deploy/docker answer at, and imports nothing that takes time.
"""

import http.client
import os
import sys

_TIMEOUT_SECONDS = 4.0


def probes() -> list[tuple[int, str]]:
    """Port and path of the API, of the stats service, and of a scheduler or a worker."""
    return [(8000, "/readyz"), (8001, "/readyz"), (int(os.environ.get("PIECEWORK_HEALTH_PORT") or 8002), "/healthz")]


def find_fault() -> str | None:
    """Ask the one that runs here. None if it is well."""
    for port, path in probes():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return None if answer.status == 200 else f"{path} at port {port} answers {answer.status}: {answer.read()!r}"
        except ConnectionRefusedError:
            continue
        except (OSError, http.client.HTTPException) as error:
            return f"{path} at port {port} does not answer: {error!r}"
        finally:
            connection.close()
    return f"no service answers at any of the ports {', '.join(str(port) for port, _ in probes())}"


if __name__ == "__main__":
    fault = find_fault()
    print(fault or "healthy")
    sys.exit(fault is not None)
