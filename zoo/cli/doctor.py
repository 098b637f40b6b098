"""The command that looks at the installation."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from zoo.cli.catalogue import JSON


@click.command()
@JSON
def doctor(as_json: bool) -> None:
    """Check the installation from end to end, and print what a bug report needs."""
    from zoo.doctor import examine

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
