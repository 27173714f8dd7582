#!/usr/bin/env python3
"""Runs mnemo-bench against a real server: what it prints, what its file gets, how it goes on.

usage: mnemo_bench_test.py MNEMO_BENCH MNEMOSYNED MODEL_FOLDER SMALL_MODEL_FOLDER
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

BENCH, SERVER, MODEL, SMALL_MODEL = sys.argv[1:5]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("MNEMOSYNE_")}


class MnemoBenchTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        with open(self.path("text.txt"), "w", encoding="utf-8") as file:
            file.write("And the rivers ran down to the sea, and nobody counted the stones. " * 100)
        server = subprocess.Popen([SERVER, f"--models=m={MODEL}", "--data=data", "--listen=127.0.0.1:0",
                                   "--metrics_address="],
                                  cwd=self.folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        self.addCleanup(server.stderr.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        self.address = None
        for line in server.stderr:
            found = re.search(r"serving on (\S+?)\"?$", line.strip())
            if found:
                self.address = found.group(1)
                return
        self.fail("the server ended")

    def path(self, name):
        return os.path.join(self.folder, name)

    def bench(self, *arguments):
        done = subprocess.run([BENCH, f"--server={self.address}", "--haystack=text.txt", *arguments], cwd=self.folder,
                              env=ENVIRONMENT, timeout=300, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def lines(self, name):
        with open(self.path(name), encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def test_measures_cells_and_goes_on_where_it_was_cut_off(self):
        asked = ("recall", "--tasks=number,passkey", "--bytes=256,512", "--samples=2", "--json=out.jsonl")
        code, out, err = self.bench(*asked)
        self.assertEqual(code, 0, err)
        self.assertEqual(len(out.splitlines()), 4)
        whole = self.lines("out.jsonl")
        self.assertEqual([(line["task"], line["bytes"]) for line in whole],
                         [("number", 256), ("number", 512), ("passkey", 256), ("passkey", 512)])
        for line in whole:
            self.assertEqual((line["questions"], line["samples"], line["model"]), (2, 2, "m"))
            self.assertAlmostEqual(line["exact_percent"], 50 * line["right"])
            self.assertGreaterEqual(line["contained_percent"], line["exact_percent"])
            self.assertGreaterEqual(line["tokens"], line["bytes"])

        # The last line's end is lost, as when the program is killed while it writes.
        with open(self.path("out.jsonl"), "rb+") as file:
            file.truncate(os.path.getsize(self.path("out.jsonl")) - 5)
        code, out, err = self.bench(*asked, "--resume")
        self.assertEqual(code, 0, err)
        self.assertEqual(len(out.splitlines()), 4)
        resumed = self.lines("out.jsonl")
        self.assertEqual(resumed[:3], whole[:3])  # their seconds too: they were not measured again
        for line in whole[3], resumed[3]:
            del line["seconds"]
        self.assertEqual(resumed[3], whole[3])  # the same samples, the same answers

        code, _, err = self.bench(*asked, "--resume", "--seed=2")
        self.assertEqual(code, 0, err)
        self.assertEqual(len(self.lines("out.jsonl")), 8)

    def test_capacity_counts_what_is_held(self):
        code, out, err = self.bench("capacity", "--tasks=number", "--capacity_bytes=1024", "--max_facts=4",
                                    "--questions=4", "--json=out.jsonl")
        self.assertEqual(code, 0, err)
        self.assertEqual(len(out.splitlines()), 3)
        self.assertEqual([(line["facts"], line["questions"]) for line in self.lines("out.jsonl")],
                         [(1, 4), (2, 4), (4, 4)])

    def test_engine_measures_against_the_blas(self):
        done = subprocess.run([BENCH, "engine", f"--models={MODEL}", "--nokinds", "--repeats=1", "--seconds=0.02", "--json=out.jsonl"],
                              cwd=self.folder, env=ENVIRONMENT, timeout=300, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("GFLOP/s", done.stdout.splitlines()[0])
        lines = self.lines("out.jsonl")
        self.assertEqual([line["what"] for line in lines[-4:]],
                         [f"{MODEL}, blocks of 64"] + [f"{MODEL}, decoding {n}" for n in (1, 8, 32)])
        for line in lines:
            self.assertGreater(line["tokens_per_second"], 0)
            self.assertGreater(line["percent_of_g"], 0)
        code, _, err = self.bench("engine", "--models=none")
        self.assertEqual(code, 1)
        self.assertIn("none/config.json", err)

    def test_service_measures_a_server_of_its_own(self):
        done = subprocess.run([BENCH, "service", f"--mnemosyned={SERVER}", f"--models={SMALL_MODEL}", "--scratch=.",
                               "--repeats=1", "--far_offset=12000", "--crowd=200", "--session_tokens=64",
                               "--json=out.jsonl"],
                              cwd=self.folder, env=ENVIRONMENT, timeout=300, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = {line["what"]: line for line in self.lines("out.jsonl")}
        for what, of in (("64 sessions streamed over gRPC, durable", "no server"),
                         ("query to first token at offset 11968", "at offset 9984"),
                         ("decoding, 64 queries at once", "1 query"),
                         ("200 sessions in turn, a block each, memory for 20", "no server")):
            self.assertEqual(lines[what]["of"], of)
            self.assertGreater(lines[what]["ratio"], 0)
            self.assertGreater(lines[what]["value"], 0)
        self.assertGreater(lines["process start to serving"]["value"], 0)
        code, _, err = self.bench("service", "--parts=none", f"--models={MODEL}")
        self.assertEqual(code, 1)
        self.assertIn("there is no part 'none'", err)
        code, _, err = self.bench("service", "--mnemosyned=/none", f"--models={MODEL}")
        self.assertEqual(code, 1)
        self.assertIn("cannot start '/none'", err)

    def test_errors_name_what_is_wrong(self):
        for arguments, what in (
                (("recall", "--resume"), "--resume needs --json"),
                (("recall", "--model=none"), "no model 'none'"),
                (("recall", "--tasks=qa1"), "'qa1' is none of these tasks"),
                (("recall", "--json=no/such/folder"), "no/such/folder"),
        ):
            code, _, err = self.bench(*arguments)
            self.assertEqual(code, 1, arguments)
            self.assertIn(what, err)
        with open(self.path("bad.jsonl"), "w", encoding="utf-8") as file:
            file.write("{}\nnot json\n")
        code, _, err = self.bench("recall", "--json=bad.jsonl", "--resume")
        self.assertEqual(code, 1)
        self.assertIn("line 2", err)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
