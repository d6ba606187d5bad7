"""
Dashboard, alerts and examples work with what the package really exports.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

import pytest

from safepulsar.metrics import Metrics
from tests.deploy.prometheus_process import DEPLOY, PrometheusProcess, program, run
from tests.waiting import wait_until
from tools.dashboard_picture import draw

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT: Final = Path(__file__).parents[2]
_RULES: Final = DEPLOY / "prometheus" / "safepulsar.rules.yml"
_DASHBOARD: Final[dict[str, Any]] = json.loads((DEPLOY / "grafana" / "safepulsar.json").read_text(encoding="utf-8"))
_PANELS: Final = [panel for panel in _DASHBOARD["panels"] if panel["type"] != "row"]
_TARGETS: Final = [target for panel in _PANELS for target in panel["targets"]]
_EXPRESSIONS: Final = [target["expr"] for target in _TARGETS]
# What Grafana's own schema wants of the options of the panels that are used here.
_OPTIONS: Final = {
    "stat": {
        *("colorMode", "graphMode", "justifyMode", "orientation", "percentChangeColorMode", "reduceOptions"),
        *("showPercentChange", "textMode", "wideLayout"),
    },
    "timeseries": {"legend", "tooltip"},
}
_LEGEND: Final = {"calcs", "displayMode", "placement", "showLegend"}
_METRIC: Final = re.compile(r"\bsafepulsar_[a-z_]+")
_VALUES: Final = {"$__rate_interval": "10s", "$job": ".*", "$instance": ".*"}


def filled(expression: str) -> str:
    """
    What Grafana makes of it.
    """
    for name, value in _VALUES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusProcess]:
    """
    One that scrapes an application in which everything happens.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "tests.deploy.application"],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as application:
        assert application.stdout is not None
        try:
            port = int(application.stdout.readline())
            with PrometheusProcess(tmp_path_factory.mktemp("prometheus"), port) as process:
                yield process
        finally:
            assert application.stdin is not None
            application.stdin.close()
            try:
                application.wait(20)
            finally:
                application.kill()


@pytest.mark.parametrize(
    ("name", "command", "file"),
    [
        ("promtool", ("check", "rules"), _RULES),
        ("promtool", ("test", "rules"), _RULES.with_name("safepulsar.rules.test.yml")),
        ("promtool", ("check", "config"), _RULES.with_name("prometheus.yml")),
        ("amtool", ("check-config",), DEPLOY / "alertmanager" / "alertmanager.yml"),
    ],
    ids=["rules", "rules by example", "prometheus.yml", "alertmanager.yml"],
)
def test_their_own_tools_find_nothing(name: str, command: tuple[str, ...], file: Path) -> None:
    """
    Syntax, and for each alert a case that raises it beside one that must not.
    """
    run(name, *command, file)


def test_every_alert_has_a_case() -> None:
    """
    No alert is without a test that it is raised, and one at its threshold that it is not.
    """
    alerts = set(re.findall(r"- alert: (\w+)", _RULES.read_text()))
    cases, at_thresholds = _RULES.with_name("safepulsar.rules.test.yml").read_text().split("at every threshold")
    raised = {name for name in alerts if re.search(rf"alertname: {name}\n +exp_alerts:\n +- exp_labels", cases)}
    assert raised == alerts
    assert set(re.findall(r"alertname: (\w+), exp_alerts: \[\]", at_thresholds)) == alerts
    assert alerts >= {
        "SafepulsarErrorRate",
        "SafepulsarBacklog",
        "SafepulsarCpu",
        "HostCpu",
        "SafepulsarLanesPaused",
        "SafepulsarStoreGrowing",
        "SafepulsarStoreOld",
    }


