"""The command line: quick help, one sentence for a mistake, and the whole way once at the smallest scale."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from stylemed.cli import app, main
from stylemed.cli.options import typed
from stylemed.errors import BadInput
from stylemed.studies import Result

STYLEMED = typer.main.get_command(app)


def commands_below(command, path=()):
    """Every command and every group as the words that name it."""
    yield list(path)
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands_below(inner, (*path, name))


COMMANDS = list(commands_below(STYLEMED))


@pytest.fixture
def cli(monkeypatch, tmp_path, capfd):
    """Call the entry point as the command does, in this process: torch is imported once, not for every line."""

    def call(*arguments, cwd=tmp_path, code=0):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["stylemed", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        assert (stop.value.code or 0) == code, out + err
        return SimpleNamespace(stdout=out, stderr=err)

    return call


def sentence(answer):
    """The one line on standard error, without traceback."""
    assert "Traceback" not in answer.stderr
    lines = [line for line in answer.stderr.splitlines() if line.startswith("stylemed: ")]
    assert len(lines) == 1, answer.stderr
    return lines[0]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_option_is_explained(command):
    answer = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert answer.exit_code == 0
    for line in answer.output.splitlines():
        text = line.strip(" │*\n")
        if text.startswith("--"):
            assert len(text.split("  ")) > 1 and len(text.split()[-1]) > 1, f"no help for: {text}"


def test_help_names_every_preset():
    """It is typed, since nothing that could tell is loaded for it."""
    from stylemed.training.encoder import ENCODER_PRESETS
    from stylemed.training.schedule import PRESETS

    train = STYLEMED.commands["train"].commands
    for name, presets in {"gan": PRESETS, "encoder": ENCODER_PRESETS}.items():
        told = next(option.help for option in train[name].params if option.name == "preset")
        assert set(told.rstrip(".").split(", ")) == set(presets)


def test_help_loads_nothing_heavy(python_env):
    """What takes seconds to import stays out; how long it takes is up to the machine."""
    code = """
import runpy, sys
sys.argv = ["stylemed", "--help"]
try:
    runpy.run_module("stylemed", run_name="__main__")
except SystemExit as stop:
    print(stop.code, [name for name in ("torch", "monai", "pandas") if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", code], env=python_env, capture_output=True, text=True)
    assert "Usage" in answer.stdout and answer.stdout.splitlines()[-1] == "0 []", answer.stdout + answer.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "nowhere"],
        ["prepare", "nowhere", "--out", "store"],
        ["train", "gan", "--store", "nowhere", "--run", "run", "--preset", "smoke", "--kimg", "1"],
        ["train", "encoder", "--generator", "nowhere", "--run", "run"],
        ["encode", "nowhere", "--encoder", "nowhere", "--out", "codes.safetensors"],
        ["invert", "nowhere", "--generator", "nowhere", "--out", "codes.safetensors"],
        ["survive", "nowhere", "--generator", "nowhere", "--encoder", "nowhere"],
        ["survive", "nowhere", "--generator", "nowhere"],
        ["sample", "nowhere", "--out", "x.png"],
        ["mix", "nowhere", "--out", "x.png"],
        ["label", "nowhere", "--labeller", "nowhere", "--out", "x.safetensors"],
        ["direction", "nowhere", "--out", "d.safetensors"],
        ["generate", "nowhere", "--direction", "d", "--out", "images"],
        ["phantom", "--out", "p", "--patients", "0"],
        ["download", "nothing"],
        ["judge", "nowhere", "--judge", "nowhere"],
        ["book", "run", "--profile", "smoke"],
        ["book", "check", "--profile", "smoke"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_bad_input_is_one_sentence_and_leaves_nothing(cli, tmp_path, arguments):
    said = sentence(cli(*arguments, code=2))
    assert len(said) > 30
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["phantom", "--no-such"], ["nonsense"], ["prepare"], ["prepare", "x", "--resolution", "y"]]
)
def test_wrong_usage_exits_2(cli, arguments):
    assert "Traceback" not in cli(*arguments, code=2).stderr


