#!/usr/bin/env python3
"""Writes the Grafana dashboard of a Mnemosyne server: JSON is long, and what differs between panels is short.

usage: deploy/grafana/make_dashboard.py > deploy/grafana/dashboards/mnemosyne.json
"""
import json

WIDTH, HEIGHT = 8, 8  # three panels a row of Grafana's 24 columns
AT = '{instance=~"$instance"}'


def at(*matchers):
    return "{" + ", ".join(['instance=~"$instance"', *matchers]) + "}"


def rate(metric, *matchers):
    return f"sum(rate({metric}{at(*matchers)}[$__rate_interval]))"


def quantile(q, metric, *matchers):
    return f"histogram_quantile({q}, sum by (le) (rate({metric}_bucket{at(*matchers)}[$__rate_interval])))"


def quantiles(metric, *matchers):
    return [(quantile(q, metric, *matchers), f"p{int(q * 100)}") for q in (0.5, 0.99)]


MODEL = 'model=~"$model"'
ROWS = [
    ("Overview", [
        ("Servers up", "stat", "none", [(f'count(up{{job="mnemosyne", instance=~"$instance"}} == 1)', "up")]),
        ("Tokens memorized", "timeseries", "short", [(rate("mnemosyne_tokens_memorized_total"), "tokens/s")]),
        ("Failed calls", "timeseries", "percentunit", [(f"mnemosyne:rpc_errors:ratio_rate5m{AT}", "{{instance}}")]),
        ("Sessions", "timeseries", "none", [(f"sum(mnemosyne_sessions{AT})", "sessions"),
                                            (f"sum(mnemosyne_resident_sessions{AT})", "in memory")]),
        ("Memory", "timeseries", "bytes", [(f"sum(process_resident_memory_bytes{AT})", "process"),
                                           (f"sum(mnemosyne_resident_state_bytes{AT})", "states")]),
        ("CPU", "timeseries", "none", [(f"sum(rate(process_cpu_seconds_total{AT}[$__rate_interval]))", "cores")]),
    ]),
    ("Ingest", [
        ("Tokens", "timeseries", "short", [(rate("mnemosyne_tokens_accepted_total"), "accepted/s"),
                                           (rate("mnemosyne_tokens_durable_total"), "durable/s"),
                                           (rate("mnemosyne_tokens_memorized_total"), "memorized/s")]),
        ("Behind: tokens accepted and not memorized", "timeseries", "short",
         [(f"sum(mnemosyne_lag_tokens{AT})", "all sessions"), (f"max(mnemosyne_max_lag_tokens{AT})", "most of one")]),
        ("Wait for a worker", "timeseries", "s", quantiles("mnemosyne_block_wait_seconds") +
         [(f"max(mnemosyne_oldest_wait_seconds{AT})", "oldest now")]),
        ("Step of a block", "timeseries", "s", quantiles("mnemosyne_step_seconds", MODEL)),
        ("Surprise", "timeseries", "none",
         [(f"sum by (model) (rate(mnemosyne_surprise_sum{at(MODEL)}[$__rate_interval]))"
           f" / sum by (model) (rate(mnemosyne_surprise_count{at(MODEL)}[$__rate_interval]) > 0)", "{{model}}")]),
        ("Append until durable", "timeseries", "s", quantiles("mnemosyne_append_durable_seconds")),
    ]),
    ("Queries", [
        ("Queries", "timeseries", "none", [(rate("mnemosyne_queries_total"), "accepted/s"),
                                           (rate("mnemosyne_failed_queries_total"), "failed/s")]),
        ("First token", "timeseries", "s", quantiles("mnemosyne_query_first_token_seconds")),
        ("A token of an answer", "timeseries", "s", quantiles("mnemosyne_answer_token_seconds")),
        ("Under way", "timeseries", "none", [(f"sum(mnemosyne_waiting_queries{AT})", "wait"),
                                             (f"sum(mnemosyne_running_queries{AT})", "run")]),
        ("Together", "timeseries", "none",
         [(f"{rate('mnemosyne_query_batch_size_sum')} / ({rate('mnemosyne_query_batch_size_count')} > 0)", "queries a turn"),
          (f"{rate('mnemosyne_step_batch_size_sum')} / ({rate('mnemosyne_step_batch_size_count')} > 0)", "sessions a step")]),
        ("Tokens", "timeseries", "short", [(rate("mnemosyne_prompt_tokens_total"), "read/s"),
                                           (rate("mnemosyne_answer_tokens_total"), "answered/s")]),
    ]),
    ("Sessions", [
        ("States in memory", "timeseries", "bytes", [(f"sum(mnemosyne_resident_state_bytes{AT})", "taken"),
                                                     (f"sum(mnemosyne_max_resident_state_bytes{AT})", "at most")]),
        ("Evictions and reloads", "timeseries", "none", [(rate("mnemosyne_evictions_total"), "evicted/s"),
                                                         (rate("mnemosyne_reload_seconds_count"), "reloaded/s")]),
        ("Reload", "timeseries", "s", quantiles("mnemosyne_reload_seconds")),
        ("Tokens replayed", "timeseries", "short", [(rate("mnemosyne_replayed_tokens_total"), "tokens/s")]),
        ("Writers and expired sessions", "timeseries", "none", [(f"sum(mnemosyne_writers{AT})", "writers"),
                                                                (rate("mnemosyne_expired_sessions_total"), "expired/s")]),
        ("State of a session", "table", "bytes", [(f"max by (model) (mnemosyne_model_state_bytes{at(MODEL)})", "{{model}}")]),
    ]),
    ("Storage", [
        ("Group commit", "timeseries", "s", quantiles("mnemosyne_commit_seconds")),
        ("Appends a commit", "timeseries", "none",
         [(f"{rate('mnemosyne_commit_appends_sum')} / ({rate('mnemosyne_commit_appends_count')} > 0)", "appends")]),
        ("Snapshot", "timeseries", "s", quantiles("mnemosyne_snapshot_seconds")),
        ("Written", "timeseries", "Bps", [(rate("mnemosyne_append_bytes_total"), "appends"),
                                          (rate("mnemosyne_snapshot_bytes_total"), "snapshots")]),
        ("Data folder", "timeseries", "bytes", [(f"sum(mnemosyne_stored_bytes{AT})", "stored"),
                                                (f"min(mnemosyne_disk_free_bytes{AT})", "free")]),
        ("Open files", "timeseries", "none", [(f"max(process_open_fds{AT})", "open"),
                                              (f"min(process_max_fds{AT})", "at most")]),
    ]),
    ("Errors", [
        ("Calls by code", "timeseries", "none",
         [(f"sum by (code) (rate(mnemosyne_rpcs_total{AT}[$__rate_interval]))", "{{code}}")]),
        ("Calls by method", "timeseries", "none",
         [(f"sum by (method) (rate(mnemosyne_rpcs_total{AT}[$__rate_interval]))", "{{method}}")]),
        ("Duration of calls, p99", "timeseries", "s",
         [(f'histogram_quantile(0.99, sum by (method, le) (rate(mnemosyne_rpc_seconds_bucket{at("method!~" + chr(34) + "Stream" + chr(34))}'
           "[$__rate_interval])))", "{{method}}")]),
        ("Disk refuses writes", "stat", "none", [(f"max(mnemosyne_disk_failed{AT})", "failed")]),
        ("Steps refused as not finite", "stat", "none", [(f"sum(mnemosyne_failed_steps_total{AT})", "since the start")]),
        ("Restarts", "stat", "none", [(f"sum(changes(process_start_time_seconds{AT}[1d]))", "in a day")]),
    ]),
]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def panel(number, title, kind, unit, targets, x, y):
    options = {
        "timeseries": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
                       "tooltip": {"mode": "multi", "sort": "desc"}},
        "stat": {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "value",
                 "graphMode": "area", "justifyMode": "auto", "textMode": "auto", "orientation": "auto"},
        "table": {"showHeader": True, "frameIndex": 0, "footer": {"show": False, "reducer": ["sum"], "countRows": False}},
    }[kind]
    return {
        "id": number, "type": kind, "title": title, "datasource": SOURCE,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": x, "y": y},
        "targets": [{"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expression, "legendFormat": legend,
                     "instant": kind == "table", "range": kind != "table", "format": "table" if kind == "table" else "time_series"}
                    for i, (expression, legend) in enumerate(targets)],
        "fieldConfig": {"defaults": {"unit": unit, "min": 0} if kind != "stat" else {"unit": unit}, "overrides": []},
        "options": options,
    }


