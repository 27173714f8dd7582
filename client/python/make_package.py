#!/usr/bin/python3
"""Makes the package `mnemosyne` in a folder, ready to be imported from there: the sources, and what protoc makes of proto/.

usage: make_package.py FOLDER

Needs Debian's protobuf-compiler and protobuf-compiler-grpc.
"""
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
PROTO = HERE.parent.parent / "proto"


def make_stubs(folder: pathlib.Path) -> None:
    """Writes FOLDER/mnemosyne/v1. The protos lie in mnemosyne/v1 too, so what protoc imports is inside the package."""
    plugin = shutil.which("grpc_python_plugin")
    if plugin is None or shutil.which("protoc") is None:
        sys.exit("protoc or grpc_python_plugin is missing: install protobuf-compiler and protobuf-compiler-grpc")
    folder.mkdir(parents=True, exist_ok=True)
    protos = sorted(str(path) for path in (PROTO / "mnemosyne" / "v1").glob("*.proto"))
    subprocess.run(["protoc", f"--proto_path={PROTO}", f"--python_out={folder}", f"--pyi_out={folder}",
                    f"--grpc_python_out={folder}", f"--plugin=protoc-gen-grpc_python={plugin}", *protos], check=True)
    (folder / "mnemosyne" / "v1" / "__init__.py").touch()


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    shutil.copytree(HERE / "mnemosyne", folder / "mnemosyne", dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__", "v1"))
    make_stubs(folder)


if __name__ == "__main__":
    main()
