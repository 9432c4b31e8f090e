"""The images' Dockerfile and the compose file, read and not run: no container engine."""

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from typer.main import get_command

from asyncds.cli.main import app
from asyncds.config.load import load_config
from tests.support.helm_chart import tool
from tests.support.paths import ROOT

COMPOSE = ROOT / "deploy/compose/compose.yaml"
DOCKERFILE = ROOT / "deploy/images/Dockerfile"
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
ROLES = {name: s for name, s in SERVICES.items() if s.get("command", [""])[0] == "asyncds"}


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [tool("hadolint"), "--no-color", str(DOCKERFILE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_what_is_built_is_let_in_and_images_are_not_root() -> None:
    let_in = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    assert all((ROOT / path).exists() for path in let_in)
    text = DOCKERFILE.read_text()
    for target in ("coordinator", "cpu", "gpu"):
        stage = text.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        assert "\nUSER 10001:10001\n" in stage


def test_compose_is_valid() -> None:
    schema = json.loads(Path(tool("compose-spec.json")).read_text())
    problems = jsonschema.Draft7Validator(schema).iter_errors(yaml.safe_load(COMPOSE.read_text()))
    assert [f"{list(p.path)}: {p.message}" for p in problems] == []


def test_commands_are_those_of_the_roles_and_their_configuration_is_accepted() -> None:
    commands: Any = get_command(app).commands  # type: ignore[attr-defined]
    assert set(ROLES) == {"coordinator", "learner", "generator-0", "generator-1"}
    for name, service in ROLES.items():
        _, role, *arguments = service["command"]
        assert role == name.split("-")[0]
        given = commands[role].make_context(role, list(arguments)).params
        file, *overrides = given["arguments"]
        config = load_config(ROOT / file, overrides)
        assert (config.coordinator.host, config.coordinator.port) == ("127.0.0.1", 5555)
        if role == "generator":
            assert (given["name"], str(given["index"])) == (name, name[-1])


def test_prometheus_reads_every_role_where_it_is() -> None:
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yaml").read_text())
    places = {}
    for targets in scraped["scrape_configs"][0]["static_configs"]:
        places |= {int(t.rsplit(":", 1)[1]): targets["labels"] for t in targets["targets"]}
    config = load_config(ROOT / "configs/quickstart.yaml", ["telemetry.port=9400"])
    first = config.telemetry.port
    roles = ["coordinator", *["learner"] * config.learner.ranks]
    roles += ["generator"] * sum(name.startswith("generator") for name in ROLES)
    assert {port: labels["role"] for port, labels in places.items()} == {
        first + place: role for place, role in enumerate(roles)
    }
    assert {labels["run"] for labels in places.values()} == {config.name}


def test_every_file_that_is_mounted_exists() -> None:
    made_by_the_run = {"../../models", "../../runs"}
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith(".") and source not in made_by_the_run:
                assert (COMPOSE.parent / source).exists(), source
