"""What the client does about services that fail, hang up, or refuse."""

import pytest

from piecework import (
    ApiError,
    Client,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    ServerError,
    TooLarge,
    TransportError,
    Unauthorized,
)
from tests.unit.client.conftest import HANG_UP, KEY, Answer, Service, answer, problem

JOB = "/v1/jobs/j"


def test_requests_carry_the_key(client: Client, service: Service) -> None:
    service.on("GET", JOB, answer({"job_id": "j"}))
    assert client.get_job("j") == {"job_id": "j"}
    assert service.asked[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("failure", [HANG_UP, problem(502), problem(503), problem(504)])
def test_reads_are_repeated(failure: Answer, client: Client, service: Service) -> None:
    service.on("GET", JOB, failure, failure, answer({"job_id": "j"}))
    assert client.get_job("j") == {"job_id": "j"}


@pytest.mark.parametrize("failure", [HANG_UP, problem(503)])
def test_a_creation_is_repeated_under_the_same_key(failure: Answer, client: Client, service: Service) -> None:
    service.on("POST", "/v1/jobs", failure, answer({"job_id": "j"}, 201))
    client.submit_job({"name": "x"})
    first, second = service.asked
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.body == second.body == {"name": "x"}


def test_each_creation_has_its_own_key_unless_told(client: Client, service: Service) -> None:
    service.on("POST", "/v1/jobs", answer({"job_id": "j"}, 201))
    client.submit_job({})
    client.submit_job({})
    client.submit_job({}, idempotency_key="mine")
    first, second, third = (asked.headers["idempotency-key"] for asked in service.asked)
    assert first != second
    assert third == "mine"


@pytest.mark.parametrize(("failure", "error"), [(HANG_UP, TransportError), (problem(503), ServerError)])
def test_an_order_that_may_have_been_received_is_not_repeated(
    failure: Answer, error: type[Exception], client: Client, service: Service
) -> None:
    service.on("POST", f"{JOB}/retry", failure)
    with pytest.raises(error):
        client.retry_job("j")
    assert len(service.asked) == 1


def test_an_order_that_came_too_fast_is_repeated_for_it_was_not_looked_at(client: Client, service: Service) -> None:
    service.on("POST", f"{JOB}/retry", problem(429), answer({"job_id": "j"}))
    client.retry_job("j")
    assert len(service.asked) == 2


def test_patience_ends(client: Client, service: Service) -> None:
    service.on("GET", JOB, problem(503, "the database is away"))
    with pytest.raises(ServerError, match="the database is away"):
        client.get_job("j")
    assert len(service.asked) == 4


def test_an_unreachable_service_is_named() -> None:
    service = Service()  # not started, its port taken but not listened on
    with Client(service.url) as client, pytest.raises(TransportError, match=f"the API at {service.url}: .*refused"):
        client.get_job("j")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (413, TooLarge),
        (415, ApiError),
        (422, Invalid),
        (500, ServerError),
    ],
)
def test_problems_become_exceptions(status: int, kind: type[ApiError], client: Client, service: Service) -> None:
    service.on("GET", JOB, problem(status, "because"))
    with pytest.raises(ApiError) as raised:
        client.get_job("j")
    assert type(raised.value) is kind
    assert (raised.value.status, str(raised.value)) == (status, "because")


def test_field_errors_read_as_lines(client: Client, service: Service) -> None:
    errors = [
        {"field": "stages.0.processor", "value": "claen", "message": "there is no such processor"},
        {"field": "input.uri", "value": None, "message": "this field is required"},
        {"field": "name", "value": "a b", "message": "'a b' has a space"},
        {"field": "x", "value": "y" * 1000, "message": "too long"},
    ]
    service.on("POST", "/v1/jobs", problem(422, "invalid", errors))
    with pytest.raises(Invalid) as raised:
        client.submit_job({})
    first, second, third, fourth = raised.value.lines()
    assert first == "stages.0.processor: there is no such processor (got 'claen')"
    assert second == "input.uri: this field is required"
    assert third == "name: 'a b' has a space"
    assert fourth.startswith("x: too long (got 'yyy")
    assert len(fourth) < 130


def test_an_answer_that_is_not_a_problem_still_says_what_it_is(client: Client, service: Service) -> None:
    service.on("GET", JOB, Answer(504, b"<html>gateway</html>"))
    with pytest.raises(ServerError, match=r"504 Gateway Timeout from http://.*/v1/jobs/j"):
        client.get_job("j")


def test_another_program_behind_the_url_is_recognised(client: Client, service: Service) -> None:
    service.on("GET", JOB, Answer(200, b"<html>hello</html>"))
    with pytest.raises(TransportError, match="other than JSON; is this the API's URL"):
        client.get_job("j")


def test_a_listing_follows_its_cursors(client: Client, service: Service) -> None:
    pages = [{"items": [1, 2], "next_cursor": "c1"}, {"items": [], "next_cursor": "c2"}, {"items": [3]}]
    service.on("GET", "/v1/jobs", *(answer({"next_cursor": None, **page}) for page in pages))
    assert list(client.list_jobs(state="failed", label={"team": "claims", "month": "1"})) == [1, 2, 3]
    assert [asked.query.get("cursor") for asked in service.asked] == [None, ["c1"], ["c2"]]
    for asked in service.asked:
        assert asked.query["state"] == ["failed"]
        assert asked.query["label"] == ["team:claims", "month:1"]


def test_names_stay_one_part_of_the_path(client: Client, service: Service) -> None:
    with pytest.raises(NotFound):
        client.get_pool("../jobs?x")
    assert service.asked[0].path == "/v1/pools/../jobs?x"  # decoded by the server: it was one segment


def test_durations_are_told_by_the_service_clock(client: Client, service: Service) -> None:
    service.on("GET", JOB, answer({}, date="Sat, 31 Jan 2099 17:00:00 GMT"))
    client.get_job("j")
    assert f"{client.now():%Y-%m-%d %H:%M}" == "2099-01-31 17:00"
