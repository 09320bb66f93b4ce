"""The door to the hub, against a local server that speaks the part of the hub's interface that is used."""

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from metainf.errors import HubError, InvalidWorkloadError, UnknownModelError
from metainf.hub import MAX_FILE_BYTES, fetch_commit, fetch_config, is_commit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "fp8"}}
PLAIN = {"architectures": ["LlamaForCausalLM"]}


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    chunks: int = 1


@dataclass
class FakeHub:
    url: str
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def file(self, model: str, revision: str, name: str, value: object, **headers: str) -> None:
        headers = {"X-Repo-Commit": COMMIT} | headers
        self.answers[f"/{model}/resolve/{revision}/{name}"] = Answer(200, json.dumps(value).encode(), headers)

    def refuse(self, path: str, status: int, code: str | None = None) -> None:
        self.answers[path] = Answer(status, b"{}", {"X-Error-Code": code} if code else {})


@pytest.fixture
def hub(monkeypatch):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            fake.requests.append((self.command, path, self.headers.get("authorization")))
            missing = Answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            answer = fake.answers.get(path, missing)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body) * answer.chunks))
            self.end_headers()
            try:
                for _ in range(answer.chunks):
                    self.wfile.write(answer.body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *args):
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake = FakeHub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", fake.url)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent/token")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


def test_fetches_the_config_and_the_commit(hub):
    hub.file("org/model", "main", "config.json", CONFIG)
    found = fetch_config("org/model")
    assert (found.model_id, found.commit, found.config, found.hf_quant_config) == ("org/model", COMMIT, CONFIG, None)


def test_asks_for_nothing_but_two_small_files(hub):
    hub.file("org/model", "main", "config.json", PLAIN)
    assert fetch_config("org/model").hf_quant_config is None
    assert [path for _, path, _ in hub.requests] == [
        "/org/model/resolve/main/config.json",
        f"/org/model/resolve/{COMMIT}/hf_quant_config.json",
    ]


def test_a_config_with_its_own_quantisation_needs_no_second_file(hub):
    hub.file("org/model", "main", "config.json", CONFIG)
    fetch_config("org/model")
    assert len(hub.requests) == 1


def test_the_quantisation_file_comes_from_the_same_commit(hub):
    side = {"quantization": {"quant_algo": "FP8"}}
    hub.file("org/model", "v1", "config.json", PLAIN)
    hub.file("org/model", COMMIT, "hf_quant_config.json", side)
    assert fetch_config("org/model", "v1").hf_quant_config == side


def test_follows_redirects_and_keeps_the_first_answers_commit(hub):
    hub.answers["/org/model/resolve/main/config.json"] = Answer(
        307, b"", {"Location": "/api/resolve-cache/models/org/model/config.json", "X-Repo-Commit": COMMIT}
    )
    body = json.dumps(CONFIG).encode()
    hub.answers["/api/resolve-cache/models/org/model/config.json"] = Answer(200, body)
    assert fetch_config("org/model").commit == COMMIT


def test_a_renamed_model_is_found_under_its_new_name(hub):
    target = {"Location": f"{hub.url}/new/model/resolve/main/config.json"}
    hub.answers["/old/model/resolve/main/config.json"] = Answer(307, b"", target)
    hub.file("new/model", "main", "config.json", CONFIG)
    assert fetch_config("old/model").config == CONFIG


def test_a_mirror_that_names_no_commit_is_asked_for_it(hub):
    hub.answers["/org/model/resolve/main/config.json"] = Answer(200, json.dumps(CONFIG).encode())
    info = {"id": "org/model", "sha": COMMIT, "siblings": [], "tags": []}
    hub.answers["/api/models/org/model/revision/main"] = Answer(200, json.dumps(info).encode())
    assert fetch_config("org/model").commit == COMMIT


@pytest.mark.parametrize("info", [b'{"id": "org/model"}', b"[]", b"nonsense", b'{"id": "org/model", "sha": "x"}'])
def test_a_mirror_that_knows_no_commit_is_a_hub_error(hub, info):
    hub.answers["/org/model/resolve/main/config.json"] = Answer(200, json.dumps(CONFIG).encode())
    hub.answers["/api/models/org/model/revision/main"] = Answer(200, info)
    with pytest.raises(HubError, match="resolving revision main"):
        fetch_config("org/model")


def test_the_commit_of_a_gated_model_is_told_though_its_files_are_not(hub):
    hub.refuse("/org/model/resolve/main/config.json", 403, "GatedRepo")
    info = {"id": "org/model", "sha": COMMIT, "siblings": [], "tags": []}
    hub.answers["/api/models/org/model/revision/v1"] = Answer(200, json.dumps(info).encode())
    hub.answers["/api/models/org/model/revision/main"] = Answer(200, json.dumps(info).encode())
    with pytest.raises(InvalidWorkloadError, match="gated"):
        fetch_config("org/model")
    assert (fetch_commit("org/model"), fetch_commit("org/model", "v1")) == (COMMIT, COMMIT)


def test_a_commit_that_cannot_be_told_says_why(hub, monkeypatch):
    hub.refuse("/api/models/org/model/revision/main", 401)
    with pytest.raises(InvalidWorkloadError, match="not there, or private"):
        fetch_commit("org/model")
    with pytest.raises(InvalidWorkloadError, match="is no revision"):
        fetch_commit("org/model", "a b")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        fetch_commit("org/model")


@pytest.mark.parametrize(("revision", "commit"), [(COMMIT, True), ("main", False), (COMMIT[:12], False), (None, False)])
def test_a_commit_is_told_from_a_branch(revision, commit):
    assert is_commit(revision) is commit


