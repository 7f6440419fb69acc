"""Bundles to and from the Hub: huggingface_hub's real client against a small server on this machine that answers as
the Hub's documented interface does. No network is used, so the real Hub's own behaviour is not proved here."""

import base64
import hashlib
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from huggingface_hub import constants

from igds.bundle import load_bundle, read_card
from igds.cli import main
from igds.commands.import_ import write_imported
from igds.hub import model_card, pull, push
from igds.priors.unet import UNetPrior
from tests.conftest import TINY_PRIOR, randomise

REPO = "somebody/tiny-bundle"


class Hub(ThreadingHTTPServer):
    """Repositories by name, each its files; `status` makes every answer an error."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.status: int | None = None
        self.cut = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _say(self, content: bytes | dict, status: int = 200, **headers) -> None:
        content = json.dumps(content).encode() if isinstance(content, dict) else content
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refused(self) -> bool:
        if self.server.status:
            self._say({"error": "refused"}, self.server.status)
        return bool(self.server.status)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused():
            return
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
            if name in self.server.repos:
                self._say({"error": "exists", "url": f"{self.server.address}/{name}"}, 409)
                return
            self.server.repos[name] = {}
            if asked.get("private") or asked.get("visibility") == "private":
                self.server.private.add(name)
            self._say({"url": f"{self.server.address}/{name}", "name": name, "id": name})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._say({"files": files})
        elif "/commit/" in self.path:
            name = "/".join(self.path.split("/")[3:5])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.repos[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._say({"commitUrl": f"{self.server.address}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40})
        else:  # the check of README.md's header
            self._say({"errors": [], "warnings": []})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if self._refused():
            return
        parts = self.path.strip("/").split("/")
        repo, file = self.server.repos.get("/".join(parts[:2])), "/".join(parts[4:])
        if parts[2:3] != ["resolve"] or repo is None:
            self._say({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif parts[3] != "main" and parts[3] != "1" * 40:
            self._say({"error": "Revision not found"}, 404, X_Error_Code="RevisionNotFound")
        elif file not in repo:
            self._say({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit="1" * 40)
        else:
            tag = f'"{hashlib.sha1(repo[file]).hexdigest()}"'
            self._say(repo[file], ETag=tag, X_Repo_Commit="1" * 40)

    def log_message(self, *_):
        pass


def at_address(monkeypatch, address: str) -> None:
    """Send the client there, as HF_ENDPOINT does when it is set before the client is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        at_address(monkeypatch, server.address)
        monkeypatch.setenv("HF_TOKEN", "hf_of_the_tests")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server
        server.shutdown()
        thread.join()


def refusal(capsys, *arguments) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("igds: ") and len(said) < 500
    return said


