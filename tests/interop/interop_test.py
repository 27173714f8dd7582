#!/usr/bin/env python3
"""Makes every call of every service with clients that nobody here wrote: `buf curl`, and @grpc/grpc-js under Node.js.

usage: interop_test.py MNEMOSYNED SOURCE_DIR MODEL NODE_FOLDER

NODE_FOLDER gets the packages of package.json. Exits with 77 when Node.js or they cannot be had.
"""
import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

SERVER, SOURCE, MODEL, NODE_FOLDER = sys.argv[1:5]
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "python"))

from node_packages import install  # noqa: E402
from running_server import ENVIRONMENT, PATIENCE, RunningServer  # noqa: E402

PROTO = os.path.join(SOURCE, "proto")
FACT = "The special magic number for lively-panda is 1234567. "
QUESTION = "What is the special magic number for lively-panda?"


def methods_of_the_contract():
    """Service to its methods, as the protos have them."""
    services = {}
    folder = os.path.join(PROTO, "mnemosyne", "v1")
    for name in os.listdir(folder):
        if name.endswith(".proto"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                for service, body in re.findall(r"^service (\w+) \{(.*?)^\}", file.read(), re.MULTILINE | re.DOTALL):
                    services[service] = set(re.findall(r"^  rpc (\w+)\(", body, re.MULTILINE))
    assert services.keys() >= {"MemoryService", "AdminService"}, services
    return services


def b64(text):
    return base64.b64encode(text.encode()).decode()


class InteropTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.server = RunningServer(SERVER, self.folder, {"text": MODEL}, f"--backup_path={self.folder}/backups")
        self.addCleanup(self.server.kill)
        self.services = methods_of_the_contract()

    def test_grpc_js(self):
        done = subprocess.run(["node", os.path.join(HERE, "grpc_js_client.js"), self.server.address, PROTO],
                              capture_output=True, text=True, env={**ENVIRONMENT, "NODE_PATH": NODE_MODULES}, timeout=PATIENCE)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(set(done.stdout.split()), set().union(*self.services.values()))

    # buf curl.

    def buf(self, method, *messages, reflect=False):
        """Its exit code, the messages it got, and its words."""
        service = next(name for name, methods in self.services.items() if method in methods)
        schema = ["--reflect"] if reflect else ["--schema", SOURCE]
        done = subprocess.run(
            [os.path.join(NODE_MODULES, ".bin", "buf"), "curl", *schema, "--protocol", "grpc", "--http2-prior-knowledge",
             "--emit-defaults", "--data", "@-", f"http://{self.server.address}/mnemosyne.v1.{service}/{method}"],
            input="\n".join(map(json.dumps, messages or [{}])), capture_output=True, text=True, env=ENVIRONMENT,
            timeout=PATIENCE)
        decoder, got, at = json.JSONDecoder(), [], 0
        while (found := re.compile(r"\S").search(done.stdout, at)) is not None:
            message, at = decoder.raw_decode(done.stdout, found.start())
            got.append(message)
        return done.returncode, got, done.stderr

    def call(self, method, *messages, reflect=False):
        code, got, words = self.buf(method, *messages, reflect=reflect)
        self.assertEqual(code, 0, f"{method}: {words}")
        self.called.add(method)
        return got

    def refused(self, code, method, *messages):
        exit_code, got, words = self.buf(method, *messages)
        self.assertNotEqual(exit_code, 0, got)
        self.assertIn(code, words)

    def test_buf_curl(self):
        self.called = set()
        [listed] = self.call("ListModels", reflect=True)
        self.assertEqual((listed["models"][0]["name"], listed["models"][0]["tokenizer"]), ("text", "TOKENIZER_KIND_BYTES"))
        [made] = self.call("CreateSession", {"sessionId": "buf", "labels": {"by": "buf"}, "settings": {"ttl": "3600s"}})
        self.assertEqual((made["session"]["nextSequence"], made["session"]["settings"]["ttl"]), ("1", "3600s"))
        answers = self.call("Stream", {"open": {"sessionId": "buf"}}, {"append": {"sequence": 1, "text": b64(FACT)}},
                            {"append": {"sequence": 2, "tokenIds": {"ids": list(FACT.encode())}}}, {"flush": {}})
        self.assertFalse(answers[0]["opened"]["created"])
        self.assertTrue(any(answer["ack"]["flushed"] for answer in answers[1:]))
        self.assertEqual((answers[-1]["ack"]["durableSequence"], answers[-1]["ack"]["watermarks"]["durable"]),
                         ("2", str(2 * len(FACT))))
        self.check_answer("buf", self.call("Query", {"sessionId": "buf", "text": QUESTION, "maxTokens": 32}, reflect=True))
        self.assertEqual(self.call("GetSession", {"sessionId": "buf"})[0]["session"]["watermarks"]["acceptedBytes"],
                         str(5 * len(FACT)))
        [page] = self.call("ListSessions", {"pageSize": 10, "labels": {"by": "buf"}})
        self.assertEqual([session["sessionId"] for session in page["sessions"]], ["buf"])
        [updated] = self.call("UpdateSession", {"sessionId": "buf", "updateMask": "labels,settings.idleTtl",
                                                "labels": {"by": "hand"}, "settings": {"idleTtl": "60s"}})
        self.assertEqual((updated["session"]["labels"], updated["session"]["settings"]["idleTtl"]), ({"by": "hand"}, "60s"))
        parts = self.call("ExportSession", {"sessionId": "buf"})
        [imported] = self.call("ImportSession", {"sessionId": "buf-copy", **parts[0]}, *parts[1:])
        self.assertEqual(imported["session"]["watermarks"]["accepted"], str(2 * len(FACT)))
        self.check_answer("buf-copy", self.call("Query", {"sessionId": "buf-copy", "text": QUESTION, "maxTokens": 32}))
        [fork] = self.call("ForkSession", {"sessionId": "buf", "forkId": "buf-fork", "offset": len(FACT)})
        self.assertEqual(fork["session"]["watermarks"]["accepted"], str(len(FACT)))
        [erased] = self.call("EraseSpan", {"sessionId": "buf", "endOffset": len(FACT)})
        self.assertEqual(erased["stillIn"], ["buf-fork"])
        self.assertEqual(self.call("Reset", {"sessionId": "buf"})[0]["session"]["epoch"], "3")
        self.assertEqual(self.call("CreateBackup")[0]["backupId"], 1)
        for name in "buf", "buf-copy", "buf-fork":
            self.call("DeleteSession", {"sessionId": name})
        self.refused("not_found", "GetSession", {"sessionId": "buf"})
        self.refused("invalid_argument", "CreateSession", {"sessionId": "no/name"})
        self.refused("data_loss", "ImportSession", {"sessionId": "cut", **parts[0]})
        self.assertEqual(self.called, set().union(*self.services.values()))

    def check_answer(self, session, messages):
        self.assertIn("1234567", "".join(message["delta"]["text"] for message in messages[:-1]), session)
        self.assertEqual(messages[-1]["summary"]["stopReason"], "STOP_REASON_END_OF_ANSWER")


if __name__ == "__main__":
    NODE_MODULES = install(NODE_FOLDER)
    unittest.main(argv=sys.argv[:1])
