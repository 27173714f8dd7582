#!/usr/bin/env python3
"""Opens data folders that an earlier version made: everything is there, and what they are told goes on from there.

tests/deploy/folders has one that was drained and one whose server was killed, of the first storage format, made by the
program before tenants came (four sessions: book, 700 tokens; diary, 330 less an erased span of 74; draft, a fork of
book's first 370 and 50 more; short, reset to nothing). With MNEMOSYNE_TEST_OLD, an older mnemosyned, the way back is
tried too: it opens what this version wrote.

usage: upgrade_test.py MNEMOSYNED MNEMOSYNE_ADMIN SOURCE_DIR
"""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

SERVER, ADMIN, SOURCE = sys.argv[1:4]
OLD = os.environ.pop("MNEMOSYNE_TEST_OLD", "")
FOLDERS = os.path.join(SOURCE, "tests/deploy/folders")
MODEL = os.path.join(SOURCE, "tests/golden/04-swa-lmm")
PACKAGE = tempfile.TemporaryDirectory()
subprocess.run([sys.executable, os.path.join(SOURCE, "client/python/make_package.py"), PACKAGE.name], check=True,
               stdout=subprocess.DEVNULL)
sys.path[:0] = [PACKAGE.name, os.path.join(SOURCE, "tests/python")]

from mnemosyne import Client  # noqa: E402
from running_server import RunningServer  # noqa: E402


def tokens(seed, count):
    """What the folders' sessions were told."""
    out, x = [], seed
    for _ in range(count):
        x = (x * 1103515245 + 12345) % 2**31
        out.append(x // 65536 % 40)
    return out


BOOK, DIARY = tokens(1, 700), tokens(2, 330)
TOLD = {"book": BOOK, "diary": DIARY[:74] + DIARY[148:], "draft": BOOK[:370] + tokens(4, 50), "short": []}


class UpgradeTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = scratch.name

    def admin(self, *arguments):
        done = subprocess.run([ADMIN, *arguments], capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def told(self, folder, session):
        """The token ids in the session's log."""
        out = []
        for line in self.admin("dump", folder, session, "--content").split("\n"):
            if " content " in line:
                out += [int(word) for word in line.split(" content ")[1].split(",")]
        return out

    def check(self, server, expected):
        with Client(server.address) as client:
            self.assertEqual([session.session_id for session in client.list_sessions()], sorted(expected))
            for name, ids in expected.items():
                session = client.get_session(name)
                self.assertEqual((session.watermarks.accepted, session.watermarks.durable), (len(ids), len(ids)), name)
                client.ask(name, [1, 2, 3])
                self.assertIsNone(client.get_session(name).failure)
            self.assertEqual(client.get_session("book").labels, {"of": "book"})

    def serve(self, program, folder):
        server = RunningServer(program, folder, {"m": MODEL})
        self.addCleanup(server.kill)
        return server

    def test_every_folder(self):
        names = sorted(os.listdir(FOLDERS))
        self.assertGreaterEqual(len(names), 2)
        for name in names:
            with self.subTest(folder=name):
                home = os.path.join(self.scratch, name)
                os.mkdir(home)
                data = os.path.join(home, "data")
                shutil.copytree(os.path.join(FOLDERS, name), data)
                self.assertIn(": 0 damaged", self.admin("check", data))
                self.assertEqual({session: self.told(data, session) for session in TOLD}, TOLD)
                server = self.serve(SERVER, home)
                self.check(server, TOLD)
                expected = {session: list(ids) for session, ids in TOLD.items()}
                with Client(server.address) as client:
                    for session in expected:
                        more = tokens(len(session), 100)
                        with client.open_stream(session) as writer:
                            writer.append(more)
                            writer.flush()
                        expected[session] += more
                    # A fork, and one as it was before the upgrade.
                    client.fork_session("book", "past", offset=700)
                    expected["past"] = BOOK
                server.kill()
                server = self.serve(SERVER, home)
                self.check(server, expected)
                server.stop()
                self.assertIn(": 0 damaged", self.admin("check", data))
                self.assertEqual({session: self.told(data, session) for session in expected}, expected)
                if OLD:
                    server = self.serve(OLD, home)
                    self.check(server, expected)
                    server.stop()


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