def test_sends_the_given_token(hub):
    hub.file("org/model", "main", "config.json", CONFIG)
    fetch_config("org/model", token="hf_given")
    assert hub.requests[0][2] == "Bearer hf_given"


def test_sends_the_environments_token_and_prefers_the_given_one(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    hub.file("org/model", "main", "config.json", CONFIG)
    fetch_config("org/model")
    fetch_config("org/model", token="hf_given")
    assert [token for *_, token in hub.requests] == ["Bearer hf_environment", "Bearer hf_given"]


def test_sends_no_token_where_there_is_none(hub):
    hub.file("org/model", "main", "config.json", CONFIG)
    fetch_config("org/model")
    assert hub.requests[0][2] is None


def test_a_token_does_not_follow_to_another_host(hub):
    target = {"Location": hub.url.replace("127.0.0.1", "localhost") + "/elsewhere", "X-Repo-Commit": COMMIT}
    hub.answers["/org/model/resolve/main/config.json"] = Answer(302, b"", target)
    hub.answers["/elsewhere"] = Answer(200, json.dumps(CONFIG).encode())
    fetch_config("org/model", token="hf_secret")
    assert hub.requests[-1][1:] == ("/elsewhere", None)


PATH = "/org/model/resolve/main/config.json"


@pytest.mark.parametrize(
    ("status", "code", "error", "message"),
    [
        pytest.param(404, "RepoNotFound", UnknownModelError, "no such model", id="no model"),
        pytest.param(404, None, UnknownModelError, "no such model", id="a mirror's plain 404"),
        pytest.param(404, "RevisionNotFound", UnknownModelError, "no revision main", id="no revision"),
        pytest.param(404, "EntryNotFound", UnknownModelError, "no config.json", id="no config.json"),
        pytest.param(403, "GatedRepo", InvalidWorkloadError, "is gated.*give a token", id="gated, token not accepted"),
        pytest.param(401, "GatedRepo", InvalidWorkloadError, "is gated.*give a token", id="gated, no token"),
        pytest.param(401, None, InvalidWorkloadError, "give a token", id="private or missing"),
        pytest.param(403, None, InvalidWorkloadError, "give a token", id="forbidden"),
        pytest.param(400, None, InvalidWorkloadError, "HTTP 400", id="bad request"),
        pytest.param(429, None, HubError, "HTTP 429", id="too many requests"),
        pytest.param(500, None, HubError, "HTTP 500", id="hub is broken"),
        pytest.param(503, None, HubError, "HTTP 503", id="hub is away"),
    ],
)
def test_each_refusal_says_who_has_to_act(hub, status, code, error, message):
    hub.refuse(PATH, status, code)
    with pytest.raises(error, match=message) as caught:
        fetch_config("org/model", token="hf_secret")
    assert type(caught.value) is error
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"<html>", "not valid JSON", id="a web page"),
        pytest.param(b"", "not valid JSON", id="nothing"),
        pytest.param(b"\xff\xfe\x00", "not valid JSON", id="not text"),
        pytest.param(b"[" * 100_000, "not valid JSON", id="nested without end"),
        pytest.param(b"[]", "must be a JSON object, not list", id="a list"),
        pytest.param(b"null", "must be a JSON object", id="null"),
    ],
)
def test_what_is_no_config_is_refused(hub, body, message):
    hub.answers[PATH] = Answer(200, body, {"X-Repo-Commit": COMMIT})
    with pytest.raises(InvalidWorkloadError, match=message):
        fetch_config("org/model")


def test_reading_stops_at_the_limit(hub):
    megabyte = b" " * 1024 * 1024
    hub.answers[PATH] = Answer(200, megabyte, {"X-Repo-Commit": COMMIT}, chunks=MAX_FILE_BYTES // len(megabyte) + 1)
    with pytest.raises(InvalidWorkloadError, match="larger than"):
        fetch_config("org/model")


def test_a_hub_that_does_not_answer_is_a_hub_error(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"reaching http://127\.0\.0\.1:9 for org/model"):
        fetch_config("org/model", timeout_s=1)


def test_an_endpoint_that_is_no_address_is_a_hub_error(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "not-an-address")
    with pytest.raises(HubError, match="reaching not-an-address"):
        fetch_config("org/model", timeout_s=1)


def test_an_endless_redirect_is_a_hub_error(hub):
    hub.answers[PATH] = Answer(302, b"", {"Location": PATH})
    with pytest.raises(HubError, match="TooManyRedirects"):
        fetch_config("org/model")


def test_offline_mode_says_so_and_asks_nothing(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set; unset it"):
        fetch_config("org/model")
    assert hub.requests == []


@pytest.mark.parametrize("model_id", ["", "a/b/c", "org/..", "../etc", "org/model?x", "org/mo del", "x" * 200, "a--b"])
def test_what_is_no_id_is_refused_before_asking(hub, model_id):
    with pytest.raises(InvalidWorkloadError, match="is no model id"):
        fetch_config(model_id)
    with pytest.raises(InvalidWorkloadError, match="is no model id"):
        fetch_commit(model_id)
    assert hub.requests == []


@pytest.mark.parametrize("revision", ["../../other", "a b", "-x", "r" * 300, "a\nb"])
def test_what_is_no_revision_is_refused_before_asking(hub, revision):
    with pytest.raises(InvalidWorkloadError, match="is no revision"):
        fetch_config("org/model", revision)
    assert hub.requests == []


def test_a_branch_with_a_slash_is_one_revision(hub):
    hub.file("org/model", "refs%2Fpr%2F1", "config.json", CONFIG)
    assert fetch_config("org/model", "refs/pr/1").commit == COMMIT


def test_the_token_shows_in_no_repr():
    from metainf.hub import _Request

    assert "hf_secret" not in repr(_Request("org/model", "main", "http://hub", "hf_secret", 1.0))