def test_unknown_profile_is_named(cli, root):
    said = sentence(cli("book", "run", "--profile", "nonsense", cwd=root, code=2))
    assert "nonsense" in said and "smoke" in said


@pytest.mark.slow
def test_the_whole_way(cli, tmp_path):
    """phantom -> prepare -> train -> encode -> mix, direction, generate: every file appears and is what it says."""
    import pandas as pd

    cli("phantom", "--out", "p", "--patients", 6, "--test-patients", 4, "--size", 64, "--slices", 12)
    cli("prepare", "p", "--out", "store", "--resolution", 32, "--workers", 1)
    assert "train" in cli("inspect", "store", "--out", "sheet.png").stdout
    gan = ("train", "gan", "--store", "store", "--run", "gan", "--preset", "smoke", "--kimg", 0.16)
    cli(*gan)
    assert pd.read_csv(tmp_path / "gan" / "distances.csv")["frechet"].iloc[-1] > 0
    before = (tmp_path / "gan" / "generator.safetensors").read_bytes()
    cli(*gan)  # the same line resumes, and there is nothing left to do
    assert (tmp_path / "gan" / "generator.safetensors").read_bytes() == before
    cli(
        "train",
        "encoder",
        "--generator",
        "gan",
        "--run",
        "enc",
        "--store",
        "store",
        "--preset",
        "smoke",
        "--kimg",
        0.04,
    )
    assert "generator" in cli("freeze", "gan", "--out", "frozen").stdout
    cli("encode", "store", "--encoder", "enc", "--out", "codes.safetensors")
    of_gan = ("store", "--generator", "gan", "--encoder", "enc", "--count", 3)
    cli("invert", *of_gan, "--out", "inverted.safetensors", "--steps", 2)
    lost = cli("survive", *of_gan).stdout
    found = cli("survive", "store", "--generator", "gan", "--codes", "inverted.safetensors").stdout
    assert "psnr" in lost and "mae_liver" in found and lost != found
    few = ("--drawn", 4, "--few", 1, "--many", 2, "--work", "work", "--out", "reconstruction.json")
    cli("study", "reconstruction", *of_gan, *few)
    result = Result.load(tmp_path / "reconstruction.json")
    assert list(result.tables["seconds"]["way"]) == ["encoder w", "encoder w+", "encoder and 1 steps", "2 steps"]
    assert (
        result.tables["errors"]["patients"].max() == 3
        and result.made["cpu"]
        and set(result.made_from) == {"generator", "encoder"}
    )
    kept = (tmp_path / "work" / "2 steps.safetensors").stat().st_mtime_ns
    cli("study", "reconstruction", *of_gan, *few)  # the descents are there
    assert (tmp_path / "work" / "2 steps.safetensors").stat().st_mtime_ns == kept
    short = ("--preset", "smoke", "--minutes", 0, "--count", 3, "--drawn", 4, "--work", "work", "--out", "losses.json")
    variants = ("--variant", "latent", "--variant", "slices, in W")
    cli("study", "losses", *of_gan[:3], *variants, *short)
    result = Result.load(tmp_path / "losses.json")
    assert list(result.tables["known"]["space"]) == ["w", "w+", "w"] and set(result.tables["training"]["kimg"]) == {
        0.128
    }
    cli("sample", "gan", "--out", "sample.png", "--count", 4)
    cli(
        "mix", "gan", "--out", "mix.png", "--codes", "codes.safetensors", "--split", "test", "--rows", 2, "--columns", 2
    )
    cli("mix", "gan", "--out", "random.png", "--level", "coarse")
    found = cli(
        "direction",
        "codes.safetensors",
        "--out",
        "d.safetensors",
        "--folds",
        3,
        "--generator",
        "gan",
        "--figure",
        "walk.png",
    )
    assert "AUC" in found.stdout and "interval" in found.stdout
    for name in ("sheet.png", "sample.png", "mix.png", "random.png", "walk.png"):
        with Image.open(tmp_path / name) as image:
            assert image.width > 100
    cli(
        "generate",
        "gan",
        "--direction",
        "d.safetensors",
        "--out",
        "images",
        "--count",
        2,
        "--step",
        "-1",
        "--step",
        "1",
    )
    table = pd.read_csv(tmp_path / "images" / "table.csv")
    assert len(table) == 4
    with Image.open(tmp_path / "images" / table["file"][0]) as image:
        assert image.size == (32, 32) and image.mode == "L"
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_styles_from_the_command_line(cli, tmp_path):
    """Figure 1, a data set of a class and the studies of styles, with networks that were never trained."""
    import numpy as np
    import torch

    from stylemed.data import SliceStore
    from stylemed.latent import Direction
    from stylemed.networks import Encoder, Generator
    from stylemed.networks.reader import ReaderNetwork
    from stylemed.phantom import make_phantom
    from stylemed.training.reader import Judge, Labeller
    from stylemed.training.run import export

    torch.manual_seed(0)
    windows = {"CT": {"lo": -100, "hi": 250}, "MR": {"lo": 0, "hi": 1000}}
    generator = Generator(16, latent_size=16, mapping_layers=2, fmap_base=64, fmap_max=8)
    export(tmp_path / "g.safetensors", generator, {"windows": windows, "provenance": {}})
    encoder = Encoder(16, latent_size=16, num_layers=6, space="w", trunk="resnet18", shortcut=8)
    export(tmp_path / "e.safetensors", encoder, {"provenance": {}})
    network = ReaderNetwork(width=8)
    with torch.no_grad():
        network.unet.final_conv.bias[:] = torch.tensor([0.0, 0.0, 9.0, 0.0])  # liver everywhere, and no tumor
    for reader, name in ((Judge(network, 99.0), "j"), (Labeller(network, 99.0), "l")):
        reader.save(tmp_path / f"{name}.safetensors")
    Direction(np.eye(16, dtype=np.float32)[0], 0.0, 1.0, "tumor").save(tmp_path / "d.safetensors")
    make_phantom(tmp_path / "p", 2, test_patients=2, size=32, slices=8, mr=True, progress=False)
    cli("prepare", "p", "--out", "store", "--resolution", 16, "--workers", 1)

    g, e, j = "g.safetensors", ("--encoder", "e.safetensors"), ("--judge", "j.safetensors")
    few = ("--rows", 1, "--columns", 2)
    cli("mix", g, "--out", "one.png", "--store", "store", *e, *few, "--source", 3, "--source", 0, "--source", 7)
    cli("mix", g, "--out", "two.pdf", "--store", "store", *e, *few, "--split", "test", "--level", 8, "--weight", 0.5)
    with Image.open(tmp_path / "one.png") as image:
        assert image.info["dpi"][0] >= 300 and image.width / image.info["dpi"][0] * 25.4 == pytest.approx(170, abs=0.1)
    assert (tmp_path / "two.pdf").read_bytes()[:4] == b"%PDF"
    for wrong, says in (
        (("--source", 1), "--source names rows of a --store"),
        (("--store", "store"), "--store with --encoder"),
        (("--level", "64"), "unknown level"),
        (("--store", "store", *e, *few, "--source", 3, "--source", 0, "--source", 999), "has rows 0 to"),
    ):
        assert says in sentence(cli("mix", g, "--out", "x.png", *wrong, code=2))

    made = ("generate", g, "--labeller", "l.safetensors", "--class", "tumor")
    assert "0 images with tumor and 3 without in none" in cli(*made, "--n", 3, "--ratio", 0, "--out", "none").stdout
    said = cli(*made, "--n", 4, "--by", "direction", "--direction", "d.safetensors", "--out", "walked").stdout
    assert (
        "2 images with tumor and 2 without in walked" in said and "of 2 the labeller's outline says otherwise" in said
    )
    cli("prepare", "walked", "--out", "again", "--resolution", 16, "--workers", 1)
    assert len(SliceStore.open(tmp_path / "again")) == 4
    assert "Give --direction" in sentence(cli("generate", g, "--out", "x", code=2))
    assert "leave out --step" in sentence(cli(*made, "--step", 1, "--out", "x", code=2))

    cli("study", "attribution", "--generator", g, *j, "--pairs", 6, "--out", "attribution.json")
    assert {"liver shape", "tumor place"} <= set(
        Result.load(tmp_path / "attribution.json").tables["attribution"]["factor"]
    )
    study = ("study", "translation", "store", "--generator", g, *e, *j, "--out", "translation.json")
    assert "The level fine has no layers at 16²" in sentence(cli(*study, code=2))
    cli(*study, "--level", "middle", "--shown", 3)
    result = Result.load(tmp_path / "translation.json")
    assert set(result.tables["translation"]["way"]) >= {"middle, mean style", "histogram matching"}
    assert set(result.made_from) == {"generator", "encoder", "judge"} and result.settings["shown"] == 3


