import json
import subprocess
import sys

import pytest

from keras_vit.presets import PRESETS
from keras_vit_cli import main
from keras_vit_cli.list_presets import FACTS, facts


def listed(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["list", *arguments])
    assert not ended.value.code
    header, *rows = capsys.readouterr().out.strip().split("\n")
    assert header.split() == ["Name", "Image", "Patch", "Parameters", "GMACs", "Weights"]
    return {row.split()[0]: row.split()[1:] for row in rows}


def test_every_preset_is_listed(capsys):
    assert set(listed(capsys)) == set(PRESETS)


def test_pattern_and_figures(capsys):
    rows = listed(capsys, "*b16")
    assert rows["ViTB16"] == ["224", "16", "86,567,656", "17.56", "12"]  # the published parameters
    assert rows["R50ViTB16"][:3] == ["224", "16", "98,659,112"]
    assert all(name.endswith("B16") for name in rows)


def test_what_is_listed_is_what_there_is():
    """Written again by `python -m keras_vit_cli.list_presets`."""
    assert json.loads(FACTS.read_text()) == facts()


def test_it_answers_without_keras():
    code = "import sys, keras_vit_cli\ntry: keras_vit_cli.main(['list', '--weights', 'ViTB*'])\nfinally: assert 'keras' not in sys.modules"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0 and "augreg2_in21k_ft_in1k" in out.stdout, out.stderr


def test_a_pattern_without_match_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["list", "zzz"])
    assert ended.value.code == 2 and "Received: 'zzz'" in capsys.readouterr().err


def test_recipes_and_their_sources(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["list", "--recipes", "deit3_*"])
    out = capsys.readouterr().out
    assert not ended.value.code and "small_data" not in out
    rows = {line.split()[0]: line.split()[1:] for line in out.split("Sources")[0].strip().split("\n")[1:]}
    assert rows["deit3_b"] == ["800", "epochs", "2048", "Lamb", "0.003", "0.05", "0.2", "deit3"]
    assert {line.split(":")[0] for line in out.split("Sources")[1].strip().split("\n")} == set(rows)
    with pytest.raises(SystemExit) as ended:
        main(["list", "--recipes", "zzz"])
    assert ended.value.code == 2
