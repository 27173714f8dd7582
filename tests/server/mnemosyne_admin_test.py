#!/usr/bin/env python3
"""Runs mnemosyne-admin as its users do, on the folder of a server that was stopped.

usage: mnemosyne_admin_test.py MNEMOSYNE_ADMIN MNEMOSYNED MNEMO MODEL_FOLDER
"""
import glob
import os
import re
import signal
import subprocess
import sys
import tempfile
import unittest

ADMIN, SERVER, MNEMO, MODEL = sys.argv[1:5]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("MNEMOSYNE_")}


class MnemosyneAdminTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def run_program(self, *arguments):
        done = subprocess.run(arguments, cwd=self.folder, env=ENVIRONMENT, timeout=60, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def admin(self, *arguments):
        return self.run_program(ADMIN, *arguments)

    def start(self, data="data"):
        server = subprocess.Popen([SERVER, f"--models=m={MODEL}", f"--data={data}", "--listen=127.0.0.1:0",
                                   "--metrics_address=", "--backup_path=backups"],
                                  cwd=self.folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        self.addCleanup(server.stderr.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        for line in server.stderr:
            found = re.search(r"serving on (\S+?)\"?$", line.strip())
            if found:
                return server, found.group(1)
        self.fail("the server ended")

    def stop(self, server):
        server.send_signal(signal.SIGTERM)
        self.assertEqual(server.wait(timeout=60), 0)

    def mnemo(self, address, *arguments):
        code, out, err = self.run_program(MNEMO, f"--server={address}", *arguments)
        self.assertEqual(code, 0, err)
        return out

    def make_folder(self):
        """A folder with the empty sessions a and b."""
        server, address = self.start()
        for session in "a", "b":
            self.mnemo(address, "create", session)
        self.stop(server)

    def test_wrong_usage_ends_with_2_and_help_with_0(self):
        code, out, _ = self.admin("--help")
        self.assertEqual(code, 0)
        for command in "check", "list", "dump", "repair", "backup", "backups", "restore":
            self.assertIn(f"mnemosyne-admin {command}", out)
        for arguments in [], ["look"], ["check"], ["check", "a", "b"], ["check", "a", "--truncate"], \
                ["restore", "a", "b", "--backup=x"]:
            code, _, err = self.admin(*arguments)
            self.assertEqual(code, 2, arguments)
            self.assertRegex(err, r"^mnemosyne-admin: [^\n]+\n$")

    def test_what_is_no_folder_is_refused_and_not_made(self):
        for command in ["check", "none"], ["list", "none"], ["dump", "none", "a"], ["repair", "none"], \
                ["backup", "none", "backups"], ["backups", "none"], ["restore", "none", "data"]:
            code, _, err = self.admin(*command)
            self.assertEqual(code, 1)
            self.assertIn("none", err)
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_folder_that_a_server_has_open_is_refused(self):
        server, _ = self.start()
        for command in ["check", "data"], ["repair", "data"], ["backup", "data", "backups"]:
            code, _, err = self.admin(*command)
            self.assertEqual(code, 1)
            self.assertIn("locked by another process", err)
        self.stop(server)
        self.assertEqual(self.admin("check", "data")[0], 0)

    def test_a_whole_folder_is_checked_listed_and_dumped(self):
        self.make_folder()
        code, out, _ = self.admin("check", "data")
        self.assertEqual((code, out), (0, "2 sessions, 0 log records, 0 snapshots: 0 damaged, 0 harmless\n"))
        code, out, _ = self.admin("list", "data")
        self.assertEqual(code, 0)
        self.assertRegex(out, r"session +model +epoch +records +tokens +snapshots +bytes\na +m +1 +0 +0 +0 +0\nb ")
        code, out, _ = self.admin("dump", "data", "a", "--content")
        self.assertEqual(code, 0)
        self.assertRegex(out, r"^session a: number 1, epoch 1, model m \([0-9a-f]{32}\), log from record 0\n$")
        code, _, err = self.admin("dump", "data", "c")
        self.assertEqual((code, err), (1, "mnemosyne-admin: session 'c' does not exist\n"))
        code, out, _ = self.admin("repair", "data")
        self.assertEqual((code, out), (0, "0 repaired, 0 left\n"))

    def test_a_damaged_file_is_told_and_not_repaired(self):
        self.make_folder()
        self.admin("backup", "data", "elsewhere")  # everything into table files
        for path in glob.glob(os.path.join(self.folder, "data", "*.sst")):
            with open(path, "r+b") as file:
                file.seek(20)
                file.write(b"####")
        code, out, err = self.admin("check", "data")
        self.assertEqual(code, 1, out)
        self.assertRegex(out + err, "damaged|Corruption")
        code, out, err = self.admin("repair", "data")
        self.assertEqual(code, 1)
        self.assertEqual(out, "")
        self.assertIn("Corruption", err)

    def test_backups_are_made_listed_and_restored(self):
        self.make_folder()
        code, out, err = self.admin("backup", "data", "backups")
        self.assertEqual(code, 0, err)
        self.assertRegex(out, r"^backup 1: \d+ bytes, \d{4}-")
        server, address = self.start()
        self.mnemo(address, "create", "c")
        self.assertRegex(self.mnemo(address, "backup"), r"^backup 2: ")
        self.stop(server)
        code, out, _ = self.admin("backups", "backups")
        self.assertEqual(code, 0)
        self.assertRegex(out, r"^backup 1: [^\n]+\nbackup 2: [^\n]+\n2 backups\n$")
        self.assertEqual(self.admin("restore", "backups", "data")[0], 1)  # there is something
        self.assertEqual(self.admin("restore", "backups", "new")[:2],
                         (0, "restored the newest backup to 'new'\n"))
        self.assertEqual(self.admin("restore", "backups", "old", "--backup=1")[0], 0)
        self.assertEqual(self.admin("restore", "backups", "none", "--backup=7")[0], 1)
        for data, sessions in ("old", ["a", "b"]), ("new", ["a", "b", "c"]):
            server, address = self.start(data)
            lines = self.mnemo(address, "sessions").splitlines()
            self.assertEqual([line.split()[0] for line in lines], sessions)
            self.stop(server)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
