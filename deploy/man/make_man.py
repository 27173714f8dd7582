#!/usr/bin/env python3
"""Makes a program's manual page of what its --help says, so that no flag is told that it does not have, and none is missing.

usage: make_man.py PROGRAM VERSION OUT      (OUT is NAME.SECTION, or that and .gz)

Three forms of help are read: mnemosyned's (a flag and its default on a line, the text below), that of mnemo and
mnemosyne-admin (two columns), and Abseil's.
"""
import gzip
import os
import re
import subprocess
import sys
import textwrap

WHAT = {  # the NAME line; whatis(1) and apropos(1) find pages by it
    "mnemosyned": "server of sessions that learn what is streamed to them",
    "mnemosyne-admin": "check, repair, back up and restore a Mnemosyne data folder",
    "mnemo": "client of a Mnemosyne server",
    "mnemo-train": "train a Titans model for Mnemosyne",
    "mnemo-bench": "measure a Mnemosyne server or its engine",
}
# What the help says of the machine that it was made on.
DEFAULTS = {("mnemo-train", "threads"): "as many as there are cores"}
SIGNALS = """.SH SIGNALS
.TP
SIGTERM, SIGINT
Drain: new work is refused, what was accepted is made durable and memorized, and the server ends, within
.BR \\-\\-drain_timeout .
A second signal ends it at once; nothing that was acknowledged as durable is lost.
.SH EXIT STATUS
.TP
.B 0
It drained, or told its help or version.
.TP
.B 1
It could not start; one line on standard error says why.
.TP
.B 2
A bad flag or variable; one line on standard error names it.
.TP
.B 130
A second signal.
.SH FILES
.TP
.I /etc/mnemosyne/mnemosyned.flags
The flags of the system's server (mnemosyned.service).
.TP
.I /var/lib/mnemosyne
Its data.
"""


def escape(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def entry(left, right):
    """A flag or command, and what it does."""
    return [".TP", "\\fB" + escape(left) + "\\fR", escape(right) or "\\&"]


def server_page(text):
    """--flag=default, then its text, deeper."""
    lines = text.splitlines()
    flags = next(i for i, line in enumerate(lines) if line.startswith("  --"))
    introduction = " ".join(line for line in lines[:flags] if line and not line.startswith("usage:"))
    page = [".SH SYNOPSIS", escape(lines[0].removeprefix("usage: ")), ".SH DESCRIPTION", escape(introduction), ".SH OPTIONS"]
    at = flags
    while at < len(lines):
        flag, at = lines[at].strip(), at + 1
        words = []
        while at < len(lines) and lines[at].startswith("      "):
            words.append(lines[at].strip())
            at += 1
        name, equals, default = flag.partition("=")
        right = " ".join(words)
        if equals and name != "--flagfile":
            right += f" Default: {default}."
            flag = name
        page += entry(flag, right)
    return "\n".join(page) + "\n" + SIGNALS


def columns_page(name, text):
    """What a command is and does, in two columns with two spaces or more between; what has no second one goes on."""
    introduction, *rest = text.strip().splitlines()
    commands = [re.match(rf"  {name} (\S+)", line) for line in rest]
    page = [".SH SYNOPSIS", f".B {escape(name)}", ".I COMMAND", "[", ".I FLAGS", "]",
            ".SH DESCRIPTION", escape(introduction), ".SH COMMANDS"]
    options = False
    for line, command in zip(rest, commands):
        if not line.strip():
            continue
        if line.startswith("Exit code:"):
            page += [".SH EXIT STATUS", escape(line.removeprefix("Exit code: "))]
        elif re.match(r"  \S.*:$", line):
            page += [".SH SETTINGS", escape(line.strip())]
        else:
            if line.startswith("  --") and not options:
                page += [".SH OPTIONS"]
                options = True
            # A command's argument may come right before its text: "token NAME TENANT ROLE make a token".
            left, _, right = line.strip().partition("  ")
            if not right and command:
                found = re.match(r"(\S+ \S+(?: [A-Z]+)*) ([a-z].*)", left)
                left, right = found.groups() if found else (left, "")
            inner = line.startswith("      ")
            page += ([".RS"] if inner else []) + entry(left, right.strip()) + ([".RE"] if inner else [])
    return "\n".join(page) + "\n"


def abseil_page(name, text):
    """--flag (its text); default: value;"""
    title = next(line for line in text.splitlines() if line)
    about = title.removeprefix(f"{name}: ")
    synopsis = f"{name} [flags]"
    found = re.match(rf"({name} \S+ \[flags\]): (.*)", about)
    if found:
        synopsis, about = found.groups()
    page = [".SH SYNOPSIS", escape(synopsis), ".SH DESCRIPTION", escape(about), ".SH OPTIONS"]
    # The program's own group of flags comes last; Abseil's, which mend nothing here, are left out but for one.
    own = text[text.rindex("Flags from "):].partition("\n")[2].partition("\nTry ")[0]
    for flag, what, default in re.findall(r"--(\w+) \((.*?)\);\s+default: (.*?);\s*(?=--|\Z)", own, re.DOTALL):
        what = " ".join(what.split())
        default = DEFAULTS.get((name, flag), " ".join(default.split()).strip('"'))
        page += entry(f"--{flag}", what + (f" (default: {default})" if default else ""))
    page += entry("--flagfile=PATH", "Reads flags from a file, one a line.")
    return "\n".join(page) + "\n"


def page_of(program, version, section):
    name = os.path.basename(program)
    done = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=60)
    if done.returncode == 0:
        body = server_page(done.stdout) if done.stdout.startswith("usage:") else columns_page(name, done.stdout)
    else:  # Abseil's: --help tells some flags only, and both end with 1
        done = subprocess.run([program, "--helpfull"], capture_output=True, text=True, timeout=60)
        if "Flags from " not in done.stdout:
            sys.exit(f"{program} --help and --helpfull: {done.stderr.strip() or done.stdout.strip() or done.returncode}")
        body = abseil_page(name, done.stdout)
    others = ", ".join(f"\\fB{escape(other)}\\fR({8 if other.startswith('mnemosyne') else 1})" for other in WHAT if other != name)
    return (f".TH {name.upper()} {section} \"\" \"Mnemosyne {version}\" \"Mnemosyne\"\n"
            f".SH NAME\n{escape(name)} \\- {WHAT[name]}\n{body}.SH SEE ALSO\n{others}\n.PP\n"
            "The folder /usr/share/doc/mnemosyne has the rest.\n")


def main():
    if len(sys.argv) != 4:
        sys.exit(textwrap.dedent(__doc__))
    program, version, out = sys.argv[1:]
    section = re.search(r"\.(\d)(\.gz)?$", out).group(1)
    page = page_of(program, version, section).encode()
    # Without a time in it, so that the same program makes the same bytes.
    content = gzip.compress(page, 9, mtime=0) if out.endswith(".gz") else page
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    with open(out, "wb") as file:
        file.write(content)


if __name__ == "__main__":
    main()
