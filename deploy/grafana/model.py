"""Dashboards in Grafana's JSON model."""

from collections.abc import Iterator
from itertools import count
from typing import Any

from declared import explained
from panels import Panel, Row
from queries import FIRING, chosen

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
"""Of Grafana's grid."""


def dashboard(name: str, rows: tuple[Row, ...]) -> dict[str, Any]:
    """For Grafana's import page, and for provisioning from files."""
    return {
        "uid": f"asyncds-{name}",
        "title": f"asyncds: {name.capitalize()}",
        "tags": ["asyncds"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "schemaVersion": 39,
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [
            {"type": "dashboards", "title": "asyncds", "tags": ["asyncds"], "keepTime": True,
             "includeVars": True, "asDropdown": False, "icon": "external link",
             "targetBlank": False, "tooltip": "", "url": ""}
        ],
        "annotations": {
            "list": [
                {"name": "Alerts", "datasource": SOURCE, "enable": True, "iconColor": "red",
                 "expr": chosen(FIRING), "titleFormat": "{{alertname}}", "textFormat": "{{run}}",
                 "tagKeys": "severity"}
            ]
        },
        "templating": {
            "list": [
                {"type": "datasource", "name": "datasource", "label": "Prometheus",
                 "query": "prometheus"},
                # Kubernetes' namespace; elsewhere there is none, and All is the choice.
                _choice("namespace", "asyncds_coordinator_steps_total"),
                _choice("run", 'asyncds_coordinator_steps_total{namespace=~"$namespace"}'),
            ]
        },
        "panels": list(_placed(rows)),
    }  # fmt: skip


def _choice(label: str, of: str) -> dict[str, Any]:
    """A variable: any of the values that a label of `of` has."""
    return {
        "type": "query", "name": label, "label": label.capitalize(), "datasource": SOURCE,
        "query": f"label_values({of}, {label})", "refresh": 2,
        "multi": True, "includeAll": True, "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def _placed(rows: tuple[Row, ...]) -> Iterator[dict[str, Any]]:
    """Panels of a line share its width."""
    ids = count(1)
    y = 0
    for row in rows:
        at = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
        yield {
            "id": next(ids), "type": "row", "title": row.title, "gridPos": at,
            "collapsed": False, "panels": [],
        }  # fmt: skip
        y += 1
        for line in _lines(row):
            width = COLUMNS // len(line)
            for i, panel in enumerate(line):
                at = {"h": row.height, "w": width, "x": i * width, "y": y}
                yield _panel(panel, id=next(ids), at=at)
            y += row.height


def _lines(row: Row) -> list[tuple[Panel, ...]]:
    return [row.panels[i : i + row.columns] for i in range(0, len(row.panels), row.columns)]


def _panel(panel: Panel, *, id: int, at: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "noValue": "–", "custom": _custom(panel)}
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.top is not None:
        defaults |= {"min": 0, "max": panel.top}
    if panel.steps or panel.kind != "timeseries":
        steps = [(None, panel.base), *panel.steps]
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [{"color": colour, "value": value} for value, colour in steps],
        }
    if panel.kind != "timeseries":
        defaults["color"] = {"mode": "thresholds"}
    if panel.words:
        options = {
            str(value): {"text": text, "color": colour, "index": i}
            for i, (value, (text, colour)) in enumerate(panel.words.items())
        }
        defaults["mappings"] = [{"type": "value", "options": options}]
    return {
        "id": id,
        "type": panel.kind,
        "title": panel.title,
        "description": explained(panel.description, panel.queries),
        "datasource": SOURCE,
        "gridPos": at,
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel)},
        "options": OPTIONS[panel.kind],
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": SOURCE,
                "expr": chosen(query),
                "legendFormat": legend,
                # What was last said of a run that is gone is not what is so now.
                **({"instant": True, "range": False} if panel.kind == "stat" else {}),
            }
            for i, (query, legend) in enumerate(panel.queries)
        ],
    }


LEGEND = {"displayMode": "list", "placement": "bottom", "showLegend": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {"legend": LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    },
    "state-timeline": {
        "legend": LEGEND,
        "mergeValues": True,
        "rowHeight": 0.8,
        "showValue": "never",
        "tooltip": {"mode": "multi", "sort": "none"},
    },
}


def _custom(panel: Panel) -> dict[str, Any]:
    """Of the lines of a graph, and of the bands of states."""
    match panel.kind:
        case "stat":
            return {}
        case "state-timeline":
            return {"fillOpacity": 70, "lineWidth": 0}
    custom: dict[str, Any] = {"lineWidth": 1, "showPoints": "never"}
    if panel.stack:
        custom |= {"fillOpacity": 40, "stacking": {"group": "A", "mode": "normal"}}
    if panel.steps:
        # A line that is off the axis is not drawn, so the axis reaches up to it.
        custom |= {"thresholdsStyle": {"mode": "dashed"}, "axisSoftMax": panel.steps[-1][0]}
    return custom


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    legends = " ".join(legend for _, legend in panel.queries)
    styles: list[tuple[str, str, Any]] = [
        (word, "color", {"mode": "fixed", "fixedColor": colour})
        for word, colour in panel.colours.items()
    ]
    styles += [
        (word, "custom.lineStyle", {"fill": "dash", "dash": [10, 10]}) for word in panel.dashed
    ]
    if "15 min" in legends:
        styles.append(("15 min", "custom.lineWidth", 3))
    return [
        {
            "matcher": {"id": "byRegexp", "options": f"/ {word}$/"},
            "properties": [{"id": property, "value": value}],
        }
        for word, property, value in styles
    ]
