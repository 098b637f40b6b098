"""`zoo doctor`: check an installation from end to end, and print what a bug report needs."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata

import click

from zoo.cli.catalogue import JSON
from zoo.errors import ZooError

LIBRARIES = (
    "backbone-zoo",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "accelerate",
    "huggingface_hub",
    "safetensors",
    "datasets",
)
LITTLE = 2 << 30
"""Bytes of free disk below which there is a warning."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, "ok", "warn" or "fail", what was seen, and what to do."""

    topic: str
    state: str
    seen: str
    fix: str | None = None


Look = Callable[[], Iterator[Finding]]


@click.command()
@JSON
def doctor(as_json: bool) -> None:
    """Check the installation from end to end, and print what a bug report needs."""
    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            click.echo(f"{finding.state:<5} {finding.topic:<15} {finding.seen}")
            if finding.fix:
                click.echo(f"{'':<5} {'fix:':<15} {finding.fix}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1, ensure_ascii=False))
    click.get_current_context().exit(int(any(finding.state == "fail" for finding in findings)))


def examine() -> Iterator[Finding]:
    """Yield what every look finds; one that goes wrong is itself a finding."""
    for look in (_versions, _machine, _store, _plugins, _endpoint, _net):
        try:
            yield from look()
        except ZooError as error:
            yield Finding(look.__name__[1:], "fail", error.what, error.fix)
        except Exception as error:  # noqa: BLE001  # whatever is broken here is what the user came to hear of
            fix = "pip install --force-reinstall backbone-zoo"
            yield Finding(look.__name__[1:], "fail", f"{type(error).__name__}: {error}", fix)


def _versions() -> Iterator[Finding]:
    python = f"{platform.python_version()} ({sys.executable}), {platform.platform()}"
    yield Finding("python", "ok", python)
    for name in LIBRARIES:
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, "fail", "is not installed", f"pip install {name}")


def _machine() -> Iterator[Finding]:
    import torch

    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads in use"
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield Finding("device", "ok", f"{threads}; {', '.join(gpus) or 'no GPU'}")


def _store() -> Iterator[Finding]:
    from zoo import store
    from zoo.store import receipts as known

    home = store.home()
    receipts = known.read()
    size = sum({file.sha256: file.bytes or 0 for each in receipts.values() for file in each.receipt.files}.values())
    there = home
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    seen = f"{home}: {len(receipts)} names, {size / 1e9:.2f} GB; {free / 1e9:.1f} GB free"
    if not os.access(there, os.W_OK):
        yield Finding("store", "warn", f"{seen}; it cannot be written", "ZOO_HOME=/another/folder")
    elif free < LITTLE:
        yield Finding("store", "warn", seen, "zoo gc   (or: ZOO_HOME=/another/folder)")
    else:
        yield Finding("store", "ok", seen)
    if team := known.shared():
        yield Finding("lock", "ok", str(team))


def _plugins() -> Iterator[Finding]:
    from zoo.catalogue import isolated_import, plugins, registry

    found, problems = plugins.installed(), registry.problems()
    for name, api in isolated_import.apis(list(found)).items():
        problem = problems.get(name) or (api if isinstance(api, ZooError) else None)
        if problem:
            yield Finding("plugin", "fail", problem.what, problem.fix)
        else:
            yield Finding("plugin", "ok", found[name].label)


def _endpoint() -> Iterator[Finding]:
    from zoo.store import web

    if on := web.forbidden():
        yield Finding("hub", "ok", f"is not asked: {on[0]} is set")
        return
    url, problem = web.reach()
    token = "with a token" if _has_token() else "without a token"
    if problem is None:
        yield Finding("hub", "ok", f"{url} answers, {token}")
    else:
        fix = "check network and proxy (and HF_ENDPOINT); what is pulled works without"
        yield Finding("hub", "warn", f"{url}: {problem}", fix)


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _net() -> Iterator[Finding]:
    import torch

    import zoo

    pixels = torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()
    name = next(row.name for row in zoo.list(plugin="native") if row.source is None and (row.params or 1e9) < 1e6)
    features = zoo.load(name, "cpu").embed([pixels])
    yield Finding("features", "ok", f"{name}: {tuple(features.shape)}")