@pytest.fixture
def strangers(tmp_path):
    """Two generators of the same build, a and b, and to each codes and a direction: X.safetensors, X.codes, X.direction."""
    import numpy as np
    import pandas as pd
    import torch

    from stylemed.files import digest_of_weights
    from stylemed.latent import Codes, Direction
    from stylemed.networks import Generator
    from stylemed.training.run import export

    table = pd.DataFrame({"case": list("uvwxyz"), "patient": list("uvwxyz"), "split": "train", "z": range(6)})
    table = table.assign(liver_px=9, tumor_px=[1, 0] * 3, tumor_known=1)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        network = Generator(16, latent_size=16, mapping_layers=2, fmap_base=64, fmap_max=8)
        export(tmp_path / f"{name}.safetensors", network, {"seed": seed, "provenance": {"store": f"of {name}"}})
        made = {"made_from": {"generator": digest_of_weights(network.state_dict())}, "store": "new patients"}
        info = {"provenance": made | {"kind": "codes"}}
        w_plus = np.random.default_rng(seed).standard_normal((6, 6, 16))
        Codes(table, w_plus, info).save(tmp_path / f"{name}.codes")
        info = {"provenance": made | {"kind": "direction"}}
        Direction(np.eye(16, dtype=np.float32)[0], 0.0, 1.0, "tumor", info=info).save(tmp_path / f"{name}.direction")
    return tmp_path


