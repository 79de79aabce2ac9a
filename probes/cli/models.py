"""The command that lists models."""

from __future__ import annotations

import json

import typer
from rich.console import Console
from rich.table import Table


def models(as_json: bool = False) -> None:
    """Which models can be loaded, from where, and which are cached already."""
    from dataclasses import asdict

    from interp.sources import cache_dir, describe_sources

    found = describe_sources()
    if as_json:
        typer.echo(json.dumps([asdict(s) for s in found], indent=2, default=str))
        return
    table = Table(title="Built-in models (from the package index)", title_justify="left")
    for column in ("name", "model", "licence", "download", "cached"):
        table.add_column(column, overflow="fold")
    for s in found:
        cached = f"yes, {s.size_on_disk_mb:.0f} MB" if s.cached else "no"
        table.add_row(s.name, s.description, s.licence, f"{s.download_mb:.0f} MB", cached)
    console = Console()
    console.print(table)
    console.print(f"Cache: {cache_dir()} (move it with HEADSCOPE_CACHE)", soft_wrap=True)
    console.print("Also: a hub id (org/name), a local directory, a .gguf file.", soft_wrap=True)
