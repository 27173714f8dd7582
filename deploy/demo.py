#!/usr/bin/env python3
"""Streams a book with facts hidden in it, asks for them, kills the server, starts it again, and asks again.

usage: demo.py BIN_DIR [SEED]      (BIN_DIR holds mnemosyned, mnemo and mnemo-bench)

Exits with 1 when fewer than 18 of the 20 facts come back, when the answers of a memory that nothing was added to are
not the same after the crash, or when one that was being written to has lost more than the second document may wear away.
"""
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

FACTS, NEEDED, NEEDED_LATER = 20, 18, 15
# Of the models that come along, the one that holds most numbers for long.
MODEL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models", "numbers")


def say(text=""):
    print(text, flush=True)


def bible(passages):
    """The King James text of Debian's bible-kjv, a verse a line."""
    return subprocess.run(["bible", "-f", passages], check=True, capture_output=True,
                          env=dict(os.environ, COLUMNS="10000")).stdout.decode()


def hide(text, inserts):
    """Puts each (depth, sentence) between two words of the text, at its fraction of it."""
    pieces, done = [], 0
    for depth, sentence in sorted(inserts):
        at = text.find(" ", int(depth * len(text)))
        pieces += [text[done:at], " ", sentence]
        done = at
    return "".join(pieces + [text[done:]])


class Demo:
    def __init__(self, bin_dir, seed):
        self.bin_dir, self.seed = bin_dir, seed
        self.folder = tempfile.mkdtemp(prefix="mnemosyne-demo-")
        self.server = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % probe.getsockname()[1]

    def program(self, name):
        return os.path.join(self.bin_dir, name)

    def start(self):
        begin = time.monotonic()
        log = open(os.path.join(self.folder, "server.log"), "ab")
        self.server = subprocess.Popen([self.program("mnemosyned"), "--models=numbers=" + MODEL,
                                        "--data=" + self.folder + "/data", "--listen=" + self.address,
                                        "--metrics_address="], stderr=log, stdout=log)
        while subprocess.run([self.program("mnemo"), "models", "--server=" + self.address, "--connect_timeout=200ms"],
                             capture_output=True).returncode != 0:
            if self.server.poll() is not None or time.monotonic() - begin > 30:
                with open(os.path.join(self.folder, "server.log"), encoding="utf-8", errors="replace") as f:
                    sys.exit("the server did not start:\n" + f.read()[-2000:])
            time.sleep(0.05)
        say("mnemosyned serves on %s after %.1f s" % (self.address, time.monotonic() - begin))

    def mnemo(self, *arguments):
        run = subprocess.run([self.program("mnemo"), "--server=" + self.address, "--json", *arguments],
                             capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit("mnemo %s: exit %d: %s" % (arguments[0], run.returncode, run.stderr.strip()))
        return json.loads(run.stdout)

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def ask_all(self, session, facts):
        answers, right, waits = [], 0, []
        say("  %-58s %6s  %-10s %-10s %s" % ("question", "depth", "fact", "answer", ""))
        for depth, fact in facts:
            reply = self.mnemo("query", session, "--max_tokens=48", "--", fact["question"])
            answer = reply["answer"].strip()
            answers.append(answer)
            waits.append(reply["summary"]["time_to_first_token_seconds"])
            right += answer == fact["value"]
            say("  %-58.58s %5.1f%%  %-10s %-10.20s %s" % (fact["question"], 100 * depth, fact["value"], answer,
                                                          "right" if answer == fact["value"] else "WRONG"))
        waits.sort()
        say("  %d of %d right; time to first token: median %.0f ms, worst %.0f ms" %
            (right, len(facts), 1e3 * waits[len(waits) // 2], 1e3 * waits[-1]))
        return answers, right

    def run(self):
        say("seed %d (repeat with: python3 deploy/demo.py %s %d)" % (self.seed, os.path.relpath(self.bin_dir), self.seed))
        rng = random.Random(self.seed)
        book = bible("matt1:1-rev22:21")
        lines = subprocess.run([self.program("mnemo-bench"), "facts", "--samples=%d" % FACTS, "--seed=%d" % self.seed],
                               check=True, capture_output=True, text=True).stdout.splitlines()
        facts = [(rng.random(), json.loads(line)) for line in lines]
        text = hide(book, [(depth, fact["statement"]) for depth, fact in facts])
        size = len(text.encode())
        self.start()

        say("\n1. A book goes in: the King James New Testament, %.2f MB, with %d facts in it" %
            (size / 1e6, FACTS))
        totals = self.mnemo("stream", "book", self.write("book.txt", text))
        session = self.mnemo("show", "book")
        say("  %d tokens in %.1f s: %.0f tokens/s, every one durable, %d memorized; the state is %d bytes" %
            (totals["accepted_tokens"], totals["seconds"], totals["accepted_tokens"] / totals["seconds"],
             totals["watermarks"]["memorized"], session["state_bytes"]))

        say("\n2. The questions: the answers come from that state and the last few tokens, nothing else")
        before, right = self.ask_all("book", facts)
        self.mnemo("fork", "book", "as-it-was")

        say("\n3. A second document, Genesis to the ten commandments; half-way through it the server gets SIGKILL")
        # Longer than the backlog that the server accepts ahead of the memory, so that the crash cuts the writer off.
        second = bible("gen1:1-exo20:26")
        path, begin = self.write("second.txt", second), session["watermarks"]["accepted_bytes"]
        writer = subprocess.Popen([self.program("mnemo"), "--server=" + self.address, "--json", "stream", "book", path],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while True:
            reached = self.mnemo("show", "book")["watermarks"]
            if reached["accepted_bytes"] - begin >= len(second) / 2 or writer.poll() is not None:
                break
            time.sleep(0.005)
        self.server.send_signal(signal.SIGKILL)
        self.server.wait()
        cut = reached["accepted_bytes"] - begin
        if cut >= len(second):
            sys.exit("the second document went in before the server could be killed")
        say("  killed when it had accepted at least %d of %d bytes, %d durable tokens" % (cut, len(second), reached["durable"]))
        self.start()
        output, errors = writer.communicate()
        if writer.returncode != 0:
            sys.exit("mnemo stream did not survive the crash: " + errors)
        after = self.mnemo("show", "book")["watermarks"]
        say("  the writer found the server again, was told where to go on, and finished: %d of %d bytes, none twice" %
            (after["accepted_bytes"] - begin, len(second)))
        if after["accepted_bytes"] - begin != len(second.encode()):
            sys.exit("bytes were lost or repeated")

        say("\n4. The same questions to the memory as it was before the second document: a fork, made at the end of 2")
        begin = time.monotonic()
        self.mnemo("query", "as-it-was", "--max_tokens=1", "--", "?")
        say("  it is back after %.1f s: the last snapshot, and the log behind it read again" % (time.monotonic() - begin))
        again, _ = self.ask_all("as-it-was", facts)
        same = again == before

        say("\n5. And to the memory that has both documents")
        _, later = self.ask_all("book", facts)
        say("\n%d of %d right (%d needed), %d after the second document (%d needed); the answers after the crash are %s" %
            (right, FACTS, NEEDED, later, NEEDED_LATER, "the same" if same else "NOT the same"))
        return 0 if right >= NEEDED and later >= NEEDED_LATER and same else 1

    def stop(self):
        if self.server is not None and self.server.poll() is None:
            self.server.terminate()
            self.server.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    demo = Demo(sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else random.randrange(10**6))
    try:
        return demo.run()
    finally:
        demo.stop()


if __name__ == "__main__":
    sys.exit(main())