@pytest.mark.parametrize(
    ("expression", "changed"),
    [
        ("> 0.01", "> 0.0099"),
        ("> 0.01", "> 0.03"),
        (
            '> 10000\n        labels: {severity: critical}\n        annotations:\n          summary: "{{ $labels.job',
            None,
        ),
        ("> 0.85) and", "> 0.84) and"),
        ('mode="idle"}[1m])) > 0.85', 'mode="idle"}[1m])) > 0.84'),
        ("for: 5m", "for: 10m"),
        ("sum by (job) (safepulsar_paused_lanes) > 0", "sum by (job) (safepulsar_paused_lanes) > 2"),
        ('state="kept"}[10m])) > 0', 'state="kept"}[10m])) > 400'),
        ("> 3600", "> 3599"),
    ],
)
def test_their_cases_hold_each_threshold(tmp_path: Path, expression: str, changed: str | None) -> None:
    """
    With another threshold than the one that is documented, a case fails.
    """
    rules = _RULES.read_text()
    assert expression in rules
    other = expression.replace("10000", "9999") if changed is None else changed
    (tmp_path / _RULES.name).write_text(rules.replace(expression, other))
    cases = _RULES.with_name("safepulsar.rules.test.yml")
    (tmp_path / cases.name).write_text(cases.read_text())
    ended = subprocess.run(
        [program("promtool"), "test", "rules", tmp_path / cases.name],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stdout
    assert "FAILED" in ended.stdout + ended.stderr


@pytest.mark.timeout(120)
def test_every_query_of_the_dashboard_has_an_answer(prometheus: PrometheusProcess) -> None:
    """
    None is refused, and none is empty: each names what the package really exports, and its legend labels that it has.
    """
    for target in _TARGETS:
        query = filled(target["expr"])
        wait_until(lambda query=query: bool(prometheus.query(query)), query, timeout_seconds=60)  # type: ignore[misc]
        labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert all(labels <= series["metric"].keys() for series in prometheus.query(query)), query


@pytest.mark.timeout(120)
def test_variables_of_the_dashboard_have_values(prometheus: PrometheusProcess) -> None:
    """
    One chooses applications, one processes.
    """
    wait_until(lambda: bool(prometheus.query("safepulsar_store_up")), "the first scrape", timeout_seconds=60)
    for variable in _DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert found is not None
            selector = filled(found[1])
            assert prometheus.get(f"label/{found[2]}/values", **{"match[]": selector})


@pytest.mark.timeout(120)
def test_every_alert_is_evaluated(prometheus: PrometheusProcess) -> None:
    """
    By a running Prometheus, without an error; and what is wrong with the application is found.
    """
    wait_until(
        lambda: {rule["health"] for group in prometheus.get("rules")["groups"] for rule in group["rules"]} == {"ok"},
        "all rules to be evaluated",
        timeout_seconds=60,
    )

    def firing() -> set[str]:
        return {alert["labels"]["alertname"] for alert in prometheus.get("alerts")["alerts"]}

    wait_until(
        lambda: {"SafepulsarErrorRate", "SafepulsarLanesPaused"} <= firing(),
        "the alerts on an application that fails",
        timeout_seconds=60,
    )


@pytest.mark.timeout(120)
def test_the_dashboard_can_be_drawn(prometheus: PrometheusProcess) -> None:
    """
    As a picture, with every panel; the one in the documentation shows the same panels, and is small.
    """
    wait_until(lambda: bool(prometheus.query("safepulsar_store_up")), "the first scrape", timeout_seconds=60)
    drawn = draw(_DASHBOARD, prometheus.url, time.time() - 60, time.time())
    kept = (_ROOT / "docs" / "pictures" / "dashboard.svg").read_text(encoding="utf-8")
    for picture in (drawn, kept):
        root = ET.fromstring(picture)  # noqa: S314 - our own
        texts = {element.text for element in root.iter() if element.tag.endswith("text")}
        assert {panel["title"] for panel in _DASHBOARD["panels"]} <= texts
    assert "polyline" in drawn
    assert len(kept) < 150_000


def test_everything_that_is_exported_is_shown() -> None:
    """
    No number without a panel, and no panel of one that does not exist.
    """
    exported = {family.name for family in Metrics().collect()}
    suffixes = re.compile(r"_(bucket|count|sum)$")
    named = {suffixes.sub("", name) for expression in _EXPRESSIONS for name in _METRIC.findall(expression)}
    assert named == exported
    alerts = {suffixes.sub("", name) for name in _METRIC.findall(_RULES.read_text())}
    assert alerts - {"safepulsar_rules_yml"} <= exported


def test_the_dashboard_is_well_formed() -> None:
    """
    Panels don't overlap, each has a title, a description, a unit, and the options of its kind, and ids are unique.
    """
    assert len({panel["id"] for panel in _DASHBOARD["panels"]}) == len(_DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in _DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in _PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"] in {"short", "percentunit", "s", "ops", "bytes", "Bps"}
        assert set(panel["options"]) == _OPTIONS[panel["type"]]
        assert set(panel["options"].get("legend", _LEGEND)) == _LEGEND
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == ["A", "B", "C"][: len(letters)]
    assert _DASHBOARD["schemaVersion"] == 39  # of Grafana 11; later ones take it, and rewrite it themselves
    assert _DASHBOARD["uid"] == "safepulsar"
    assert all({"text", "value"} <= set(variable["current"]) for variable in _DASHBOARD["templating"]["list"])
