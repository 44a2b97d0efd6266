"""A whole public model by one name: imported, described, run, exported and uploaded, without a network."""

import base64
import hashlib
import json
import shutil
import threading
from dataclasses import replace
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import tiny_hub
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from PIL import Image
from safetensors import safe_open
from tiny_model import CONFIG

from open4m import weights
from open4m.cli.main import main
from open4m.evaluate import published
from open4m.generate.pipeline import FourM
from open4m.hub import locate, parts
from open4m.hub.ml4m import source, table
from open4m.hub.parts import Chosen
from open4m.model.fourm import FourMTransformer
from open4m.types import Open4MError

HOW = {"scheme": "maskgit", "steps": 1, "temperature": 0.0}


@pytest.fixture(scope="module")
def owner(tmp_path_factory):
    return tiny_hub.make(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def imported(owner, tmp_path_factory):
    out = tmp_path_factory.mktemp("imported") / "model"
    assert main(["import", str(owner / tiny_hub.BASE), str(out)]) == 0
    return out


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Nothing can be downloaded; what would be is noted."""
    asked = []

    def refuse(name, **_):
        asked.append(name)
        raise LocalEntryNotFoundError("no connection")  # an OSError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("OPEN4M_CACHE", str(tmp_path / "cache"))
    return asked


def generated(model):
    return model.generate({"caption": "a red cone"}, ["depth", "rgb"], upscale=True, **HOW)


def test_one_documented_command_runs_the_hub_end_to_end(owner, offline, tmp_path, monkeypatch, capsys):
    """As docs/public_models.md has it."""
    page = (Path(__file__).parents[2] / "docs" / "public_models.md").read_text()
    command = (
        'open4m generate --model EPFL-VILAB/4M-7_B_CC12M --caption "a red cone" --to depth rgb --upscale --out out'
    )
    assert command in page
    monkeypatch.setenv(locate.HUB_VARIABLE, str(owner.parent))
    monkeypatch.chdir(tmp_path)
    words = command.replace('"a red cone"', "CAPTION").split()[1:]
    words = ["a red cone" if word == "CAPTION" else word for word in words]
    assert main([*words, "--steps", "1"]) == 0
    assert {"depth_view.png", "rgb.png", "rgb@448.png", "grid.png", "result.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert offline == []


def test_parts_are_read_when_they_are_needed(owner, tmp_path):
    model = FourM.from_pretrained(owner / tiny_hub.BASE)
    assert not any(hasattr(part, "model") for part in model.grids.data.values())
    generated_depth = model.generate({"caption": "a red cone"}, "depth", **HOW)
    assert generated_depth["depth"].shape == (224, 224)
    assert [key for key, part in model.grids.data.items() if hasattr(part, "model")] == ["depth"]
    before = model.fingerprint
    result = generated(model)
    assert result["rgb@448"].shape == (448, 448, 3)
    assert model.grids["rgb@448"].model is model.grids["rgb"].model
    assert model.fingerprint == before


def test_what_is_made_of_grids_alone_needs_no_text_tokenizer(owner, offline, tmp_path, monkeypatch):
    """Not when it is saved either, though the record names the model with all of its parts."""
    monkeypatch.setenv(locate.HUB_VARIABLE, str(tmp_path / "hub"))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "photo.png")
    for repository in (tiny_hub.BASE, table.tokenizer_of("semseg")):
        shutil.copytree(owner / repository, tmp_path / "hub" / table.OWNER / repository)
    how = ["--model", f"{table.OWNER}/{tiny_hub.BASE}", "--input", str(tmp_path / "photo.png"), "--steps", "1"]
    assert main(["generate", *how, "--to", "semseg", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "result.json").is_file()
    assert offline == []


def test_an_import_is_an_ordinary_directory_that_makes_the_same(owner, imported):
    theirs, ours = FourM.from_pretrained(owner / tiny_hub.BASE), FourM.from_pretrained(imported)
    assert ours.config == theirs.config
    assert sorted(path.name for path in (imported / "tokenizers").iterdir()) == ["depth", "rgb", "semseg", "text"]
    one, two = generated(theirs), generated(ours)
    assert one.tokens.keys() == two.tokens.keys() == {"depth", "rgb", "depth@448", "rgb@448"}
    assert all(np.array_equal(one.tokens[key], two.tokens[key]) for key in one.tokens)
    assert np.array_equal(one["rgb@448"], two["rgb@448"])
    card = (imported / weights.CARD).read_text()
    for words in ("license_name: sample-code-license", "non-commercial", "## Data", "## Bias", "## Misuse"):
        assert words in card
    assert "EPFL-VILAB/4M_tokenizers_depth_8k_224-448" in card
    assert (imported / f"LICENSE-{tiny_hub.BASE}").read_text() == "Only for tests."


def test_the_license_goes_with_the_export_of_an_import_and_its_import(imported, tmp_path):
    assert main(["export", str(imported), str(tmp_path / "theirs")]) == 0
    assert main(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    again = tmp_path / "ours"
    assert [text.name for text in again.glob("LICENSE*")] == [f"LICENSE-{tiny_hub.BASE}"]
    assert "license_name: sample-code-license" in (again / weights.CARD).read_text()
    assert json.loads((again / source.FILE).read_text())["license"] == "sample-code-license"


def test_an_export_is_the_public_files_again(owner, imported, tmp_path, capsys):
    assert main(["export", str(imported), str(tmp_path / "again")]) == 0
    again = tmp_path / "again"
    pairs = {owner / tiny_hub.BASE: again, owner / tiny_hub.SECOND: again / locate.SUPER_RESOLUTION}
    pairs |= {owner / table.tokenizer_of(key): again / "tokenizers" / key for key in tiny_hub.CODES}
    for public, own in pairs.items():
        assert json.loads((own / "config.json").read_text()) == json.loads((public / "config.json").read_text())
        with safe_open(public / weights.WEIGHTS, "np") as one, safe_open(own / weights.WEIGHTS, "np") as two:
            assert set(one.keys()) == set(two.keys())
            for name in one.keys():  # noqa: SIM118
                a, b = one.get_tensor(name), two.get_tensor(name)
                assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), name
    text = owner.parent / "text_tokenizer_4m_wordpiece.json"
    assert (again / text.name).read_bytes() == text.read_bytes()
    assert generated(FourM.from_pretrained(again)).tokens.keys() >= {"rgb@448"}
    assert main(["export", str(imported / "tokenizers" / "rgb"), str(tmp_path / "rgb")]) == 0
    assert (tmp_path / "rgb" / "config.json").read_bytes() == (
        again / "tokenizers" / "rgb" / "config.json"
    ).read_bytes()
    assert main(["export", str(owner / tiny_hub.BASE), str(tmp_path / "no")]) == 2
    assert "has the authors' format already" in capsys.readouterr().err


def test_weights_that_changed_are_exported_as_they_are(imported, tmp_path):
    model = FourM.from_pretrained(imported)
    model.model.embeddings.mask_token.data += 1
    weights.save_weights(tmp_path / "w", model.model)
    for name in (weights.CONFIG, source.FILE, source.KEPT):
        (tmp_path / name).write_bytes((imported / name).read_bytes())
    (tmp_path / "w").rename(tmp_path / weights.WEIGHTS)
    lines = [*published.export_model(str(tmp_path), tmp_path / "out")]
    assert "as in" not in lines[0]
    again = FourM.from_pretrained(tmp_path / "out")
    assert (again.model.embeddings.mask_token == model.model.embeddings.mask_token).all()
    assert again.config == model.config


def test_what_has_no_counterpart_is_not_exported(tmp_path, capsys):
    config = replace(CONFIG, modalities=CONFIG.modalities[1:3], rotary=True)
    FourM(FourMTransformer(config), {}, None).save(tmp_path / "own")
    assert main(["export", str(tmp_path / "own"), str(tmp_path / "out")]) == 2
    assert "no counterpart among the authors' ones: rotary = True, depth on a grid (3, 4)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_a_network_all_that_is_missing_is_listed(owner, offline, tmp_path, monkeypatch, capsys):
    assert main(["import", "EPFL-VILAB/4M-21_XL", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for name in ("4M-21_XL", "4M_tokenizers_human-poses_1k_8", table.SUPER_RESOLUTION, "text_tokenizer", "OPEN4M_HUB"):
        assert name in message
    folder = tmp_path / "downloads" / tiny_hub.BASE
    folder.mkdir(parents=True)
    for path in (owner / tiny_hub.BASE).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert main(["import", str(folder), str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert f"needs EPFL-VILAB/{table.tokenizer_of('rgb')}, " in message
    assert message.count(tiny_hub.BASE) == 1 + message.count(f"HUB/EPFL-VILAB/{tiny_hub.BASE} here")  # it is here
    assert "the text tokenizer" in message
    assert table.SUPER_RESOLUTION in message
    assert not (tmp_path / "out").exists()
    assert main(["import", str(folder), str(tmp_path / "out"), "--alone"]) == 0
    model = FourM.from_pretrained(folder)  # needs nothing yet
    with pytest.raises(
        Open4MError, match=r"4M_tokenizers_depth.* where there is a connection: hf download EPFL-VILAB/"
    ):
        model.generate(np.zeros((8, 8, 3), np.uint8), "depth")


def test_what_is_here_need_not_be_downloaded_and_a_slip_is_told(owner, offline, tmp_path, monkeypatch, capsys):
    hub = tmp_path / "hub"
    shutil.copytree(owner, hub / table.OWNER)
    shutil.rmtree(hub / table.OWNER / tiny_hub.SECOND)
    monkeypatch.setenv(locate.HUB_VARIABLE, str(hub))
    how = ["generate", "--model", f"EPFL-VILAB/{tiny_hub.BASE}", "--caption", "a red cone", "--to", "rgb", "--upscale"]
    assert main(["import", f"EPFL-VILAB/{tiny_hub.BASE}", str(tmp_path / "out")]) == 2
    for message in (capsys.readouterr().err, main([*how, "--out", str(tmp_path / "out")]) and capsys.readouterr().err):
        command = message.partition("where there is a connection: ")[2]
        assert f"--local-dir {hub}/EPFL-VILAB/NAME for each NAME of " in command  # can be typed as it is
        assert tiny_hub.SECOND in command
        assert f"to {hub}/{table.TEXT.name}" in command
        assert not any(name in command for name in (tiny_hub.BASE, *map(table.tokenizer_of, tiny_hub.CODES)))
    assert main(["info", "EPFL-VILAB/4M-7_B_CC12"]) == 2
    assert "did you mean EPFL-VILAB/4M-7_B_CC12M?" in capsys.readouterr().err
    assert main(["info", "EPFL-VILAB/one"]) == 2
    assert ", ".join(table.TRANSFORMERS) in capsys.readouterr().err


def test_a_model_in_the_cache_of_the_hub_is_known_by_its_name(owner, tmp_path):
    """Its folder is called by a number there."""
    seconds = []
    for name in (tiny_hub.BASE, tiny_hub.SECOND):
        folder = tmp_path / f"models--EPFL-VILAB--{name}" / "snapshots" / "0123abcd"
        folder.mkdir(parents=True)
        for path in (owner / name).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        assert table.is_listed(folder)
        seconds.append(parts.opened(f"EPFL-VILAB/{name}", folder=folder).second)
    assert seconds == [f"EPFL-VILAB/{tiny_hub.SECOND}", None]  # super-resolution has none of its own


def test_all_of_an_imported_directory_is_downloaded_from_the_hub(imported):
    files = [path.relative_to(imported).as_posix() for path in imported.rglob("*") if path.is_file()]
    assert source.KEPT in files
    assert [name for name in files if not any(fnmatch(name, pattern) for pattern in locate.PATTERNS)] == []


def test_parts_can_be_named(owner, tmp_path, capsys):
    strange = tmp_path / "theirs"
    strange.mkdir()
    for path in (owner / tiny_hub.BASE).iterdir():
        (strange / path.name).write_bytes(path.read_bytes())
    text, rgb = owner.parent / "text_tokenizer_4m_wordpiece.json", owner / table.tokenizer_of("rgb")
    words = ["--tokenizer", f"rgb={rgb}", "--text", str(text), "--super-resolution", str(owner / tiny_hub.SECOND)]
    assert main(["import", str(strange), str(tmp_path / "out"), *words]) == 0
    out = capsys.readouterr().out
    assert "depth: no tokenizer; name one: --tokenizer depth=FOLDER" in out
    model = FourM.from_pretrained(tmp_path / "out")
    result = model.generate({"caption": "a red cone"}, "rgb", upscale=True, **HOW)
    expected = FourM.from_pretrained(owner / tiny_hub.BASE).generate(
        {"caption": "a red cone"}, "rgb", upscale=True, **HOW
    )
    assert np.array_equal(result.tokens["rgb@448"], expected.tokens["rgb@448"])
    for wrong, message in (
        (["--tokenizer", "depht=x"], "unknown modality 'depht'; did you mean depth?"),
        (["--tokenizer", "depth"], "expected MODALITY=FOLDER"),
        (["--tokenizer", f"depth={rgb}"], "was it trained for another modality?"),
        (["--text", str(rgb / "config.json")], "not a text tokenizer"),
        (["--alone", "--text", str(text)], "--alone"),
    ):
        assert main(["import", str(strange), str(tmp_path / "no"), *wrong]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "no").exists()


def test_a_directory_of_ours_gets_a_second_model(imported, owner, tmp_path):
    alone = FourM.from_pretrained(imported)
    alone._upscaler = None
    alone.save(tmp_path / "alone")
    words = ["import", str(tmp_path / "alone"), str(tmp_path / "out")]
    assert main([*words, "--super-resolution", str(owner / tiny_hub.SECOND)]) == 0
    model = FourM.from_pretrained(tmp_path / "out")
    assert np.array_equal(
        generated(model).tokens["rgb@448"], generated(FourM.from_pretrained(imported)).tokens["rgb@448"]
    )
    words = [
        "import",
        str(imported),
        str(tmp_path / "again"),
        "--tokenizer",
        f"rgb={owner / table.tokenizer_of('rgb')}",
    ]
    assert main(words) == 0
    local = {path.relative_to(imported): path for path in imported.rglob("*") if path.is_file()}
    assert all((tmp_path / "again" / name).read_bytes() == path.read_bytes() for name, path in local.items())
    given = FourM.from_pretrained(tmp_path / "alone", chosen=Chosen(super_resolution=owner / tiny_hub.SECOND))
    assert given.upscaler.config == model.upscaler.config


def test_the_second_model_can_be_left_out(owner, tmp_path):
    words = ["import", str(owner / tiny_hub.BASE), str(tmp_path / "out"), "--super-resolution", "none"]
    assert main(words) == 0
    assert not (tmp_path / "out" / locate.SUPER_RESOLUTION).exists()
    assert (tmp_path / "out" / weights.TOKENIZERS / "rgb").is_dir()


def test_info_says_what_a_model_is(owner, imported, capsys):
    for name in (owner / tiny_hub.BASE, imported):
        assert main(["info", str(name)]) == 0
        out = capsys.readouterr().out
        for words in (
            "rgb_pixels  pixels",
            "tokenizer depth",
            "super-resolution",
            "sample-code-license",
            "open4m's code is Apache-2.0",
            "memory for weights in float32",
            "speed: at least these seconds per sample from rgb",
        ):
            assert words in out, words
    assert main(["info", "scenes"]) == 0
    assert "transformer" in capsys.readouterr().out


# ---- uploads


class StandIn(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as an upload of new files uses."""

    files: dict[str, bytes]
    created: list[dict]

    def _answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self._answer({"id": "someone/model", "sha": "0" * 40, "siblings": [], "private": False})

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.large[hashlib.sha256(body).hexdigest()] = body
        self._answer({})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        host = f"http://{self.headers['Host']}"
        if self.path.endswith("/repos/create"):
            self.server.created.append(json.loads(body))
            return self._answer({"url": f"{host}/someone/model", "name": "someone/model"})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            kinds = [(f["path"], "lfs" if f["path"].endswith(".safetensors") else "regular") for f in files]
            return self._answer({"files": [{"path": p, "uploadMode": k, "shouldIgnore": False} for p, k in kinds]})
        if self.path.endswith("/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{host}/large/{o['oid']}"}}} for o in json.loads(body)["objects"]
            ]
            return self._answer({"transfer": "basic", "objects": objects})
        for line in body.decode().splitlines() if "/commit/" in self.path else ():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "lfsFile":
                self.server.files[entry["value"]["path"]] = self.server.large[entry["value"]["oid"]]
        return self._answer({"success": True, "commitUrl": f"{host}/someone/model/commit/1", "commitOid": "1" * 40})

    def log_message(self, *_):
        pass


