"""`zoo doctor`: check the installation and print the details for a bug report."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import click

from zoo import console
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
MIN_FREE = 2 << 30
"""Free disk space below which the check warns, in bytes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of a check: topic, state ("ok", "warn" or "fail"), details and fix."""

    topic: str
    state: str
    seen: str
    fix: str | None = None


@click.command()
@click.option("--tune", is_flag=True, help="Calibrate this machine first: time precisions and attention kernels.")
@JSON
def doctor(as_json: bool, tune: bool) -> None:
    """Check the installation and print the details for a bug report."""
    if tune:
        from zoo.finetune.runtime import tuning

        with console.to(sys.stderr):
            tuning.calibrate()
    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            console.line(f"{finding.state:<5} {finding.topic:<15} {console.printable(finding.seen)}")
            if finding.fix:
                console.line(f"{'':<5} {'fix:':<15} {console.printable(finding.fix)}")
    if as_json:
        console.document([asdict(finding) for finding in findings])
    click.get_current_context().exit(int(any(finding.state == "fail" for finding in findings)))


def examine() -> Iterator[Finding]:
    """Yield the findings of all checks; a check that raises is a failed finding."""
    for check in (_versions, _machine, _execution, _store, _caches, _plugins, _endpoint, _inference):
        try:
            yield from check()
        except ZooError as error:
            yield Finding(check.__name__[1:], "fail", error.what, error.fix)
        except Exception as error:  # noqa: BLE001  # report any failure of a check
            fix = "pip install --force-reinstall backbone-zoo"
            yield Finding(check.__name__[1:], "fail", f"{type(error).__name__}: {error}", fix)


def _versions() -> Iterator[Finding]:
    from importlib import metadata

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
    kinds = (torch.cuda, torch.xpu)
    gpus = [kind.get_device_name(index) for kind in kinds for index in range(kind.device_count())]
    gpus += ["Apple GPU (mps)"] if torch.backends.mps.is_available() else []
    yield Finding("device", "ok", f"{threads}; {', '.join(gpus) or 'no GPU'}")


def _execution() -> Iterator[Finding]:
    """Yield how a CPU trains networks of each kind, and why."""
    from zoo.finetune.runtime import machine

    calibrated = machine.calibration()
    capabilities = machine.cpu_capabilities()
    chosen = calibrated or {kind: machine.by_rule(kind, capabilities) for kind in machine.KINDS}
    plain = " with plain attention" if chosen["attention"].precision in chosen["attention"].plain_attention else ""
    parts = [f"{kind} {how.precision}{plain * (kind == 'attention')}" for kind, how in chosen.items()]
    known = [name for name in ("amx_bf16", "avx512_bf16") if capabilities.get(name)]
    reason = "calibrated" if calibrated else f"by rule for a CPU with {' and '.join(known) or 'no bf16'}"
    yield Finding("execution", "ok", f"{', '.join(parts)} ({reason}; zoo doctor --tune measures)")


def _store() -> Iterator[Finding]:
    from zoo import store
    from zoo.store import receipts

    home = store.home()
    pulled = receipts.read()
    size = sum({file.sha256: file.bytes or 0 for each in pulled.values() for file in each.receipt.files}.values())
    existing = home
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    seen = f"{home}: {len(pulled)} names, {size / 1e9:.2f} GB; {free / 1e9:.1f} GB free"
    if not os.access(existing, os.W_OK):
        yield Finding("store", "warn", f"{seen}; not writable", "ZOO_HOME=/another/folder")
    elif free < MIN_FREE:
        yield Finding("store", "warn", seen, "zoo gc   (or: ZOO_HOME=/another/folder)")
    else:
        yield Finding("store", "ok", seen)
    if lock := receipts.shared():
        yield Finding("lock", "ok", str(lock))


def _caches() -> Iterator[Finding]:
    from zoo.store import caches

    sizes: dict[str, int] = {}
    for each in caches.entries():
        sizes[each.path.parent.name] = sizes.get(each.path.parent.name, 0) + each.bytes
    most = caches.limit(sum(sizes.values()))
    parts = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in sorted(sizes.items())) or "empty"
    yield Finding("caches", "ok", f"{parts}; at most {most / 1e9:.1f} GB ({caches.VARIABLE})")


def _plugins() -> Iterator[Finding]:
    from zoo.catalogue import isolated_import, registry
    from zoo.catalogue.discovery import installed

    found, problems = installed(), registry.problems()
    for name, api in isolated_import.apis(list(found)).items():
        problem = problems.get(name) or (api if isinstance(api, ZooError) else None)
        if problem:
            yield Finding("plugin", "fail", problem.what, problem.fix)
        else:
            yield Finding("plugin", "ok", found[name].label)


def _endpoint() -> Iterator[Finding]:
    from zoo.store import web

    if on := web.forbidden():
        yield Finding("hub", "ok", f"offline: {on[0]} is set")
        return
    url, problem = web.reach()
    token = "with a token" if _has_token() else "without a token"
    if problem is None:
        yield Finding("hub", "ok", f"{url} answers, {token}")
    else:
        fix = "check network, proxy and HF_ENDPOINT; pulled backbones work offline"
        yield Finding("hub", "warn", f"{url}: {problem}", fix)


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _inference() -> Iterator[Finding]:
    import torch

    from zoo.catalogue.search import search
    from zoo.model.load import load

    pixels = torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()
    name = next(row.name for row in search(plugin="native") if row.source is None and (row.params or 1e9) < 1e6)
    features = load(name, "cpu").embed([pixels])
    yield Finding("features", "ok", f"{name}: {tuple(features.shape)}")
