"""Journey: a plugin for images and one for texts, as `zoo plugin new` writes them, and the errors of their authors."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pictures
import pytest
import words
from click.testing import CliRunner

import zoo
from zoo.cli import main
from zoo.errors import PluginError
from zoo.testing import check_plugin, scaffold


@pytest.fixture
def create(tmp_path, monkeypatch):
    """Return a function that creates a plugin and installs it in this process."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))

    def install(name, *options):
        result = CliRunner().invoke(main, ["plugin", "new", name, *options])
        assert result.exit_code == 0, result.output
        info = site / f"{name}_zoo-0.1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-zoo\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text(f"[zoo.plugins]\n{name} = {name}_zoo:plugin\n")
        monkeypatch.syspath_prepend(str(Path(f"{name}-zoo").absolute()))
        importlib.invalidate_caches()
        return Path(f"{name}-zoo", f"{name}_zoo")

    yield install
    for module in [module for module in sys.modules if module.partition(".")[0] in ("owl_zoo", "ink_zoo", "elk_zoo")]:
        del sys.modules[module]


def test_a_text_plugin_works_at_once(create):
    create("ink", "--modality", "text")
    check_plugin("ink", ["ink/tiny"])
    assert [entry.name for entry in zoo.list("ink/", task="tag")] == ["ink/tiny"]
    model = zoo.load("ink/tiny", "cpu").finetune(words.reviews(60), strategy="scratch", steps=30, lr=3e-3)
    assert model.predict("a lovely film, très fine").label in ("good", "bad")
    assert zoo.load(model.save("model"), "cpu").embed(["", "a", "ab"]).shape == (3, 64)


def test_an_image_plugin_works_at_once(create):
    create("owl")
    model = zoo.load("owl/tiny", "cpu").finetune(pictures.pairs(6), strategy="scratch", steps=2)
    assert model.predict(pictures.array("red", 0)).label in model.task.labels


def test_a_tensor_instead_of_features_gets_the_message_of_the_conformance_kit(create):
    net = create("ink", "--modality", "text") / "net.py"
    net.write_text(
        net.read_text().replace("return Features((tokens", "return ((tokens").replace(", tokens, mask)", ")")
    )
    model = zoo.load("ink/tiny", "cpu")
    calls = (
        lambda: model.finetune(words.reviews(12), strategy="scratch", steps=2),
        lambda: model.embed(["a film"]),
        lambda: check_plugin("ink", ["ink/tiny"]),
    )
    for call in calls:
        with pytest.raises(PluginError, match="the net returned Tensor") as caught:
            call()
        assert caught.value.fix == "return zoo.plugin.Features from forward"


def test_features_without_tokens_cannot_be_tagged(create):
    net = create("ink", "--modality", "text") / "net.py"
    net.write_text(net.read_text().replace(", tokens, mask)", ")"))
    tagged = [(["a", "film"], ["O", "N"])] * 8
    with pytest.raises(PluginError, match="the net returned no tokens"):
        zoo.load("ink/tiny", "cpu").finetune(tagged, strategy="scratch", steps=2, valid=0)


def test_a_key_error_in_build_is_shown_with_its_line(create):
    code = create("elk") / "__init__.py"
    code.write_text(code.read_text().replace("**entry.options)", "entry.options['breadth'], 2)"))
    with pytest.raises(PluginError) as caught:
        zoo.load("elk/tiny", "cpu")
    assert "build() failed on elk/tiny: KeyError: 'breadth'" in caught.value.what
    assert f"{code.absolute()}:" in caught.value.what
    assert caught.value.fix.startswith(f"correct {code.absolute()}:")


def test_an_unknown_modality_raises():
    with pytest.raises(PluginError, match="'sound' is not image or text"):
        scaffold.new("owl", modality="sound")
    assert list(Path.cwd().iterdir()) == []
