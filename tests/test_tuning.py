"""`zoo doctor --tune`: the calibration is what was fastest beyond noise, and nothing is stored on a busy machine."""

from __future__ import annotations

import json

import torch
from click.testing import CliRunner

from zoo.cli import main
from zoo.finetune.runtime import machine, tuning
from zoo.finetune.runtime.machine import Preferred
from zoo.finetune.runtime.tuning import OPTIONS, Option


def times(**changes):
    """Return one second for each option but the changed ones, by kind_precision or kind_precision_plain."""
    names = {option: f"{option.kind}_{option.precision}{'_plain' * option.plain}" for option in OPTIONS}
    return {option: changes.get(name, 1.0) for option, name in names.items()}


def test_faster_options_are_chosen_and_ties_go_to_the_simpler():
    assert set(tuning.choose(times()).values()) == {Preferred()}
    assert set(tuning.choose(times(convolution_bf16=0.95)).values()) == {Preferred()}  # within the noise
    found = tuning.choose(times(convolution_bf16=0.5, attention_bf16=0.6, attention_bf16_plain=0.4))
    assert found["convolution"] == Preferred("bf16")
    assert found["depthwise"] == Preferred()
    assert found["attention"] == Preferred("bf16", ("bf16",))
    assert tuning.choose(times(attention_fp32_plain=0.5))["attention"] == Preferred("fp32", ("fp32",))


def test_every_option_is_timed():
    found = tuning.measure(OPTIONS[:1] + OPTIONS[-1:], rounds=1)
    assert list(found) == [OPTIONS[0], OPTIONS[-1]]
    assert min(found.values()) > 0
    assert OPTIONS[-1] == Option("attention", "bf16", plain=True)


def test_plain_and_fused_reference_layers_agree():
    torch.manual_seed(0)
    fused, plain = tuning._Layer(32, 4, plain=False), tuning._Layer(32, 4, plain=True)
    plain.load_state_dict(fused.state_dict())
    tokens = torch.randn(2, 5, 32)
    torch.testing.assert_close(plain(tokens), fused(tokens))


def tune(monkeypatch, busy):
    monkeypatch.setattr(tuning, "measure", lambda options: times(convolution_bf16=0.5))
    seconds = iter([0.0, busy])
    monkeypatch.setattr(tuning, "_busy_seconds", lambda: next(seconds))
    return CliRunner().invoke(main, ["doctor", "--tune", "--json"])


def test_calibration_is_stored_and_shown(monkeypatch):
    done = tune(monkeypatch, busy=0.0)
    (found,) = (one for one in json.loads(done.stdout) if one["topic"] == "execution")
    assert found["seen"].startswith("convolution bf16, depthwise fp32, attention fp32 (calibrated;")
    assert machine.calibration()["convolution"] == Preferred("bf16")


def test_nothing_is_stored_on_a_busy_machine(monkeypatch):
    done = tune(monkeypatch, busy=1e9)
    assert done.exit_code == 1
    assert "timings would be theirs, none is stored" in done.output
    assert json.loads(done.output)["fix"].startswith("zoo doctor --tune")
    assert not machine.path().exists()


def test_busy_seconds_of_others(monkeypatch, tmp_path):
    (tmp_path / "stat").write_text("cpu  100000 0 100000 5 5 0 0 0 0 0\n")
    monkeypatch.setattr(tuning, "STAT", tmp_path / "stat")
    assert tuning._busy_seconds() > 0
    monkeypatch.setattr(tuning, "STAT", tmp_path / "none")
    assert tuning._busy_seconds() == 0.0
