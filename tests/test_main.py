"""The commands, at a size that takes seconds."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import NETWORKS
from promptbayes import Training, __main__, experiments, load, predictor, results, tuning

SHORT = Training(num_steps=10, batch_size=4, length=5)


@pytest.fixture
def small_scale(monkeypatch, tmp_path):
    """Pretraining in four steps, of small networks, into a folder of its own."""
    real_path = predictor.pretrained_path
    monkeypatch.setattr(__main__, "PRETRAINING", SHORT)
    monkeypatch.setattr(
        experiments,
        "ARCHITECTURES",
        {"lstm": NETWORKS["LSTM"], "transformer": NETWORKS["Transformer"]},
    )
    monkeypatch.setattr(
        predictor, "pretrained_path", lambda *name: tmp_path / real_path(*name).name
    )
    return tmp_path


def test_pretrain_writes_a_network_with_its_provenance(small_scale, capsys):
    __main__.main(["pretrain", "lstm", "--seed", "5"])
    (path,) = small_scale.iterdir()
    assert path.name == "lstm-5.safetensors"
    assert load(path).network == NETWORKS["LSTM"]
    settings = predictor.settings(path)
    assert settings["training"] == vars(SHORT)
    assert settings["seed"] == 5
    assert settings["micro_batch"] in range(1, SHORT.batch_size + 1)
    assert len(settings["losses"]) == SHORT.num_steps
    assert {"versions", "device", "seconds", "date"} <= settings.keys()
    assert f"{settings['losses'][-1]} nats per sequence" in capsys.readouterr().out


def test_reproduce_pretrains_what_is_not_there(small_scale, monkeypatch, capsys):
    few = replace(experiments.SETTINGS["single-coin"], training=SHORT, num_evaluation=8)
    monkeypatch.setattr(experiments, "SETTINGS", {"single-coin": few})
    command = ["reproduce", "single-coin", "--network", "lstm", "--methods", "UnembedWT"]
    command += ["--repetitions", "1", "--network-seed", "5", "--folder", str(small_scale)]
    for _ in range(2):
        __main__.main(command)
    assert (small_scale / "lstm-5.safetensors").is_file()
    assert capsys.readouterr().out.count("lstm-5.safetensors is not there: pretraining it") == 1
    path = results.cell_path("single-coin", "lstm", "UnembedWT", 5, small_scale)
    assert results.read(path).attrs["network_seed"] == 5


def test_a_cell_goes_on_with_its_micro_batch(small_scale, monkeypatch):
    """On a machine that would take another one; its repetitions would round otherwise."""
    few = replace(experiments.SETTINGS["single-coin"], training=SHORT, num_evaluation=8)
    monkeypatch.setattr(experiments, "SETTINGS", {"single-coin": few})
    command = ["reproduce", "single-coin", "--network", "lstm", "--methods", "UnembedWT"]
    command += ["--network-seed", "5", "--folder", str(small_scale), "--repetitions"]
    path = results.cell_path("single-coin", "lstm", "UnembedWT", 5, small_scale)
    for repetitions, size in (("1", 2), ("2", 1)):
        monkeypatch.setattr(tuning, "micro_batch_size", lambda *arguments, size=size: size)
        __main__.main([*command, repetitions])
    assert results.read(path).sizes["repetition"] == 2
    assert results.read(path).attrs["micro_batch"] == "2"


def test_the_same_seed_gives_the_same_network_and_another_another(small_scale):
    weights = []
    for seed in ("6", "6", "7"):
        __main__.main(["pretrain", "lstm", "--seed", seed])
        params = load(small_scale / f"lstm-{seed}.safetensors").params
        weights.append(np.asarray(params["unembedding"]["kernel"]))
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.any(weights[0] != weights[2])


def test_ctrl_c_while_pretraining_leaves_what_was_there(small_scale, monkeypatch, capsys):
    (small_scale / "lstm-5.safetensors").write_bytes(b"from before")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "pretrain", interrupted)
    with pytest.raises(SystemExit) as stopped:
        __main__.main(["pretrain", "lstm", "--seed", "5"])
    assert stopped.value.code == 130
    assert "Stopped; what was finished is kept" in capsys.readouterr().err
    assert [file.read_bytes() for file in small_scale.iterdir()] == [b"from before"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "gru"], "`name` must be one of lstm, transformer"),
        (["reproduce", "coins"], "`setting` must be one of single-coin"),
        (["reproduce", "--methods", "SoftPrompt"], "`--methods` must be of"),
        (["reproduce", "--shard", "3/2"], "`--shard` must be i/n with 1 <= i <= n, got 3/2"),
        (["reproduce", "--shard", "half"], "`--shard` must be i/n"),
        (
            ["reproduce", "--network", "gru"],
            "`--network` must be one of lstm, transformer, got gru",
        ),
        (["table", "coins"], "`setting` must be one of single-coin"),
        (["figures", "coins"], "`setting` must be one of single-coin"),
        (["figures", "--network", "gru"], "`--network` must be one of lstm, transformer, got gru"),
        (["figures", "--format", "bmp"], "invalid choice: 'bmp'"),
        (["dance"], "invalid choice: 'dance'"),
        ([], "the following arguments are required: command"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, small_scale, capsys):
    with pytest.raises(SystemExit) as stopped:
        __main__.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(small_scale.iterdir())


@pytest.mark.parametrize("command", ["pretrain", "reproduce", "table", "figures"])
def test_every_command_explains_itself_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        __main__.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"example: python -m promptbayes {command}" in " ".join(capsys.readouterr().out.split())