@pytest.fixture
def stand_in(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.files, server.large, server.created = {}, {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    real = huggingface_hub.HfApi
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: real(endpoint=address, token="hf_test"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    yield server
    server.shutdown()


def test_a_directory_is_uploaded_with_its_card_and_licenses(imported, stand_in, capsys):
    assert main(["push", str(imported), "someone/model", "--private"]) == 0
    assert "someone/model/commit/1" in capsys.readouterr().out
    assert stand_in.created[0]["name"] == "model"
    created = stand_in.created[0]  # versions of the library say it in two ways
    assert created.get("private") is True or created.get("visibility") == "private"
    local = {path.relative_to(imported).as_posix(): path for path in imported.rglob("*") if path.is_file()}
    assert stand_in.files.keys() == local.keys()
    assert f"LICENSE-{tiny_hub.BASE}" in local
    assert all(stand_in.files[name] == path.read_bytes() for name, path in local.items())


def test_nothing_is_uploaded_without_a_license_and_a_card_that_says_enough(imported, stand_in, tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in (weights.CONFIG, weights.WEIGHTS):
        (folder / name).write_bytes((imported / name).read_bytes())
    assert main(["push", str(folder), "someone/model"]) == 2
    assert "no card; write one with the sections Data, Bias, Misuse" in capsys.readouterr().err
    (folder / weights.CARD).write_text("# A model\n\n## Data\n\nMine.\n")
    assert main(["push", str(folder), "someone/model"]) == 2
    assert "no section on Bias and Misuse" in capsys.readouterr().err
    (folder / weights.CARD).write_text("# A model\n\n## Data\n\nMine.\n\n## Bias and misuse\n\nSome.\n")
    assert main(["push", str(folder), "someone/model"]) == 2
    assert "states no license of the weights" in capsys.readouterr().err
    assert main(["push", str(folder), "no name", "--license", "mit"]) == 2
    assert stand_in.files == {}
    assert main(["push", str(folder), "someone/model", "--license", "cc-by-4.0"]) == 0
    assert stand_in.files[weights.CARD].startswith(b"---\nlicense: cc-by-4.0\n")
    assert (folder / weights.CARD).read_text().startswith("# A model")
    with pytest.raises(Open4MError, match=r"states the license sample-code-license|states the license other"):
        published.ready_card(imported, "mit")


def test_a_refused_upload_says_why(imported, stand_in, monkeypatch, capsys):
    monkeypatch.setattr(StandIn, "do_POST", lambda self: self.send_error(403, "not allowed"))
    assert main(["push", str(imported), "someone/model"]) == 2
    assert "someone/model: not uploaded (" in capsys.readouterr().err


def test_what_is_no_directory_or_cannot_be_reached_is_said_in_one_line(imported, monkeypatch, capsys):
    def unreachable(*_arguments, **_options):
        raise HfHubHTTPError.__base__("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", unreachable)
    assert main(["push", str(imported), "someone/model"]) == 2
    assert "someone/model: not uploaded (Name or service not known); log in by" in capsys.readouterr().err
    assert main(["push", "scenes", "someone/model"]) == 2  # a shipped model, by its name
    assert "someone/model: not uploaded (Name or service not known); log in by" in capsys.readouterr().err
    assert main(["push", "models/none", "someone/model"]) == 2
    assert "models/none: no such directory" in capsys.readouterr().err
