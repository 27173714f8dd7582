"""Certificates for tests, by the command openssl."""
import os
import subprocess

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def make_certificates(folder, *names):
    """FOLDER/ca.crt, and NAME.crt and NAME.key for 127.0.0.1 and localhost, which it signed."""
    def openssl(*arguments):
        done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    openssl("req", "-x509", *NEW_KEY, "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    with open(os.path.join(folder, "extensions"), "w", encoding="utf-8") as extensions:
        extensions.write("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for serial, name in enumerate(names, 1):
        openssl("req", *NEW_KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-days", "1", "-set_serial",
                str(serial), "-extfile", "extensions", "-out", f"{name}.crt")
