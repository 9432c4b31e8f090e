"""Pages name what is there: settings, commands of asyncds, targets of make."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml
from pydantic import BaseModel

from asyncds.cli.main import app
from asyncds.config.schema import RunConfig
from tests.support.paths import ROOT

PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
]


def fields(annotation: Any) -> set[str] | None:
    """What may follow the dot: of a section, or of any kind of a union; None if it is open."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        open_ended = annotation.model_config.get("extra") == "allow"
        return None if open_ended else set(annotation.model_fields)
    return set().union(*(fields(part) or () for part in get_args(annotation)))


def code(page: Path) -> str:
    """Its blocks and spans of code, one after the other."""
    return "\n".join(
        span.strip("`\n") for span in re.findall(r"```.*?```|`[^`\n]+`", page.read_text(), re.S)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    sections = {name: fields(f.annotation) for name, f in RunConfig.model_fields.items()}
    values = yaml.safe_load((ROOT / "deploy/helm/asyncds/values.yaml").read_text())
    named = re.findall(r"(?:^| )([a-z]+)\.([A-Za-z_]+)(?=[=.:\s]|$)", code(page), re.M)
    wrong = [
        f"{section}.{field}"
        for section, field in named
        if (known := sections.get(section)) and field not in known
        if not (page.stem == "kubernetes" and field in values.get(section, {}))
    ]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_that_is_named_exists(page: Path) -> None:
    text = code(page)
    commands = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    commands |= {group.name for group in app.registered_groups if group.name}
    assert set(re.findall(r"^asyncds ([a-z-]+)", text, re.M)) <= commands
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"^make ([a-z0-9-]+)", text, re.M)) <= set(targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages_speak_the_glossary_and_no_dialect(page: Path) -> None:
    dialect = r"\b(desks?|gangs?|unjudged|kept engine|tries of a group)\b"
    assert re.findall(dialect, page.read_text(), re.I) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_option_of_a_command_that_is_named_exists(page: Path) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    wrong = [
        f"{name} {option}"
        for name, rest in re.findall(r"^asyncds ([a-z-]+)(.*)$", code(page), re.M)
        for option in re.findall(r"(?:^| )(--[a-z-]+)", rest.partition("#")[0])
        if not hasattr(known[name], "commands")
        and option not in {o for p in known[name].params for o in (*p.opts, *p.secondary_opts)}
    ]
    assert wrong == []
