"""Uploads to a small Hub on loopback."""

import base64
import json

import pytest
from checkpoints.test_download import Site
from checkpoints.test_hub import HubHandler
from helpers import assert_close, random_images, tiny

import keras_vit
from keras_vit.training import push
from keras_vit.training.settings import write_config
from keras_vit_cli import main


class WritableHub(HubHandler):
    """As much of the Hub's interface for uploads as huggingface_hub asks for. `stored`: {sha256: bytes}; `private`: {repo: bool}."""

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, content, status=200):
        body = json.dumps(content).encode()
        self.answer(status, b"", Content_Type="application/json", Content_Length=str(len(body)))
        self.wfile.write(body)

    def do_PUT(self):
        self.server.stored[self.path.rpartition("/")[2]] = self.body()
        self.answer(200, ETag='"x"')

    def do_POST(self):
        site, body, path = self.server, self.body(), self.path.partition("?")[0]
        if self.headers.get("Authorization") != "Bearer hf_right" and not path.startswith("/upload"):
            return self.reply({"error": "Unauthorized"}, 401)
        if path == "/api/validate-yaml":
            return self.reply({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted['organization']}/{wanted['name']}"
            site.repos[repo], site.private[repo] = {"main": {}}, wanted.get("private", wanted.get("visibility") == "private")
            return self.reply({"url": f"{site.url}/{repo}", "name": repo})
        if path.endswith("/preupload/main"):
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith((".safetensors", ".keras")) else "regular",
                    "shouldIgnore": False,
                }
                for f in json.loads(body)["files"]
            ]
            return self.reply({"files": modes})
        if path.endswith("/info/lfs/objects/batch"):
            upload = lambda oid: {"upload": {"href": f"{site.url}/upload/{oid}", "header": {}}}  # noqa: E731
            objects = [{**each, "actions": upload(each["oid"])} for each in json.loads(body)["objects"]]
            return self.reply({"transfer": "basic", "objects": objects})
        assert path.endswith("/commit/main"), path
        repo = path.removeprefix("/api/models/").removesuffix("/commit/main")
        for entry in map(json.loads, body.splitlines()):
            value = entry["value"]
            if entry["key"] == "file":
                site.repos[repo]["main"][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                site.repos[repo]["main"][value["path"]] = site.stored[value["oid"]]
        self.reply({"success": True, "commitUrl": f"{site.url}/{repo}/commit/1", "commitOid": "1" * 40})


@pytest.fixture
def hub(monkeypatch):
    with Site(WritableHub) as site:
        site.repos, site.stored, site.private = {}, {}, {}
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # its servers are not the Hub's
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        monkeypatch.setenv("HF_TOKEN", "hf_right")
        yield site


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["push", *map(str, arguments)])
    return ended.value.code or 0, *capsys.readouterr()


def test_a_run_with_its_card(hub, capsys, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    model = tiny(input_shape=(16, 16, 3), class_names=("a", "b", "c", "d", "e"))
    model.save(run / "model.keras")
    config = {"data": "/data/pets", "model": "ViTTi16", "weights": "augreg_in21k_ft_in1k", "recipe": "finetune", "training": {"epochs": 3}}
    write_config(config, run / "config.toml")
    (run / "test.json").write_text(json.dumps({"images": 1200, "accuracy": 0.925, "top5_accuracy": 0.99}))
    code, out, err = call(capsys, run, "hf://me/vit-pets")
    assert code == 0 and out == f"{hub.url}/me/vit-pets\n", err
    files = hub.repos["me/vit-pets"]["main"]
    assert (
        set(files) == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"} and hub.private["me/vit-pets"] is True
    )
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    images = random_images(model)
    assert_close(keras_vit.from_pretrained(tmp_path)(images), model(images))
    card = files["README.md"].decode()
    for words in (
        "license: apache-2.0",
        "library_name: transformers",
        "value: 0.925",
        "on 1,200 test images",
        "Trained on pets by the recipe `finetune`, from the published weights `augreg_in21k_ft_in1k` of ViTTi16",
        "a, b, c, d, e.",
        'keras_vit.from_pretrained("hf://me/vit-pets")',
        'AutoModelForImageClassification.from_pretrained("me/vit-pets")',
        "keras-vit convert hf://me/vit-pets for_timm --format timm",
        'timm.create_model("local-dir:for_timm", pretrained=True)',
    ):
        assert words in card, f"{words}\n{card}"
    assert str(tmp_path) not in card and "/data" not in card
    # The same card lies beside a model that is saved, or converted, in that format; one's own is kept.
    for _ in range(2):
        keras_vit.checkpoints.save(model, tmp_path / "pets", "huggingface", source=run)
        local = (tmp_path / "pets" / "README.md").read_text("utf-8")
        assert card.split("## Use")[0].replace("vit-pets", "pets") == local.split("## Use")[0]
        assert 'from_pretrained("pets")' in local and 'local-dir:for_timm", pretrained=True)' in local
    with pytest.raises(SystemExit):
        main(["convert", str(run / "model.keras"), str(tmp_path / "timm" / "pets"), "--format", "timm"])
    assert 'timm.create_model("local-dir:pets", pretrained=True)' in (tmp_path / "timm" / "pets" / "README.md").read_text("utf-8")
    (tmp_path / "pets" / "README.md").write_text("Mine", encoding="utf-8")
    keras_vit.checkpoints.save(model, tmp_path / "pets", "huggingface")
    assert (tmp_path / "pets" / "README.md").read_text("utf-8") == "Mine"
    assert "license: other\nlicense_name: dinov3-license" in keras_vit.checkpoints.model_card(model, "x", "DINOv3S16:lvd1689m")
    # What is there is asked about before it is replaced.
    code, _, err = call(capsys, run, "hf://me/vit-pets")
    assert code == 2 and "would be replaced" in err and "`--yes` replaces them" in err
    asked = []
    push(model, "hf://me/vit-pets", overwrite=lambda names: asked.append(names) or True)
    assert asked == [sorted(files)] and "Trained on" not in hub.repos["me/vit-pets"]["main"]["README.md"].decode()


def test_other_formats_and_refusals(hub, monkeypatch, capsys):
    model = tiny(stem={"kind": "conv", "filters": (4, 8), "strides": (2, 2)}, patch_size=(2, 1))
    with pytest.raises(ValueError, match="has no model with"):
        push(model, "hf://me/stem")
    push(model, "hf://me/stem", format="keras", private=False, license="mit")
    files = hub.repos["me/stem"]["main"]
    card = files["README.md"].decode()
    assert set(files) == {"README.md", "model.keras"} and hub.private["me/stem"] is False
    assert "license: mit" in card and "hf://me/stem/model.keras" in card and "transformers" not in card
    push(tiny(), "hf://me/timm", format="timm")
    card = hub.repos["me/timm"]["main"]["README.md"].decode()
    assert 'timm.create_model("hf-hub:me/timm", pretrained=True)' in card and "convert hf://me/timm for_transformers" in card
    for repository in ("me/stem", "hf://stem", "hf://me/stem@main"):
        with pytest.raises(ValueError, match="hf://owner/name"):
            push(model, repository)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ValueError, match="a token that has write access"):
        push(tiny(), "hf://me/new")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="upload to the Hub failed"):
        push(tiny(), "hf://me/new")