@pytest.mark.slow
def test_edits_are_measured_by_one_line_and_an_augmentation_takes_the_same_parts(cli, tmp_path, monkeypatch):
    """Nobody has learned anything here; the command has to bring them together, and to tell what it was made from."""
    import numpy as np
    import torch

    from stylemed.data import SliceStore
    from stylemed.latent import Direction
    from stylemed.latent.mixing import synthesize
    from stylemed.networks import Encoder, Generator
    from stylemed.networks.reader import ReaderNetwork
    from stylemed.studies import augmentation
    from stylemed.training.reader import Judge, Labeller
    from stylemed.training.run import export

    cli("phantom", "--out", "p", "--patients", 3, "--test-patients", 2, "--size", 64, "--slices", 12, "--twins")
    cli("prepare", "p", "--out", "store", "--resolution", 32, "--workers", 1)
    store = SliceStore.open(tmp_path / "store")
    torch.manual_seed(0)
    generator = Generator(32, latent_size=16, mapping_layers=2, fmap_base=64, fmap_max=8).eval()
    encoder = Encoder(32, latent_size=16, num_layers=8, space="w", trunk="resnet18", shortcut=8).eval()
    encoder.linear.weight.data.normal_()
    export(tmp_path / "g.safetensors", generator, {})
    export(tmp_path / "e.safetensors", encoder, {})
    for reader, split in ((Labeller, "train"), (Judge, "test")):
        with torch.no_grad():
            images = synthesize(generator, encoder(torch.from_numpy(store.images(store.select(split)))))
        made = reader(ReaderNetwork(8, 1), 0.0)
        made.threshold = float(made.findings(images).table["tumor_score"].median())  # half of the answers are right
        made.save(tmp_path / f"{reader.kind}.safetensors")
    Direction(np.eye(16, dtype=np.float32)[0], 0.0, 1.0, "tumor").save(tmp_path / "d.safetensors")
    people = ["--generator", "g.safetensors", "--encoder", "e.safetensors"]
    people += ["--labeller", "labeller.safetensors", "--judge", "judge.safetensors"]
    line = ["study", "edits", "store", *people, "--out", "edits.json", "--work", "work", "--random", 2, "--few", 3]
    assert "NAME=FILE" in sentence(cli(*line, "--direction", "d.safetensors", code=2))
    cli(*line, "--direction", "plain=d.safetensors", "--count", 6, "--level", "all")
    result = Result.load(tmp_path / "edits.json")
    assert set(result.made_from) == {"generator", "encoder", "labeller", "judge", "direction, plain"}
    assert set(result.tables) == {"counted", "choice", "effects", "curve", "random", "truth", "delta"}
    assert set(result.tables["truth"]["what"]) == {"tumor_hu", "liver_hu", "elsewhere_hu"}
    assert set(result.tables["effects"]["level"]) == {"all"} and "edits.json" in result.command

    asked = []
    monkeypatch.setattr(augmentation, "run", lambda *people, **how: asked.append((people, how)) or result)
    line = [
        "study",
        "augmentation",
        "store",
        *people,
        "--ratio",
        1.5,
        "--arm",
        "walked",
        "--work",
        "w",
        "--out",
        "a.json",
    ]
    assert "--direction; give all four" in sentence(cli(*line, code=2))
    cli(*line, "--direction", "d.safetensors")
    (_, pipelines, judge), how = asked[0]
    assert list(pipelines) == ["given"] and judge.kind == "judge" and (tmp_path / "a.json").is_file()
    assert (how["ratio"], how["arms"], how["curve"], how["patients"]) == (1.5, ("walked",), (4, 11, 30, 60), 11)


