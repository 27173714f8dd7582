#!/usr/bin/env python3
"""Checks the types of the Grafana dashboard against Grafana's own schema (npm: @grafana/schema), by TypeScript.

usage: dashboard_test.py SOURCE_DIR NODE_FOLDER
"""
import copy
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import node_packages  # noqa: E402

SOURCE, FOLDER = (os.path.abspath(argument) for argument in sys.argv[1:3])


def complaints(modules, dashboard):
    """What TypeScript says of it; an object literal may have no key that the type lacks."""
    path = os.path.join(FOLDER, f"dashboard-{os.getpid()}.ts")
    with open(path, "w", encoding="utf-8") as file:
        file.write("import type {Dashboard} from '@grafana/schema';\n"
                   f"export const dashboard: Dashboard = {json.dumps(dashboard, indent=1)};\n")
    try:
        done = subprocess.run(["node", os.path.join(modules, "typescript/bin/tsc"), "--noEmit", "--strict", "--skipLibCheck",
                               "--moduleResolution", "node", path], cwd=FOLDER, capture_output=True, text=True, timeout=300)
    finally:
        os.remove(path)
    if done.returncode != 0 and not done.stdout:
        raise RuntimeError(done.stderr)
    return done.stdout.strip()


def main():
    modules = node_packages.install(FOLDER)
    with open(os.path.join(SOURCE, "deploy/grafana/dashboards/mnemosyne.json"), encoding="utf-8") as file:
        dashboard = json.load(file)
    found = complaints(modules, dashboard)
    # It would find mistakes.
    wrong_type, unknown_key = copy.deepcopy(dashboard), copy.deepcopy(dashboard)
    wrong_type["panels"][1]["gridPos"]["w"] = "8"
    unknown_key["panels"][1]["tittle"] = "x"
    for name, mistake in (("a wrong type", wrong_type), ("an unknown key", unknown_key)):
        if not complaints(modules, mistake):
            found += f"\nself-check: {name} was not found"
    print(found or f"{len(dashboard['panels'])} panels fit the schema")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
