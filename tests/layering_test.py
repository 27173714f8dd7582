#!/usr/bin/env python3
"""Checks that includes follow the layers (docs/architecture.md): an arrow may only go down.

    server            client
    engine
    session  execution
    scheduling  storage  model
                         kernels
    base

usage: layering_test.py SOURCE_DIR
"""
import os
import re
import sys

# Folder (an inner one first) -> what of ours it may include: folders, or single headers.
LOWER = ["core/scheduling", "core/storage", "core/model", "core/base"]
ALLOWED = {
    "core/base": [],
    "core/kernels": [],
    "core/model": ["core/kernels", "core/base"],
    "core/storage": ["core/base"],
    "core/scheduling": ["core/base"],
    "core/session": LOWER,
    "core/execution": LOWER,
    "core/engine": ["core/session", "core/execution"] + LOWER,
    "server/admin": ["core/storage", "core/base", "server/access/access_table.h"],  # mnemosyne-admin, which needs no engine
    "server": ["core/engine", "core/base", "core/session/surprise_history.h", "core/storage/records.h", "core/model/config.h", "core/model/tokenizer.h", "mnemosyne"],
    "client": ["core/base", "mnemosyne"],
    "train": ["core/model", "core/base"],
    "bench": ["client", "train", "core/engine", "core/model", "core/kernels", "core/base", "mnemosyne"],
}
# Libraries that live in some folders only, by how their headers begin.
WIRE = ["server", "client", "bench"]
LIBRARIES = [
    ("Highway", r"hwy/", ["core/kernels"]),
    ("LibTorch", r"(ATen|torch|c10|caffe2)/", ["core/model", "core/execution", "train", "bench"]),
    ("sentencepiece", r"sentencepiece_", ["core/model"]),
    ("RocksDB", r"rocksdb/", ["core/storage"]),
    ("gRPC", r"(grpc|grpcpp)/|.*\.grpc\.pb\.h$", WIRE),
    ("Protocol Buffers", r"google/protobuf/|.*\.pb\.h$", WIRE),
    ("prometheus-cpp", r"prometheus/", ["server"]),
]
OURS = ("core", "server", "client", "train", "bench", "tests", "proto", "mnemosyne")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)


def within(path, places):
    return any(path == place or path.startswith(place + "/") for place in places)


def violations(path, text):
    """What the file at `path` (from the source folder) includes and may not, a sentence each."""
    folder = next((f for f in ALLOWED if within(path, [f])), None)
    if folder is None:
        return [f"{path}: the layers know no such folder"]
    found = []
    for quote, header in INCLUDE.findall(text):
        for library, pattern, places in LIBRARIES:
            if re.match(pattern, header) and folder not in places:
                found.append(f"{path}: includes {header}; {library} lives in {', '.join(places)} only")
        if header.split("/")[0] in OURS:
            if not within(header, [folder] + ALLOWED[folder]):
                found.append(f"{path}: includes {header}; {folder} may include {', '.join(ALLOWED[folder]) or 'nothing'}")
        elif quote == '"' and "/" not in header:
            found.append(f"{path}: includes {header}; name it from the source folder down")
    return found


def self_check():
    """The rules catch what they are there for, and let pass what they should."""
    caught = [
        ("core/base/x.h", "core/model/config.h"),
        ("core/model/x.cc", "core/storage/storage.h"),
        ("core/storage/x.cc", "core/model/model.h"),
        ("core/scheduling/x.cc", "core/session/session.h"),
        ("core/session/x.cc", "core/execution/worker.h"),
        ("core/execution/x.cc", "core/engine/engine.h"),
        ("core/engine/x.cc", "server/service.h"),
        ("core/engine/x.cc", "mnemosyne/v1/memory_service.pb.h"),
        ("server/x.cc", "core/storage/storage.h"),
        ("server/admin/x.cc", "core/engine/engine.h"),
        ("server/admin/x.cc", "rocksdb/db.h"),
        ("server/x.cc", "core/model/model.h"),
        ("server/x.cc", "client/client.h"),
        ("client/x.cc", "core/engine/engine.h"),
        ("client/x.cc", "server/service.h"),
        ("train/x.cc", "core/engine/engine.h"),
        ("core/model/x.cc", "tests/temp_folder.h"),
        ("core/engine/x.cc", "ATen/ATen.h"),
        ("core/storage/x.cc", "torch/torch.h"),
        ("core/engine/x.cc", "rocksdb/db.h"),
        ("core/engine/x.cc", "grpcpp/grpcpp.h"),
        ("core/storage/x.cc", "google/protobuf/message.h"),
        ("train/x.cc", "sentencepiece_processor.h"),
        ("core/modelling/x.cc", "vector"),
        ("core/models/x.cc", "core/base/file.h"),
    ]
    passed = [
        ("core/engine/x.cc", "core/session/session.h"),
        ("core/session/x.cc", "core/model/model.h"),
        ("core/model/x.cc", "ATen/ATen.h"),
        ("core/storage/x.cc", "rocksdb/db.h"),
        ("server/x.cc", "core/engine/engine.h"),
        ("server/x.cc", "core/model/config.h"),
        ("server/x.cc", "mnemosyne/v1/memory_service.grpc.pb.h"),
        ("server/admin/x.cc", "core/storage/storage.h"),
        ("client/x.cc", "core/base/file.h"),
        ("train/x.cc", "torch/optim/adamw.h"),
        ("core/base/x.cc", "absl/status/status.h"),
    ]
    wrong = [f"self-check: {path} including {header} was not caught" for path, header in caught
             if not violations(path, f'#pragma once\n#  include "{header}"\n')]
    wrong += [f"self-check: {problem}" for path, header in passed for problem in violations(path, f"#include <{header}>\n")]
    if not violations("core/base/x.cc", '#include "file.h"\n'):
        wrong.append("self-check: an include without its folder was not caught")
    return wrong


def main():
    root = sys.argv[1]
    problems, files = self_check(), 0
    for top in ("core", "server", "client", "train", "bench"):
        for folder, _, names in os.walk(os.path.join(root, top)):
            for name in sorted(names):
                if not name.endswith((".h", ".cc")):
                    continue
                path = os.path.relpath(os.path.join(folder, name), root)
                with open(os.path.join(root, path), encoding="utf-8") as f:
                    problems += violations(path, f.read())
                files += 1
    if files == 0:
        problems.append(f"no sources under {root}")
    print("\n".join(problems + [f"{files} files read, {len(problems)} problems"]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