def test_what_belongs_to_another_generator_is_refused_and_nothing_is_written(cli, strangers):
    a, b = "a.safetensors", "b.safetensors"
    before = sorted(strangers.iterdir())
    for arguments, names in (
        (("mix", a, "--codes", "b.codes", "--rows", 2, "--columns", 2, "--out", "x.png"), (a, "b.codes")),
        (("direction", "b.codes", "--folds", 2, "--out", "d", "--generator", a, "--figure", "x.png"), (a, "b.codes")),
        (("generate", a, "--direction", "b.direction", "--out", "images"), (a, "b.direction")),
        (("generate", a, "--direction", "a.direction", "--codes", "b.codes", "--out", "images"), (a, "b.codes")),
    ):
        said = sentence(cli(*arguments, code=2))
        assert said.startswith(f"stylemed: {names[0]} and {names[1]} do not belong together: the generator is ")
        assert "encode" in said.split(";")[-1] and sorted(strangers.iterdir()) == before
    own = ("--codes", "b.codes", "--count", 2, "--step", 1, "--out", "images")
    cli("generate", b, "--direction", "b.direction", *own)
    assert (strangers / "images" / "table.csv").is_file()


def test_labelled_samples_make_a_direction(cli, tmp_path, monkeypatch):
    from made_up import Eye, Painted

    from stylemed import pretrained
    from stylemed.latent import Codes, Direction

    monkeypatch.setattr(pretrained, "generator", lambda name: (Painted(), {}))
    monkeypatch.setattr(pretrained, "labeller", lambda name: Eye())
    label = ("label", "gan", "--labeller", "run", "--out", "samples.safetensors", "--count", 400)
    said = cli(*label, "--match", "liver_px").stdout
    kept = Codes.load(tmp_path / "samples.safetensors")
    assert "400 images" in said and f"{len(kept)} of them" in said and "alike in liver_px;" in said
    said = cli("direction", "samples.safetensors", "--out", "d", "--split", "all", "--folds", 2).stdout
    assert f"{len(kept) // 2} of {len(kept)} slices" in said and "log odds of tumor" in said
    assert Direction.load(tmp_path / "d").vector[0] > 0.9


