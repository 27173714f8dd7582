#!/usr/bin/env python3
"""Watches a real server under load as its operators do: a real Prometheus scrapes it, every rule and every panel of the
dashboard is evaluated there, and the debug pages are opened in a browser.

usage: watch_test.py MNEMOSYNED MNEMO SOURCE_DIR
"""
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
import urllib.request

SERVER, MNEMO, SOURCE = sys.argv[1:4]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("MNEMOSYNE_")}
PATIENCE = 120  # seconds
DASHBOARD = os.path.join(SOURCE, "deploy/grafana/dashboards/mnemosyne.json")
RULES = os.path.join(SOURCE, "deploy/prometheus/rules.yml")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return answer.read().decode()


def panels():
    with open(DASHBOARD) as file:
        return [panel for panel in json.load(file)["panels"] if panel["type"] != "row"]


class WatchTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        log = open(os.path.join(cls.folder.name, "log"), "w")
        cls.addClassCleanup(log.close)
        # Room for two of the sessions below: they are evicted and read back.
        cls.server = subprocess.Popen([SERVER, f"--models=recall={SOURCE}/models/recall", "--listen=127.0.0.1:0",
                                       "--metrics_address=127.0.0.1:0", "--max_resident_bytes=4MiB", "--slow_call=1us"],
                                      cwd=cls.folder.name, env=ENVIRONMENT, stderr=log)
        cls.addClassCleanup(cls.server.wait)
        cls.addClassCleanup(cls.server.kill)
        text, end = "", time.time() + PATIENCE
        while "serving on" not in text and time.time() < end:
            time.sleep(0.05)
            with open(log.name) as written:
                text = written.read()
        cls.address = re.search(r"serving on (\S+)", text).group(1)
        cls.metrics = re.search(r"metrics on ([^\s/]+)", text).group(1)
        cls.stop = threading.Event()
        cls.load = threading.Thread(target=cls.keep_busy)
        cls.load.start()
        cls.addClassCleanup(cls.load.join)
        cls.addClassCleanup(cls.stop.set)

    @classmethod
    def mnemo(cls, *arguments, text=None):
        return subprocess.run([MNEMO, f"--server={cls.address}", *arguments], input=text, env=ENVIRONMENT, timeout=PATIENCE,
                              capture_output=True, text=True)

    @classmethod
    def keep_busy(cls):
        number = 0
        while not cls.stop.is_set():
            session = f"book-{number % 4}"
            cls.mnemo("stream", session, text=f"Chapter {number}. The special magic number for lively-panda is {1234567 + number}. " * 4)
            cls.mnemo("query", session, "What is the special magic number for lively-panda?")
            cls.mnemo("show", "nobody")
            number += 1

    def start_prometheus(self):
        folder, port = os.path.join(self.folder.name, "prometheus"), free_port()
        os.mkdir(folder)
        config = os.path.join(folder, "prometheus.yml")
        with open(config, "w") as file:
            json.dump({"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [RULES],
                       "scrape_configs": [{"job_name": "mnemosyne", "static_configs": [{"targets": [self.metrics]}]}]}, file)
        log = open(os.path.join(folder, "log"), "w")
        self.addCleanup(log.close)
        prometheus = subprocess.Popen(["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
                                       f"--web.listen-address=127.0.0.1:{port}"], stderr=log, stdout=log)
        self.addCleanup(prometheus.wait)
        self.addCleanup(prometheus.kill)
        return f"http://127.0.0.1:{port}/api/v1"

    def ask(self, api, expression):
        """What the expression is now: a list of (labels, value)."""
        answer = json.loads(get(f"{api}/query?query={urllib.parse.quote(expression)}"))
        self.assertEqual(answer["status"], "success", expression)
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    @unittest.skipUnless(shutil.which("prometheus"), "prometheus is not installed")
    def test_rules_and_panels_have_data(self):
        api = self.start_prometheus()
        expressions = {}  # what is still without data -> where it is
        for panel in panels():
            for target in panel["targets"]:
                expression = (target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$model", ".*"))
                self.assertNotIn("$", expression, panel["title"])
                expressions[expression] = panel["title"]
        expressions["count(mnemosyne:lag_seconds) or count(mnemosyne:tokens_memorized:rate5m)"] = "records"
        end = time.time() + PATIENCE
        while expressions and time.time() < end:
            time.sleep(1)
            try:
                has_data = [e for e in expressions if any(value == value for _, value in self.ask(api, e))]
            except OSError:
                continue  # it is not there yet
            for expression in has_data:
                del expressions[expression]
        self.assertEqual(expressions, {}, "these have no data")

        groups = json.loads(get(f"{api}/rules"))["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        self.assertGreaterEqual(len(rules), 15)
        for rule in rules:
            self.assertEqual((rule["name"], rule["health"], rule.get("lastError", "")), (rule["name"], "ok", ""))
        firing = [alert["labels"] for alert in json.loads(get(f"{api}/alerts"))["data"]["alerts"] if alert["state"] == "firing"]
        self.assertEqual(firing, [])
        scraped = self.ask(api, "up")
        self.assertEqual([value for _, value in scraped], [1.0])

    @unittest.skipUnless(shutil.which("promtool"), "promtool (Debian: prometheus) is not installed")
    def test_promtool_finds_nothing_to_say(self):
        checked = subprocess.run(["promtool", "check", "metrics"], input=get(f"http://{self.metrics}/metrics"), text=True,
                                 capture_output=True, timeout=PATIENCE)
        self.assertEqual((checked.returncode, checked.stdout, checked.stderr), (0, "", ""))
        for command in (["check", "rules", RULES], ["test", "rules", os.path.join(SOURCE, "tests/deploy/rules_test.yml")]):
            done = subprocess.run(["promtool", *command], text=True, capture_output=True, timeout=PATIENCE)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_docs_name_every_metric(self):
        exported = set(re.findall(r"# TYPE (\S+)", get(f"http://{self.metrics}/metrics")))
        with open(os.path.join(SOURCE, "docs/server.md")) as file:
            rows = [line for line in file if line.startswith("| `")]
        named = {name for row in rows for name in re.findall(r"`(\w+)", row.split(" | ")[0])}
        self.assertEqual(sorted(exported - named), [], "docs/server.md lacks these")

    def test_the_dashboard_is_what_its_script_writes(self):
        made = subprocess.run([sys.executable, os.path.join(SOURCE, "deploy/grafana/make_dashboard.py")], text=True,
                              capture_output=True, timeout=PATIENCE)
        with open(DASHBOARD) as file:
            self.assertEqual(file.read(), made.stdout)

    def wait_for_surprise(self):
        end = time.time() + PATIENCE
        while time.time() < end:
            ids = re.findall(r'href="(/debug/session\?id=[^"]+)"', get(f"http://{self.metrics}/debug"))
            for page in ids:
                if "<polyline" in get(f"http://{self.metrics}{page}"):
                    return page
            time.sleep(0.1)
        self.fail("no session shows its surprise")

    def test_the_debug_pages(self):
        page = self.wait_for_surprise()
        text = get(f"http://{self.metrics}/debug")
        for shown in "book-", "recall", "takes writes":
            self.assertIn(shown, text)
        for content in "lively-panda", "magic", "<script":
            self.assertNotIn(content, text + get(f"http://{self.metrics}{page}"))
        self.assertIn("not in memory", get(f"http://{self.metrics}/debug/session?id=nobody"))
        self.assertNotIn("<b>", get(f"http://{self.metrics}/debug/session?id=%3Cb%3E"))

    @unittest.skipUnless(shutil.which("chromium"), "chromium is not installed")
    def test_a_browser_shows_the_debug_pages(self):
        def shown(target):
            done = subprocess.run(["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={self.folder.name}/browser",
                                   "--enable-logging=stderr", "--dump-dom", f"http://{self.metrics}{target}"],
                                  text=True, capture_output=True, timeout=PATIENCE)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertNotIn("CONSOLE", done.stderr)  # such as a style that the page's own policy refuses
            return done.stdout
        page = self.wait_for_surprise()
        dom = shown("/debug")
        self.assertRegex(dom, r"<table[^>]*id=\"sessions\"")
        self.assertIn("book-", dom)
        dom = shown(page)
        if "not in memory" not in dom:  # it may have been evicted meanwhile
            self.assertRegex(dom, r"<svg[^>]*aria-label=\"surprise over the stream\"")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
