"""Dashboards in Grafana's JSON model."""

from typing import Any

from panels import Panel, Row

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, COLUMNS = 8, 8, 3
"""Of a panel, in Grafana's grid of 24 columns."""


def dashboard(name: str, rows: tuple[Row, ...]) -> dict[str, Any]:
    """Grafana's JSON model, for its import page and for provisioning from files."""
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
        "templating": {
            "list": [
                {"type": "datasource", "name": "datasource", "label": "Prometheus",
                 "query": "prometheus"},
                {"type": "query", "name": "run", "label": "Run", "datasource": SOURCE,
                 "query": "label_values(asyncds_coordinator_steps_total, run)", "refresh": 2,
                 "multi": True, "includeAll": True, "allValue": ".*",
                 "current": {"text": ["All"], "value": ["$__all"]}},
            ]
        },
        "panels": list(_placed(rows)),
    }  # fmt: skip


def _placed(rows: tuple[Row, ...]) -> list[dict[str, Any]]:
    placed: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        at = {"h": 1, "w": 24, "x": 0, "y": y}
        placed.append(
            {"id": len(placed) + 1, "type": "row", "title": row.title, "gridPos": at,
             "collapsed": False, "panels": []}
        )  # fmt: skip
        y += 1
        for i, content in enumerate(row.panels):
            down, across = divmod(i, COLUMNS)
            at = {"h": HEIGHT, "w": WIDTH, "x": across * WIDTH, "y": y + down * HEIGHT}
            placed.append(_graph(content, id=len(placed) + 1, at=at))
        y += HEIGHT * -(-len(row.panels) // COLUMNS)
    return placed


def _graph(panel: Panel, *, id: int, at: dict[str, int]) -> dict[str, Any]:
    custom: dict[str, Any] = {"lineWidth": 1, "showPoints": "never"}
    if panel.stack:
        custom |= {"fillOpacity": 40, "stacking": {"group": "A", "mode": "normal"}}
    return {
        "id": id,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": at,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": SOURCE,
                "expr": query.replace("{@", '{run=~"$run"'),
                "legendFormat": legend,
            }
            for i, (query, legend) in enumerate(panel.queries)
        ],
    }