def test_a_bundle_comes_back_from_the_hub_as_it_was_pushed(hub, tiny_bundle_path, tmp_path, capsys):
    assert main(["push", str(tiny_bundle_path), REPO]) == 0
    assert REPO in capsys.readouterr().out
    card = read_card(tiny_bundle_path)
    assert set(hub.repos[REPO]) == {"README.md", "card.json", *card["files"]} and not hub.private
    assert main(["pull", REPO, "--out", str(tmp_path / "again")]) == 0
    assert capsys.readouterr().out == f"written to {tmp_path / 'again'}: Tiny, 3 classes\n"
    own = {path.name: path.read_bytes() for path in tiny_bundle_path.iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == own
    assert load_bundle(tmp_path / "again").checksum() == load_bundle(tiny_bundle_path).checksum()
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_pushing_again_replaces_what_is_there_and_private_is_private(hub, tiny_bundle_path):
    push(tiny_bundle_path, REPO, private=True)
    hub.repos[REPO]["card.json"] = b"{}"
    push(tiny_bundle_path, REPO)
    assert hub.repos[REPO]["card.json"] == (tiny_bundle_path / "card.json").read_bytes()
    assert hub.private == {REPO}


def test_nothing_but_the_bundle_is_pushed(hub, tiny_bundle_path, tmp_path):
    copy = shutil.copytree(tiny_bundle_path, tmp_path / "copy")
    (copy / "notes.txt").write_text("mine")
    (copy / ".classifier.pt").write_text("a checkpoint")
    push(copy, REPO)
    assert set(hub.repos[REPO]) == {"README.md", "card.json", *read_card(copy)["files"]}


def test_a_damaged_bundle_is_not_pushed(hub, tiny_bundle_path, tmp_path, capsys):
    copy = shutil.copytree(tiny_bundle_path, tmp_path / "copy")
    (copy / "prior.safetensors").write_bytes(b"other")
    assert "is damaged or was changed" in refusal(capsys, "push", copy, REPO)
    assert not hub.repos


def test_a_prior_alone_is_pushed_and_pulled_and_says_what_it_lacks(hub, tmp_path, capsys):
    prior = randomise(UNetPrior(TINY_PRIOR), seed=1)
    names = ["Circle", "Square", "Triangle"]
    write_imported(tmp_path / "alone", prior, title="Alone", source="tests", license="unknown", classes=names)
    push(tmp_path / "alone", REPO)
    assert b"- Not in it: estimator, classifier" in hub.repos[REPO]["README.md"]
    capsys.readouterr()
    assert main(["pull", REPO, "--out", str(tmp_path / "again")]) == 0
    assert "without estimator and classifier" in capsys.readouterr().out
    assert load_bundle(tmp_path / "again", needs=()).classes == tuple(names)


# the model card


def test_the_model_card_says_what_card_json_says(tiny_bundle_path):
    card = read_card(tiny_bundle_path)
    card["measured"] = {"classifier": {"accuracy_on_test": 0.9225}, "prior": {}}
    text = model_card(card, REPO)
    head, body = text.split("---\n")[1:3]
    assert "license: mit" in head and "license_name" not in head
    for said in (
        "# Tiny\n",
        "- From: made by the tests",
        "- Classes (3): Circle, Square/box, Tri <angle>",
        "| classifier | accuracy on test | 0.9225 |",
        f"| prior.safetensors | `{card['files']['prior.safetensors']}` |",
        f"python -m igds pull {REPO} --out bundle",
        'python -m igds sample --bundle bundle --label "Circle" --out images',
        "- Defaults: ipc 4, beta 0.5, eta 0.1, steps 10, solver ddpm",
    ):
        assert said in body, said
    assert "Not in it" not in text


def test_the_head_of_a_model_card_is_valid_and_names_a_licence_that_the_hub_does_not_know(tiny_bundle_path):
    card = read_card(tiny_bundle_path) | {"license": 'weights: MIT; photographs: "ImageNet\'s terms"'}
    parsed = huggingface_hub.ModelCard(model_card(card, REPO)).data.to_dict()
    assert (parsed["license"], parsed["license_name"]) == ("other", card["license"])
    assert parsed["library_name"] == "igds"


def test_a_thousand_classes_are_not_all_listed(tiny_bundle_path):
    card = read_card(tiny_bundle_path) | {"classes": [f"c{i}" for i in range(1000)]}
    assert "- Classes (1,000): c0, c1," in model_card(card, REPO) and "… and 980 more" in model_card(card, REPO)


# what goes wrong


def test_a_file_that_is_not_the_cards_is_not_kept(hub, tiny_bundle_path, tmp_path, capsys):
    push(tiny_bundle_path, REPO)
    hub.repos[REPO]["prior.safetensors"] += b"x"
    assert "has files that are not those of its card.json" in refusal(capsys, "pull", REPO, "--out", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_repository_of_something_else_is_told(hub, tmp_path, capsys):
    hub.repos[REPO] = {"README.md": b"hello"}
    assert "lacks a file of a bundle" in refusal(capsys, "pull", REPO, "--out", tmp_path / "out")
    hub.repos[REPO]["card.json"] = b'{"model": 1}'  # as it might stand in anybody's repository
    assert "card.json of somebody/tiny-bundle is not the card of a bundle" in refusal(
        capsys, "pull", REPO, "--out", tmp_path / "out"
    )
    assert not list(tmp_path.glob("*"))


def test_a_card_that_names_files_elsewhere_takes_none_of_them(hub, tiny_bundle_path, tmp_path, capsys):
    push(tiny_bundle_path, REPO)
    card = json.loads(hub.repos[REPO]["card.json"])
    card["files"]["../outside"] = "0" * 64
    hub.repos[REPO] |= {"card.json": json.dumps(card).encode(), "../outside": b"x"}
    assert "names a file outside of its folder" in refusal(capsys, "pull", REPO, "--out", tmp_path / "deep" / "out")
    assert not (tmp_path / "deep" / "outside").exists() and not (tmp_path / "outside").exists()


def test_a_download_that_was_cut_off_goes_on(hub, tiny_bundle_path, tmp_path):
    push(tiny_bundle_path, REPO)
    prior = hub.repos[REPO].pop("prior.safetensors")
    with pytest.raises(ValueError, match="lacks a file of a bundle"):
        pull(REPO, tmp_path / "out")
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.partial" / "card.json").is_file()
    hub.repos[REPO]["prior.safetensors"] = prior
    pull(REPO, tmp_path / "out")
    load_bundle(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("command", ["push", "pull"])
@pytest.mark.parametrize(
    "status, said",
    [(403, "by you: `hf auth login` with a token that may"), (500, "could not be pu"), (None, "could not be pu")],
)
def test_whatever_the_hub_answers_is_one_sentence(
    hub, tiny_bundle_path, tmp_path, capsys, monkeypatch, command, status, said
):
    push(tiny_bundle_path, REPO)
    hub.status = status
    if status is None:  # nobody answers at all
        at_address(monkeypatch, "http://127.0.0.1:9")
    ways = {"push": ["push", tiny_bundle_path, REPO], "pull": ["pull", REPO, "--out", tmp_path / "out"]}
    assert said in refusal(capsys, *ways[command])
    assert not (tmp_path / "out").exists()


def test_repositories_and_revisions_that_are_not_there_are_told(hub, tiny_bundle_path, tmp_path, capsys):
    assert "is not on the Hub" in refusal(capsys, "pull", "nobody/nothing", "--out", tmp_path / "out")
    assert "is no name of a repository" in refusal(capsys, "pull", "a/b/c", "--out", tmp_path / "out")
    assert "is no name of a repository" in refusal(capsys, "push", tiny_bundle_path, "a b")
    push(tiny_bundle_path, REPO)
    said = refusal(capsys, "pull", REPO, "--out", tmp_path / "out", "--revision", "v9")
    assert "has no such revision" in said


def test_an_output_that_is_there_and_a_bundle_that_is_not_are_told(hub, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "is there already" in refusal(capsys, "pull", REPO, "--out", tmp_path / "full")
    assert "there is no bundle" in refusal(capsys, "push", tmp_path / "none", REPO)


def test_a_missing_client_is_told_with_how_to_get_it(tiny_bundle_path, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install huggingface_hub" in refusal(capsys, "push", tiny_bundle_path, REPO)
    assert "pip install huggingface_hub" in refusal(capsys, "pull", REPO, "--out", tmp_path / "out")
