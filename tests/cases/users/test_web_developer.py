"""A web developer has the API alone: submit safely, follow, and give a person's browser a link to the result."""

import httpx

from tests.cases.conftest import CaseGrid

JOB = {"input": {"type": "range", "count": 2}, "stages": [{"processor": "web-hello"}], "name": "web"}


def test_a_job_goes_from_a_request_to_a_link_by_http_alone(grid: CaseGrid) -> None:
    grid.client.register_processor("web-hello", {"command": ["sh", "-c", "echo hello > {output}"], "output": "hi.txt"})
    key = {"Authorization": f"Bearer {grid.environment['PIECEWORK_API_KEY']}"}
    with httpx.Client(base_url=grid.environment["PIECEWORK_API_URL"], headers=key) as http:
        wrong = http.post("/v1/jobs", params={"dry_run": True}, json=JOB | {"stages": [{"procesor": "web-hello"}]})
        assert wrong.status_code == 422 and "stages.0.procesor" in wrong.text
        assert http.post("/v1/jobs", params={"dry_run": True}, json=JOB).status_code == 200

        once = {"Idempotency-Key": "order-4711"}
        ids = {http.post("/v1/jobs", json=JOB, headers=once).json()["job_id"] for _ in range(2)}
        assert len(ids) == 1, "a retried request makes no second job"
        job_id = ids.pop()
        grid.ended(job_id)
        [first, *_] = http.get(f"/v1/jobs/{job_id}/results").json()["files"]
        assert httpx.get(first["url"]).text == "hello\n", "the browser needs no key for it"
