#!/usr/bin/env python3
"""Runs mnemosyned as who has to secure it does: TLS, certificates that are renewed, tokens, the audit log, limits.

usage: security_test.py MNEMOSYNED MNEMO MNEMOSYNE_ADMIN MODEL_FOLDER
"""
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

SERVER, MNEMO, ADMIN, MODEL = sys.argv[1:5]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("MNEMOSYNE_")}
PATIENCE = 60  # seconds


class SecurityTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def run_program(self, *arguments, **environment):
        done = subprocess.run(arguments, cwd=self.folder, env={**ENVIRONMENT, **environment}, timeout=PATIENCE,
                              capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def start(self, *flags, listen="127.0.0.1:0"):
        """A server that serves; its address."""
        self.log = open(self.path("log"), "w+")
        self.addCleanup(self.log.close)
        self.server = subprocess.Popen([SERVER, f"--models=m={MODEL}", f"--listen={listen}", "--metrics_address=", *flags],
                                       cwd=self.folder, env=ENVIRONMENT, stderr=self.log)
        self.addCleanup(self.server.wait)
        self.addCleanup(self.server.kill)
        end = time.time() + PATIENCE
        while time.time() < end and self.server.poll() is None:
            found = re.search(r'serving on ([^\s"]+)', self.logged())
            if found:
                return found.group(1)
            time.sleep(0.02)
        self.fail(f"it does not serve: {self.logged()}")

    def logged(self):
        with open(self.path("log")) as log:
            return log.read()

    def metrics_address(self):
        return re.search(r"metrics on ([^/\s]+)/metrics", self.logged()).group(1)

    def mnemo(self, address, *arguments, **environment):
        return self.run_program(MNEMO, f"--server={address}", "--connect_timeout=1s", *arguments, **environment)

    # Certificates.

    def openssl(self, *arguments):
        done = subprocess.run(["openssl", *arguments], cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def make_ca(self, name):
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                     "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.crt")

    def make_certificate(self, name, ca, serial):
        self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                     "-keyout", f"{name}.key", "-out", f"{name}.csr")
        with open(self.path("extensions"), "w") as extensions:
            extensions.write("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-days", "1",
                     "-set_serial", str(serial), "-extfile", "extensions", "-out", f"{name}.crt")

    def served_serial(self, address):
        """The serial number of the certificate that a new connection is shown."""
        context = ssl.create_default_context(cafile=self.path("ca.crt"))
        context.set_alpn_protocols(["h2"])
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as raw:
            with context.wrap_socket(raw, server_hostname=host) as connection:
                return int(connection.getpeercert()["serialNumber"], 16)

    def serial_in_the_end(self, address, wanted):
        end, seen = time.time() + PATIENCE, None
        while seen != wanted and time.time() < end:
            try:
                seen = self.served_serial(address)
            except (ssl.SSLError, OSError) as error:  # it looked between the two files
                seen = error
            time.sleep(0.1)
        return seen

    # Transport.

    def test_a_public_address_needs_tls_or_a_word(self):
        for listen in "0.0.0.0:0", "[::]:0":
            code, _, err = self.run_program(SERVER, f"--models=m={MODEL}", f"--listen={listen}", "--metrics_address=")
            self.assertEqual(code, 2)
            self.assertIn("--listen", err)
            self.assertIn("--allow_insecure", err)
            self.assertFalse(os.path.exists(self.path("data")))
        self.start("--allow_insecure", listen="0.0.0.0:0")

    def test_files_for_tls_are_checked_at_the_start(self):
        self.make_ca("ca")
        self.make_certificate("server", "ca", 1)
        self.make_certificate("other", "ca", 2)
        for flags, what, wanted in (
                (["--tls_certificate=server.crt"], "--tls_key", 2),
                (["--tls_client_ca=ca.crt"], "--tls_certificate", 2),
                (["--tls_certificate=none.crt", "--tls_key=server.key"], "none.crt", 1),
                (["--tls_certificate=server.key", "--tls_key=server.key"], "holds no certificate", 1),
                (["--tls_certificate=server.crt", "--tls_key=server.crt"], "holds no private key", 1),
                (["--tls_certificate=server.crt", "--tls_key=other.key"], "is not the key", 1)):
            code, _, err = self.run_program(SERVER, f"--models=m={MODEL}", "--listen=127.0.0.1:0", "--metrics_address=", *flags)
            self.assertEqual(code, wanted, err)
            self.assertIn(what, err.splitlines()[-1])

    def test_tls_and_a_certificate_that_is_renewed(self):
        self.make_ca("ca")
        self.make_ca("stranger")
        self.make_certificate("server", "ca", 41)
        address = self.start("--tls_certificate=server.crt", "--tls_key=server.key", "--metrics_address=127.0.0.1:0")
        code, _, err = self.mnemo(address, "--tls_ca=ca.crt", "create", "book")
        self.assertEqual(code, 0, err)
        for flags in ([], ["--tls_ca=stranger.crt"]):
            code, _, err = self.mnemo(address, *flags, "sessions")
            self.assertEqual(code, 3, err)
        self.assertEqual(self.served_serial(address), 41)
        self.make_certificate("renewed", "ca", 42)
        for suffix in "key", "crt":
            os.replace(self.path(f"renewed.{suffix}"), self.path(f"server.{suffix}"))
        self.assertEqual(self.serial_in_the_end(address, 42), 42)
        # Halves of two pairs, then no file at all: what there was is shown on, and the log and a metric say so.
        self.make_certificate("next", "ca", 43)
        for change in (lambda: os.replace(self.path("next.crt"), self.path("server.crt")),
                       lambda: os.rename(self.path("server.crt"), self.path("next.crt"))):
            refusals = self.logged().count("the files for TLS are not taken")
            change()
            end = time.time() + PATIENCE
            while self.logged().count("the files for TLS are not taken") == refusals:
                self.assertLess(time.time(), end)
                time.sleep(0.05)
            for _ in range(25):  # gRPC looks every second, too
                self.assertEqual(self.served_serial(address), 42)
                time.sleep(0.1)
        self.assertIn("is not the key of the certificate", self.logged())
        with urllib.request.urlopen(f"http://{self.metrics_address()}/metrics", timeout=PATIENCE) as page:
            metrics = page.read().decode()
        self.assertIn('mnemosyne_tls_reloads_total{result="refused"} 2', metrics)
        not_after = float(re.search(r"^mnemosyne_tls_certificate_not_after_seconds (\S+)", metrics, re.M).group(1))
        self.assertAlmostEqual(not_after, time.time() + 86400, delta=2 * PATIENCE)  # openssl's -days 1
        for suffix in "key", "crt":
            os.replace(self.path(f"next.{suffix}"), self.path(f"server.{suffix}"))
        self.assertEqual(self.serial_in_the_end(address, 43), 43)
        self.assertIsNone(self.server.poll())
        self.assertEqual(self.mnemo(address, "--tls_ca=ca.crt", "show", "book")[0], 0)

    def test_mutual_tls(self):
        self.make_ca("ca")
        self.make_ca("stranger")
        self.make_certificate("server", "ca", 1)
        self.make_certificate("client", "ca", 2)
        self.make_certificate("intruder", "stranger", 3)
        address = self.start("--tls_certificate=server.crt", "--tls_key=server.key", "--tls_client_ca=ca.crt")
        def create(*flags):
            return self.mnemo(address, "--tls_ca=ca.crt", *flags, "create", "book")
        self.assertEqual(create()[0], 3)
        self.assertEqual(create("--tls_certificate=intruder.crt", "--tls_key=intruder.key")[0], 3)
        code, _, err = create("--tls_certificate=client.crt", "--tls_key=client.key")
        self.assertEqual(code, 0, err)

    # Tokens.

    def make_token(self, name, tenant, role):
        code, out, err = self.run_program(ADMIN, "token", name, tenant, role)
        self.assertEqual(code, 0, err)
        token = re.search(r"nowhere else\): (\S+)", out).group(1)
        entry = json.loads(re.search(r"tokens: (\{.*\})", out).group(1))
        self.assertNotIn(token, json.dumps(entry))
        return token, entry

    def write_access(self, *entries):
        with open(self.path("access.new"), "w") as access:
            json.dump({"format": "mnemosyne-access-1", "tenants": {"acme": {}}, "tokens": entries}, access)
        os.rename(self.path("access.new"), self.path("access.json"))

    def test_tokens_are_made_used_and_withdrawn(self):
        token, entry = self.make_token("ingest", "acme", "write")
        self.write_access(entry)
        with open(self.path("token"), "w") as file:
            file.write(token + "\n")
        address = self.start("--access_file=access.json", "--audit_log=audit.jsonl", "--log_format=json")
        code, _, err = self.mnemo(address, "create", "book")
        self.assertEqual(code, 1)
        self.assertIn("needs the header 'authorization: Bearer TOKEN'", err)
        self.assertEqual(self.mnemo(address, "--token_file=token", "create", "book")[0], 0)
        self.assertEqual(self.mnemo(address, "show", "book", MNEMOSYNE_TOKEN=token)[0], 0)
        code, _, _ = self.mnemo(address, "--token_file=token", "query", "book", "is it under a stone?")
        self.assertEqual(code, 1)  # the model reads token ids only; what was asked is content all the same
        code, _, err = self.mnemo(address, "--token_file=token", "backup")
        self.assertEqual(code, 1)
        self.assertIn("the call needs admin", err)

        self.write_access()
        end = time.time() + PATIENCE
        while self.mnemo(address, "--token_file=token", "show", "book")[0] == 0 and time.time() < end:
            time.sleep(0.1)
        self.assertIn("authorization", self.mnemo(address, "--token_file=token", "show", "book")[2])

        with open(self.path("access.json"), "w") as access:
            access.write("{")
        while "not taken" not in self.logged() and time.time() < end:
            time.sleep(0.1)
        for line in self.logged().splitlines():
            self.assertIn("message", json.loads(line))
        self.assertIn("not taken", self.logged())
        with open(self.path("audit.jsonl")) as audit:
            records = [json.loads(line) for line in audit]
        self.assertEqual([(r["token"], r["code"]) for r in records if r["method"] == "CreateSession"],
                         [("", "UNAUTHENTICATED"), ("ingest", "OK")])
        for secret in token, "stone":
            self.assertNotIn(secret, json.dumps(records) + self.logged())

    def test_a_bad_access_file_keeps_the_server_from_starting(self):
        with open(self.path("access.json"), "w") as access:
            access.write('{"format": "mnemosyne-access-1", "tenants": {}, "tokens": [{"name": "x"}]}')
        code, _, err = self.run_program(SERVER, f"--models=m={MODEL}", "--listen=127.0.0.1:0", "--metrics_address=",
                                        "--access_file=access.json")
        self.assertEqual(code, 1)
        self.assertIn("tokens[0].tenant", err)
        code, _, err = self.run_program(ADMIN, "token", "x", "acme", "owner")
        self.assertEqual(code, 1)
        self.assertIn("owner", err)

    def test_slow_calls_are_told_without_their_content(self):
        address = self.start("--slow_call=1us")
        self.assertEqual(self.mnemo(address, "create", "book")[0], 0)
        end = time.time() + PATIENCE
        while "slow call" not in self.logged() and time.time() < end:
            time.sleep(0.05)
        self.assertRegex(self.logged(), r"warning slow call method=CreateSession session=book code=OK milliseconds=total=")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
