"""The npm packages of package.json, installed into a folder of the build tree when they are not there yet."""
import fcntl
import os
import shutil
import subprocess
import sys

SKIPPED = 77  # ctest's SKIP_RETURN_CODE


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


def install(folder):
    """FOLDER/node_modules. Ends the program as skipped when there is no node or the packages cannot be had."""
    for program in "node", "npm":
        if shutil.which(program) is None:
            skip(f"no {program} on this machine")
    os.makedirs(folder, exist_ok=True)
    wanted = os.path.join(os.path.dirname(os.path.abspath(__file__)), "package.json")
    have = os.path.join(folder, "package.json")
    with open(wanted, "rb") as file:
        content = file.read()
    with open(os.path.join(folder, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test may be at it
        installed = os.path.join(folder, "installed.json")  # what package.json was when the last install had gone well
        if os.path.exists(installed):
            with open(installed, "rb") as file:
                if file.read() == content:
                    return os.path.join(folder, "node_modules")
        shutil.copyfile(wanted, have)
        try:
            done = subprocess.run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock",
                                   "--fetch-retries=1"], cwd=folder, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            skip("npm install took too long")
        if done.returncode != 0:
            skip(f"npm cannot install the packages: {done.stderr[-2000:]}")
        with open(installed, "wb") as file:
            file.write(content)
    return os.path.join(folder, "node_modules")