def variable(name, label, query, **more):
    return {"name": name, "label": label, "type": "query", "datasource": SOURCE, "query": {"query": query, "refId": name},
            "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".*", "hide": 0,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "options": [], "regex": "", "skipUrlSync": False,
            **more}


def dashboard():
    panels, number, y = [], 1, 0
    for title, contents in ROWS:
        panels.append({"id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
                       "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}})
        number, y = number + 1, y + 1
        for i, one in enumerate(contents):
            panels.append(panel(number, *one, x=i % 3 * WIDTH, y=y + i // 3 * HEIGHT))
            number += 1
        y += (len(contents) + 2) // 3 * HEIGHT
    return {
        "uid": "mnemosyne", "title": "Mnemosyne", "tags": ["mnemosyne"], "schemaVersion": 38, "version": 1, "editable": True,
        "graphTooltip": 1, "refresh": "10s", "time": {"from": "now-1h", "to": "now"}, "timezone": "browser", "links": [],
        "annotations": {"list": []}, "fiscalYearStartMonth": 0, "liveNow": False, "weekStart": "",
        "templating": {"list": [
            {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0, "multi": False,
             "includeAll": False, "current": {"selected": False, "text": "Prometheus", "value": "prometheus"}, "options": [], "refresh": 1, "regex": "", "skipUrlSync": False},
            variable("instance", "Instance", "label_values(mnemosyne_build_info, instance)"),
            variable("model", "Model", "label_values(mnemosyne_model_info, model)"),
        ]},
        "panels": panels,
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
