#!/usr/bin/env python3
"""Installs what was built, runs it where it lies then, and looks at the Debian package, manuals, completion and unit.

usage: install_test.py SOURCE_DIR BUILD_DIR
"""
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE, BUILD = map(os.path.abspath, sys.argv[1:3])
DEPLOY = os.path.join(SOURCE, "deploy")
SECTIONS = {"mnemosyned": 8, "mnemosyne-admin": 8, "mnemo": 1, "mnemo-train": 1, "mnemo-bench": 1}
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("MNEMOSYNE_")}


def run(*arguments, **options):
    return subprocess.run(arguments, capture_output=True, text=True, timeout=300, **{"env": ENVIRONMENT, **options})


def program(name):
    return os.path.join(BUILD, "bin", name)


@functools.cache
def help_of(name):
    done = run(program(name), "--help")
    return done.stdout if done.returncode == 0 else run(program(name), "--helpfull").stdout


def commands_of(name):
    text = help_of(name)
    found = re.findall(rf"^  {name} ([a-z]+)", text, re.M)
    alternatives = re.search(rf"{name} ([a-z]+(?:\|[a-z]+)+) ", text)
    return set(found or (alternatives.group(1).split("|") if alternatives else []))


def flags_of(name):
    return set(re.findall(r"(?:^|[\s(])--([a-z]\w*)", help_of(name)))


class InstallTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.temporary.cleanup)
        cls.folder = cls.temporary.name
        cls.prefix = os.path.join(cls.folder, "prefix")
        done = run("cmake", "--install", BUILD, "--component", "programs", "--prefix", cls.prefix)
        assert done.returncode == 0, done.stderr

    def test_nothing_is_missing(self):
        for name, section in SECTIONS.items():
            for path in (f"bin/{name}", f"share/man/man{section}/{name}.{section}.gz",
                         f"share/bash-completion/completions/{name}"):
                self.assertTrue(os.path.isfile(os.path.join(self.prefix, path)), path)
        self.assertFalse(os.path.exists(os.path.join(self.prefix, "etc")))

    def test_no_library_is_loaded_that_nothing_calls(self):
        """Empty libraries stand in for those that Debian's LibTorch names in vain (cmake/MnemosyneTorch.cmake)."""
        folder = os.path.join(self.prefix, "lib/mnemosyne/stand-ins")
        stand_ins = set(os.listdir(folder)) - {"nothing.so"}
        for name in SECTIONS:
            found = run("ldd", "-r", os.path.join(self.prefix, "bin", name))
            self.assertEqual(found.returncode, 0, found.stderr)
            self.assertNotIn("undefined symbol", found.stdout + found.stderr)
            self.assertNotRegex(found.stdout, r"=> (?!\S*/stand-ins/)\S*/lib(opencv_|av|sw|zmq)")
            if stand_ins and "libtorch" in found.stdout:
                self.assertIn("/stand-ins/", found.stdout)

    def serves(self, *flags):
        """What an installed server logs until it serves; then it drains."""
        data = tempfile.mkdtemp(dir=self.folder)
        server = subprocess.Popen([os.path.join(self.prefix, "bin/mnemosyned"), f"--data={data}/data", "--listen=127.0.0.1:0",
                                   "--metrics_address=", *flags], cwd=data, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        self.addCleanup(server.stderr.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        log = ""
        for line in server.stderr:
            log += line
            if "serving on" in line:
                server.terminate()
                self.assertEqual(server.wait(timeout=60), 0)
                return log
        self.fail(f"it does not serve: {log}")

    def test_the_server_finds_the_model_that_comes_along(self):
        self.assertIn("name=recall", self.serves())

    def test_the_server_finds_the_module_for_sentencepiece(self):
        self.assertIn("name=b", self.serves("--models=b=" + os.path.join(SOURCE, "models/babilong")))

    @unittest.skipUnless(shutil.which("cpack") and shutil.which("dpkg-deb") and shutil.which("dpkg-shlibdeps"),
                         "no dpkg-deb or dpkg-shlibdeps: no Debian package")
    def test_the_debian_package(self):
        done = run("cpack", "-G", "DEB", "--config", os.path.join(BUILD, "CPackConfig.cmake"), "-B", self.folder + "/package")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        package = [name for name in os.listdir(self.folder + "/package") if name.endswith(".deb")]
        self.assertEqual(len(package), 1)
        path = os.path.join(self.folder, "package", package[0])
        root, control = self.folder + "/root", self.folder + "/control"
        self.assertEqual(run("dpkg-deb", "-x", path, root).returncode, 0)
        self.assertEqual(run("dpkg-deb", "-e", path, control).returncode, 0)
        for file in ("usr/bin/mnemosyned", "usr/lib/libmnemosyne_sentencepiece.so", "usr/share/mnemosyne/models/recall/config.json",
                     "lib/systemd/system/mnemosyned.service", "etc/mnemosyne/mnemosyned.flags"):
            self.assertTrue(os.path.isfile(os.path.join(root, file)), file)
        depends = run("dpkg-deb", "-f", path, "Depends").stdout
        with open(os.path.join(DEPLOY, "packages-runtime.txt"), encoding="utf-8") as listed:
            needed = set(listed.read().split("# Who signs")[0].splitlines())
        for name in needed:
            if name and not name.startswith("#"):
                self.assertRegex(depends, rf"(^|, ){re.escape(name)}\b")
        with open(control + "/conffiles", encoding="utf-8") as file:
            self.assertEqual(file.read(), "/etc/mnemosyne/mnemosyned.flags\n")
        for script in "postinst", "prerm", "postrm":
            with open(os.path.join(control, script), encoding="utf-8") as file:
                text = file.read()
            self.assertEqual(run("sh", "-n", os.path.join(control, script)).stderr, "")
            self.assertNotRegex(text, r"\b(rm|rmdir|deluser|delgroup|userdel)\s")  # nobody's data goes with the package


class ManualTest(unittest.TestCase):
    def test_every_flag_and_command_is_told(self):
        for name, section in SECTIONS.items():
            with tempfile.TemporaryDirectory() as folder:
                page = os.path.join(folder, f"{name}.{section}")
                done = run(sys.executable, DEPLOY + "/man/make_man.py", program(name), "0.1.0", page)
                self.assertEqual(done.returncode, 0, done.stderr)
                with open(page, encoding="utf-8") as file:
                    text = file.read().replace("\\-", "-")
                self.assertTrue(text.startswith(f".TH {name.upper()} {section} "))
                # Abseil's own flags, which come first in its help, are left out.
                flags = set(re.findall(r"--([a-z]\w*)", help_of(name).rpartition("Flags from ")[2].partition("\nTry --")[0]))
                for flag in flags:
                    self.assertIn("--" + flag, text)
                for command in commands_of(name):
                    self.assertIn(command, text)
                self.assertNotIn(SOURCE.strip("/"), text)
                if shutil.which("groff"):
                    self.assertEqual(run("groff", "-man", "-Tutf8", "-ww", "-z", page).stderr, "")

    def test_a_program_without_help_is_an_error(self):
        with tempfile.TemporaryDirectory() as folder:
            done = run(sys.executable, DEPLOY + "/man/make_man.py", "/bin/false", "0.1.0", folder + "/x.1")
            self.assertNotEqual(done.returncode, 0)
            self.assertEqual(os.listdir(folder), [])


class CompletionTest(unittest.TestCase):
    def offered(self, *words):
        script = (f"source {DEPLOY}/completion/mnemo.bash; PATH={BUILD}/bin:$PATH; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($#-1)); "
                  '_mnemosyne "$1"; printf "%s\\n" "${COMPREPLY[@]}"')
        done = run("bash", "-c", script, "bash", *words)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return set(done.stdout.split())

    def test_every_command_and_flag_is_offered(self):
        for name in SECTIONS:
            self.assertEqual(self.offered(name, ""), commands_of(name))
            self.assertEqual({flag.strip("-=") for flag in self.offered(name, "--")}, flags_of(name))
        self.assertLessEqual({"stream", "query", "models"}, commands_of("mnemo"))
        self.assertLessEqual({"listen", "flagfile", "drain_timeout"}, flags_of("mnemosyned"))

    def test_words_are_completed(self):
        self.assertEqual(self.offered("mnemo", "que"), {"query"})
        self.assertEqual(self.offered("mnemo", "stream", "--wait", "=", "d"), {"durable"})
        self.assertEqual(self.offered("mnemo", "create", "--retention", "="), {"keep", "trim"})
        self.assertEqual(self.offered("mnemosyned", "--tls_cert"), {"--tls_certificate="})
        self.assertEqual(self.offered("mnemo", "--jso"), {"--json"})
        self.assertIn(DEPLOY + "/demo.py", self.offered("mnemo", "stream", "book", DEPLOY + "/de"))


class UnitTest(unittest.TestCase):
    def setUp(self):
        with open(DEPLOY + "/systemd/mnemosyned.service", encoding="utf-8") as file:
            self.text = file.read()

    def setting(self, name):
        return re.search(rf"^{name}=(.*)$", self.text, re.M).group(1)

    def test_there_is_time_for_the_drain(self):
        with open(DEPLOY + "/systemd/mnemosyned.flags", encoding="utf-8") as file:
            drain = re.search(r"^--drain_timeout=(\d+)s$", file.read(), re.M).group(1)
        self.assertGreater(int(self.setting("TimeoutStopSec")), int(drain))
        self.assertIn(f"--drain_timeout={drain}s", self.text)
        self.assertEqual(self.setting("RestartPreventExitStatus"), "2")

    @unittest.skipUnless(shutil.which("systemd-analyze"), "no systemd-analyze")
    def test_systemd_takes_it_and_finds_it_hardened(self):
        with tempfile.TemporaryDirectory() as folder:
            unit = os.path.join(folder, "mnemosyned.service")
            with open(unit, "w", encoding="utf-8") as file:
                file.write(self.text.replace("/usr/bin/mnemosyned", program("mnemosyned")))
            done = run("systemd-analyze", "verify", "--man=no", unit)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            done = run("systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", unit)
            self.assertEqual(done.returncode, 0, done.stdout[-500:] + done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
