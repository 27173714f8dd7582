"""Adds what protoc makes of proto/ to the package that setuptools builds. pyproject.toml has the rest."""
import pathlib
import sys

from setuptools import setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from make_package import make_stubs  # noqa: E402


class BuildWithStubs(build_py):
    def run(self) -> None:
        super().run()
        make_stubs(pathlib.Path(self.build_lib))


setup(cmdclass={"build_py": BuildWithStubs})