@pytest.mark.slow
def test_a_wrong_preset_is_told_before_anything_is_measured_and_one_process_measures(
    cli, phantom, tmp_path, monkeypatch
):
    from stylemed.data import prepare
    from stylemed.evaluation import Distances
    from stylemed.training import gan

    prepare(phantom, tmp_path / "store", 32, workers=1, progress=False)
    line = ("train", "gan", "--store", "store", "--run", "run", "--kimg", 1)
    for wrong, says in ((("--preset", "nope"), "no preset nope"), (("--preset", "smoke", "--set", "batch=1"), "batch")):
        assert says in sentence(cli(*line, *wrong, "--labeller", "missing", "--inception", "missing", code=2))
    assert not (tmp_path / "run").exists()
    measures = []

    def stop(*arguments, on_snapshot, **others):
        measures.append(on_snapshot)
        raise BadInput("seen enough.")

    monkeypatch.setattr(gan, "train_gan", stop)
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        cli(*line, "--preset", "smoke", code=2)
    assert measures[0] is None and isinstance(measures[1], Distances)


@pytest.mark.slow
def test_fields_of_a_preset_can_be_set(cli, tmp_path):
    cli("phantom", "--out", "p", "--patients", 4, "--size", 32, "--slices", 8)
    cli("prepare", "p", "--out", "store", "--resolution", 32, "--workers", 1)
    gan = ("train", "gan", "--store", "store", "--run", "gan", "--preset", "smoke", "--kimg", 0.016)
    cli(*gan, "--set", "r1_gamma=1e-1", "--set", "precision=bf16", "--set", "batch={32: 4}")
    config = (tmp_path / "gan" / "config.yaml").read_text()
    assert "r1_gamma: 0.1" in config and "precision: bf16" in config and "'32': 4" in config
    for wrong, says in (("gamma=1", "gamma"), ("r1_gamma=much", "r1_gamma cannot be"), ("r1_gamma", "NAME=VALUE")):
        assert says in sentence(cli(*gan[:-4], "--preset", "smoke", "--kimg", 0.016, "--set", wrong, code=2))


@pytest.mark.slow
def test_left_out_cases_are_named_and_exit_3(cli, tmp_path):
    cli("phantom", "--out", "p", "--patients", 3, "--size", 64, "--slices", 10)
    volume = sorted((tmp_path / "p").glob("volume-*"))[0]
    volume.write_bytes(volume.read_bytes()[:200])
    answer = cli("prepare", "p", "--out", "store", "--resolution", 32, "--workers", 1, code=3)
    assert volume.name.split(".")[0].removeprefix("volume-") in answer.stderr
    assert json.loads((tmp_path / "store" / "store.json").read_text())


def test_a_command_is_kept_without_the_folders_of_its_reader(monkeypatch):
    words = [
        "study",
        "edits",
        "/data/store",
        "--direction",
        "tumor=/runs/tumor.safetensors",
        "--data",
        "CT [0/1] of = all",
    ]
    monkeypatch.setattr("sys.argv", ["stylemed", *words])
    kept = "stylemed study edits store --direction tumor=tumor.safetensors --data 'CT [0/1] of = all'"
    assert typed() == kept
