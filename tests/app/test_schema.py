"""Whatever fits the OpenAPI, and what does not, is answered without a server error.

A small number of requests here; DIAGNET_SCHEMATHESIS=500 asks each operation so often.
"""

# ruff: noqa: E402 -- what the extra brings is imported after it was looked for

import os

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: the API was not fuzzed")

import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from served import BOX, CSRF

N_REQUESTS = int(os.environ.get("DIAGNET_SCHEMATHESIS", "40"))
OPERATIONS = [
    "GET /healthz", "GET /v1/model", "POST /v1/images", "GET /v1/images", "GET /v1/images/{image}",
    "GET /v1/images/{image}/pixels", "DELETE /v1/images/{image}", "POST /v1/predict", "POST /v1/similar",
    "GET /v1/cases/{case}/picture", "POST /v1/saliency", "POST /v1/box", "POST /v1/report", "POST /v1/reading",
    "GET /v1/reading/{session}", "POST /v1/reading/{session}/scores", "GET /v1/reading/{session}/imrmc.csv",
]  # fmt: skip


@pytest.mark.filterwarnings("default")  # schemathesis' own, of deprecated names
@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_server_error(make_client, image, operation):
    client = make_client(requests_per_second=1e6, burst=10**6)
    schema = schemathesis.openapi.from_dict(client.app.openapi())
    images = [each["id"] for each in client.get("/v1/images").json()]
    session = client.post("/v1/reading", json={"reader": "R1"}).json()["id"]
    known = {
        "image": st.sampled_from([image, image, *images]),
        "session": st.just(session),
        "case": st.sampled_from(["n0", "0", "3"]),
    }
    method, path = operation.split()
    described = schema[path][method]
    modes = [described.as_strategy(generation_mode=mode) for mode in GenerationMode]
    bounded = settings(
        max_examples=N_REQUESTS, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    codes = set()

    @bounded
    @given(st.one_of(modes), st.fixed_dictionaries(known), st.booleans())
    def ask(case, real, is_real):
        if is_real:  # else hardly any request would get as far as an image
            case.path_parameters = {name: real.get(name, value) for name, value in case.path_parameters.items()}
            if isinstance(case.body, dict):
                usable = {"image": image, "box": BOX, "no_mass": False, "stage": "without", "x": 40, "y": 80}
                case.body = {name: usable.get(name, value) for name, value in case.body.items()}
        wanted = case.as_transport_kwargs(base_url="http://127.0.0.1:8080")
        wanted = {name: value for name, value in wanted.items() if name not in ("allow_redirects", "verify")}
        sent = requests.Request(**wanted).prepare()
        headers = {name: value for name, value in sent.headers.items() if name.lower() != "content-length"} | CSRF
        headers = {
            name: value.encode("latin-1") if isinstance(value, str) else value for name, value in headers.items()
        }
        answer = client.request(sent.method, sent.url, content=sent.body, headers=headers)
        codes.add(answer.status_code)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"

    ask()
    print(f"{operation}: {sorted(codes)}")
    assert codes & {200, 201, 204} or operation == "POST /v1/images"  # random bytes are no image
