#!/usr/bin/env python3
"""Checks the files of deploy/ and docker-compose.yml against the programs: what they promise, and that nothing is stale.

usage: deploy_test.py SOURCE_DIR BUILD_DIR

Skips what needs a tool that is not there: kubectl with kustomize 4 or newer, docker compose or docker-compose, promtool,
npm, and for the packages dpkg.
"""
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import yaml  # python3-yaml

SOURCE, BUILD = map(os.path.abspath, sys.argv[1:3])
DEPLOY = os.path.join(SOURCE, "deploy")
PROGRAMS = ["mnemosyned", "mnemosyne-admin", "mnemo", "mnemo-train", "mnemo-bench"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("MNEMOSYNE_")}
CLIENT_VARIABLES = {"MNEMOSYNE_SERVER", "MNEMOSYNE_TOKEN"}
IMAGE, GRPC, METRICS = "mnemosyne:0.1.0", 50051, 9464
SCHEMAS = ["@kubernetes/client-node@1.4.0", "kubernetes-models@5.1.0", "@kubernetes-models/prometheus-operator@6.0.0"]


def read(*path):
    with open(os.path.join(SOURCE, *path), encoding="utf-8") as file:
        return file.read()


def run(*arguments, **options):
    return subprocess.run(arguments, capture_output=True, text=True, **{"timeout": 300, "env": ENVIRONMENT, **options})


def program(name):
    return os.path.join(BUILD, "bin", name)


@functools.cache
def help_of(name):
    done = run(program(name), "--help")
    return done.stdout if done.returncode == 0 else run(program(name), "--helpfull").stdout


def flags_of(name):
    return set(re.findall(r"--([a-z]\w*)", help_of(name)))


def server_takes(flags=(), **variables):
    """Whether mnemosyned takes these flags with these values; it reads all of them before it tells its version."""
    return run(program("mnemosyned"), *flags, "--version", env={**ENVIRONMENT, **variables})


def seconds(text):
    return sum(int(number) * {"s": 1, "m": 60, "h": 3600}[unit] for number, unit in re.findall(r"(\d+)([smh])", text))


def quantity(text):
    """Bytes: Kubernetes' 3Gi, mnemosyned's 1GiB."""
    number, unit = re.fullmatch(r"(\d+)([KMGT]?)i?B?", str(text)).groups()
    return int(number) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[unit]


def deployed_files():
    files = ["docker-compose.yml"]
    for folder, _, names in os.walk(DEPLOY):
        files += [os.path.relpath(os.path.join(folder, name), SOURCE) for name in names if not name.endswith(".pyc")]
    return sorted(files)


def image_variables():
    """The Dockerfile's ENV."""
    return dict(re.findall(r"\b(MNEMOSYNE_\w+)=(\S+)", re.search(r"^ENV (?:.*\\\n)*.*$", read("deploy/Dockerfile"), re.M).group()))


class FlagsTest(unittest.TestCase):
    def test_every_flag_that_is_named_anywhere_exists(self):
        known = set().union(*map(flags_of, PROGRAMS))
        for path in deployed_files():
            # Ours have underscores, those of other programs dashes.
            for flag in re.findall(r"--([a-z]+(?:_[a-z]+)+)", read(path)):
                self.assertIn(flag, known, path)

    def test_every_variable_that_is_named_anywhere_is_a_flag(self):
        known = {"MNEMOSYNE_" + flag.upper() for flag in flags_of("mnemosyned")} | CLIENT_VARIABLES
        for path in deployed_files():
            for variable in re.findall(r"MNEMOSYNE_[A-Z_]*[A-Z]", read(path)):
                if variable != "MNEMOSYNE_SERVICE_HOST":  # told as what must not be there
                    self.assertIn(variable, known, path)

    def test_the_systems_flags_are_flags(self):
        lines = [line.strip("# ") for line in read("deploy/systemd/mnemosyned.flags").splitlines()]
        flags = [line for line in lines if line.startswith("--")]
        self.assertIn("--data=/var/lib/mnemosyne/data", flags)
        self.assertEqual(server_takes(flags).stderr, "")
        done = server_takes([f"--flagfile={DEPLOY}/systemd/mnemosyned.flags"])
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_the_image_does_not_serve_in_the_clear_unless_told_to(self):
        with tempfile.TemporaryDirectory() as folder:
            done = run(program("mnemosyned"), cwd=folder, timeout=20, env={**ENVIRONMENT, **image_variables(),
                                                                           "MNEMOSYNE_DATA": "data"})
        self.assertEqual(done.returncode, 2)
        self.assertIn("--allow_insecure", done.stderr)


class DockerfileTest(unittest.TestCase):
    def setUp(self):
        self.text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", read("deploy/Dockerfile"), flags=re.M))

    def instructions(self, name):
        return re.findall(rf"^{name} +(.*)$", self.text, re.M)

    def test_what_is_copied_is_there(self):
        ignored = [line for line in read(".dockerignore").split() if not line.startswith("#")]
        stages = {stage for _, stage in re.findall(r"^FROM (\S+) AS (\S+)$", self.text, re.M)}
        for copy in self.instructions("COPY"):
            words = copy.split()
            if words[0].startswith("--from="):
                self.assertIn(words[0].removeprefix("--from="), stages)
                continue
            for source in words[:-1]:
                self.assertTrue(os.path.exists(os.path.join(SOURCE, source)), source)
                self.assertNotIn(source, ignored)
        # What the build reads is not ignored.
        for needed in "CMakePresets.json", "docs", "tests", "models/recall", "deploy/man", "deploy/completion":
            self.assertFalse(needed in ignored or needed.split("/")[0] in ignored, needed)

    def test_it_runs_as_who_the_cluster_says_and_drains(self):
        self.assertEqual(self.instructions("USER"), ["10001:10001"])
        self.assertEqual(self.instructions("STOPSIGNAL"), ["SIGTERM"])
        self.assertEqual(self.instructions("EXPOSE"), [f"{GRPC} {METRICS}"])
        self.assertEqual(self.instructions("VOLUME"), ["/data"])
        self.assertTrue(image_variables()["MNEMOSYNE_DATA"].startswith("/data/"))
        self.assertIn(f'image.version="{IMAGE.split(":")[1]}"', self.text)
        self.assertNotIn(":latest", self.text)
        for base in self.instructions("ARG"):
            if base.endswith("bookworm-slim"):
                self.assertRegex(base, r"^\w+_IMAGE=debian:")

    def test_the_version_is_the_projects(self):
        self.assertEqual(IMAGE.split(":")[1], re.search(r"project\(mnemosyne VERSION (\S+)", read("CMakeLists.txt")).group(1))

    def test_the_health_check_is_a_command_of_the_clients(self):
        check = json.loads(re.search(r"HEALTHCHECK .*CMD (\[.*\])", self.text).group(1))
        self.assertEqual(check[:2], ["mnemo", "models"])
        for flag in check[2:]:
            self.assertIn(flag[2:].split("=")[0], flags_of("mnemo"))


@unittest.skipUnless(shutil.which("dpkg-query"), "no dpkg: which package a library is of, nobody knows")
class PackagesTest(unittest.TestCase):
    def setUp(self):
        self.listed, self.image = ({line.split("#")[0].strip() for line in read(f"deploy/{name}.txt").splitlines()} - {""}
                                   for name in ("packages-runtime", "packages-image"))

    def owners(self, paths):
        """The packages of these files; those that no package has, such as a LibTorch of one's own, are left out."""
        either = {path for given in paths for real in [os.path.realpath(given)]
                  for path in (real, real.removeprefix("/usr"), "/usr" + real)}
        found = re.findall(r"^(\S+?)(?::\w+)?: ", run("dpkg", "-S", *sorted(either)).stdout, re.M)
        return set(found)

    def binaries(self):
        return [program(name) for name in PROGRAMS] + [os.path.join(BUILD, "lib/libmnemosyne_sentencepiece.so")]

    def libraries(self, binary):
        return dict(re.findall(r"^\s+(\S+) => (/\S+)", run("ldd", binary).stdout, re.M))

    def test_what_the_programs_name_is_listed(self):
        for binary in self.binaries():
            libraries = self.libraries(binary)
            named = re.findall(r"NEEDED\s+(\S+)", run("objdump", "-p", binary).stdout)
            self.assertGreater(len(named), 2, binary)
            self.assertLessEqual(self.owners(libraries[name] for name in named if name in libraries), self.listed, binary)

    def test_what_these_need_comes_with_them(self):
        needs, provided = {}, {}
        for line in run("dpkg-query", "--show", "--showformat",
                        "${Package}\t${Pre-Depends}, ${Depends}\t${Provides}\n").stdout.splitlines():
            name, depends, provides = line.split("\t")
            needs[name] = [[re.split(r"[ :(]", one.strip())[0] for one in any_of.split("|")]
                           for any_of in depends.split(",") if any_of.strip()]
            for virtual in filter(None, (one.split("(")[0].strip() for one in provides.split(","))):
                provided.setdefault(virtual, []).append(name)

        def closure(roots):
            covered, todo = set(), list(roots)
            while todo:
                name = todo.pop()
                if name in covered or name not in needs:
                    continue
                covered.add(name)
                for any_of in needs[name]:
                    todo += [real for one in any_of for real in ([one] if one in needs else provided.get(one, []))]
            return covered

        used = set().union(*(self.owners(self.libraries(binary).values()) for binary in self.binaries()))
        self.assertGreater(len(used), 10)
        self.assertEqual(used - closure(self.listed), set())
        # The image has LibTorch's files without its dependencies.
        image = closure((self.listed | self.image) - {"libtorch1.13"})
        self.assertEqual(used - image - {"libtorch1.13"}, set())
        self.assertEqual([name for name in image if re.match("libopencv|libavcodec", name)], [])


class ComposeTest(unittest.TestCase):
    def setUp(self):
        self.compose = yaml.safe_load(read("docker-compose.yml"))
        self.services = self.compose["services"]

    def test_compose_reads_it(self):
        for command in ["docker", "compose"], ["docker-compose"]:
            if shutil.which(command[0]) and run(*command, "version").returncode == 0:
                done = run(*command, "-f", os.path.join(SOURCE, "docker-compose.yml"), "--profile", "demo", "config", "--quiet")
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                return
        self.skipTest("no docker compose and no docker-compose")

    def test_images_are_pinned_and_services_hardened(self):
        self.assertEqual({name: service["image"] for name, service in self.services.items()}, {
            "mnemosyned": IMAGE, "demo": IMAGE, "prometheus": "prom/prometheus:v2.42.0", "grafana": "grafana/grafana:9.5.15"})
        for name, service in self.services.items():
            self.assertTrue(service["read_only"], name)
            self.assertEqual(service["cap_drop"], ["ALL"], name)
            self.assertEqual(service["security_opt"], ["no-new-privileges:true"], name)
            for port in service.get("ports", []):
                self.assertTrue(port.startswith("127.0.0.1:"), f"{name}: {port}")

    def test_what_is_mounted_is_there(self):
        for name, service in self.services.items():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                if source.startswith("."):
                    self.assertTrue(os.path.exists(os.path.join(SOURCE, source)), f"{name}: {source}")
                    self.assertTrue(volume.endswith(":ro"), volume)
                else:
                    self.assertIn(source, self.compose["volumes"])
        build = self.services["mnemosyned"]["build"]
        self.assertTrue(os.path.exists(os.path.join(SOURCE, build["context"], build["dockerfile"])))

    def test_who_waits_waits_for_health(self):
        for name, service in self.services.items():
            for other, how in service.get("depends_on", {}).items():
                self.assertEqual(how, {"condition": "service_healthy"}, name)
                self.assertIn("healthcheck", self.services[other])

    def test_the_server_takes_its_flags_and_has_time_to_drain(self):
        server = self.services["mnemosyned"]
        done = server_takes(server["command"], **image_variables())
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        drain = next(flag.split("=")[1] for flag in server["command"] if flag.startswith("--drain_timeout="))
        self.assertGreater(seconds(server["stop_grace_period"]), seconds(drain))


class MonitoringTest(unittest.TestCase):
    def test_prometheus_takes_its_configuration(self):
        if not shutil.which("promtool"):
            self.skipTest("no promtool (Debian: prometheus)")
        with tempfile.TemporaryDirectory() as folder:
            config = read("deploy/prometheus/prometheus.yml").replace("/etc/prometheus", DEPLOY + "/prometheus")
            path = os.path.join(folder, "prometheus.yml")
            with open(path, "w", encoding="utf-8") as file:
                file.write(config)
            done = run("promtool", "check", "config", path)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_prometheus_scrapes_the_server_and_reads_its_rules(self):
        config = yaml.safe_load(read("deploy/prometheus/prometheus.yml"))
        targets = [target for job in config["scrape_configs"] for one in job["static_configs"] for target in one["targets"]]
        self.assertIn(f"mnemosyned:{METRICS}", targets)
        for path in config["rule_files"]:
            here = path.replace("/etc/prometheus", DEPLOY + "/prometheus")
            self.assertTrue(os.path.exists(here), here)

    def test_grafana_finds_prometheus_and_the_boards(self):
        source = yaml.safe_load(read("deploy/grafana/provisioning/datasources/prometheus.yml"))["datasources"][0]
        self.assertEqual((source["uid"], source["url"]), ("prometheus", "http://prometheus:9090"))
        provider = yaml.safe_load(read("deploy/grafana/provisioning/dashboards/mnemosyne.yml"))["providers"][0]
        mounts = [volume.split(":")[:2] for volume in yaml.safe_load(read("docker-compose.yml"))["services"]["grafana"]["volumes"]]
        folder = next(source for source, target in mounts if target == provider["options"]["path"])
        boards = [name for name in os.listdir(os.path.join(SOURCE, folder)) if name.endswith(".json")]
        self.assertNotEqual(boards, [])
        for name in boards:
            json.loads(read(folder, name))


class KubernetesTest(unittest.TestCase):
    """Each promise holds in the base and in every overlay."""

    FOLDERS = ["base", "overlays/single", "overlays/gpu", "overlays/tls"]

    @classmethod
    def setUpClass(cls):
        if not shutil.which("kubectl"):
            raise unittest.SkipTest("no kubectl")
        version = json.loads(run("kubectl", "version", "--client", "--output=json").stdout or "{}").get("kustomizeVersion", "v0")
        if int(re.match(r"v(\d+)", version).group(1)) < 4:
            raise unittest.SkipTest(f"kubectl has kustomize {version}; 4 or newer reads deploy/kubernetes")
        cls.objects = {}
        for folder in cls.FOLDERS:
            done = run("kubectl", "kustomize", os.path.join(DEPLOY, "kubernetes", folder))
            assert done.returncode == 0 and not done.stderr, done.stderr
            cls.objects[folder] = list(yaml.safe_load_all(done.stdout))

    def each(self):
        for folder in self.FOLDERS:
            with self.subTest(folder):
                yield folder

    def one(self, folder, kind, name=None):
        found = [o for o in self.objects[folder] if o["kind"] == kind and name in (None, o["metadata"]["name"])]
        self.assertEqual(len(found), 1, f"{kind} {name or ''} in {folder}")
        return found[0]

    def pod(self, folder):
        pod = self.one(folder, "StatefulSet")["spec"]["template"]["spec"]
        self.assertEqual(len(pod["containers"]), 1)
        return pod, pod["containers"][0]

    def flags(self, folder):
        return self.one(folder, "ConfigMap")["data"]

    def test_every_overlay_is_tested(self):
        overlays = sorted(os.listdir(os.path.join(DEPLOY, "kubernetes/overlays")))
        self.assertEqual(sorted(self.FOLDERS), ["base"] + ["overlays/" + name for name in overlays])

    def test_kinds(self):
        always = ["ConfigMap", "NetworkPolicy", "Service", "Service", "ServiceAccount", "StatefulSet"]
        for folder in self.each():
            more = [] if folder == "overlays/single" else ["PodDisruptionBudget", "ServiceMonitor"]
            self.assertEqual(sorted(o["kind"] for o in self.objects[folder]), sorted(always + more))

    def test_objects_are_what_their_kinds_may_be(self):
        if not shutil.which("npm") or not shutil.which("node"):
            self.skipTest("no npm: nothing has the kinds' schemas")
        with tempfile.TemporaryDirectory() as folder:
            done = run("npm", "install", "--prefix", folder, "--no-audit", "--no-fund", "--ignore-scripts", *SCHEMAS, env=os.environ)
            if done.returncode != 0:
                self.skipTest(f"npm has not the schemas: {done.stderr.strip()[-200:]}")
            for path in self.each():
                done = run("node", os.path.join(SOURCE, "tests/deploy/check_objects.mjs"), cwd=folder, env=os.environ,
                           input=json.dumps(self.objects[path]))
                self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)
            wrong = json.loads(json.dumps(self.one("base", "StatefulSet")))
            wrong["spec"]["template"]["spec"]["colour"] = "red"
            done = run("node", os.path.join(SOURCE, "tests/deploy/check_objects.mjs"), cwd=folder, env=os.environ,
                       input=json.dumps([wrong]))
            self.assertIn("colour", done.stdout)  # the check does find something

    def test_images(self):
        for folder in self.each():
            _, container = self.pod(folder)
            self.assertEqual(container["image"], IMAGE + ("-cuda" if folder.endswith("gpu") else ""))

    def test_flags_are_flags_and_the_server_takes_them(self):
        known = {"MNEMOSYNE_" + flag.upper() for flag in flags_of("mnemosyned")}
        for folder in self.each():
            flags = self.flags(folder)
            self.assertLessEqual(set(flags), known)
            done = server_takes(**{**image_variables(), **flags})
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            secure = folder.endswith("tls")
            self.assertEqual(flags["MNEMOSYNE_ALLOW_INSECURE"], "false" if secure else "true")
            self.assertEqual("MNEMOSYNE_TLS_CERTIFICATE" in flags, secure)
            _, container = self.pod(folder)
            self.assertEqual(container["envFrom"],
                             [{"configMapRef": {"name": self.one(folder, "ConfigMap")["metadata"]["name"]}}])

    def test_no_variables_that_the_server_would_refuse(self):
        for folder in self.each():
            pod, container = self.pod(folder)
            self.assertIs(pod["enableServiceLinks"], False)
            self.assertFalse([v for v in container.get("env", []) if v["name"].startswith("MNEMOSYNE_")])
        done = server_takes(MNEMOSYNE_SERVICE_HOST="10.0.0.1")
        self.assertEqual(done.returncode, 2)  # what it would be without that

    def test_the_restricted_profile(self):
        for folder in self.each():
            pod, container = self.pod(folder)
            security = pod["securityContext"]
            self.assertTrue(security["runAsNonRoot"])
            self.assertEqual({security[key] for key in ("runAsUser", "runAsGroup", "fsGroup")}, {10001})
            self.assertEqual(security["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertEqual(container["securityContext"], {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                            "capabilities": {"drop": ["ALL"]}})
            self.assertFalse({"hostNetwork", "hostPID", "hostIPC"} & set(pod))
            self.assertLessEqual({kind for volume in pod.get("volumes", []) for kind in volume} - {"name"}, {"secret"})
            self.assertIs(pod["automountServiceAccountToken"], False)
            account = self.one(folder, "ServiceAccount")
            self.assertIs(account["automountServiceAccountToken"], False)
            self.assertEqual(pod["serviceAccountName"], account["metadata"]["name"])

    def test_ports_are_those_that_the_server_listens_on(self):
        for folder in self.each():
            _, container = self.pod(folder)
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            flags = self.flags(folder)
            self.assertEqual(ports, {"grpc": GRPC, "metrics": METRICS})
            self.assertEqual(flags["MNEMOSYNE_LISTEN"], f"0.0.0.0:{GRPC}")
            self.assertEqual(flags["MNEMOSYNE_METRICS_ADDRESS"], f"0.0.0.0:{METRICS}")
            labels = self.one(folder, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
            for service in ("mnemosyne", "mnemosyned"):
                spec = self.one(folder, "Service", service)["spec"]
                self.assertLessEqual(spec["selector"].items(), labels.items())
                for port in spec["ports"]:
                    self.assertEqual(ports[port["targetPort"]], port["port"])
            self.assertEqual([p["name"] for p in self.one(folder, "Service", "mnemosyne")["spec"]["ports"]], ["grpc"])
            allowed = [port["port"] for rule in self.one(folder, "NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]]
            self.assertEqual(sorted(allowed), sorted(ports.values()))

    def test_probes(self):
        for folder in self.each():
            _, container = self.pod(folder)
            for name in "startupProbe", "readinessProbe", "livenessProbe":
                kinds = set(container[name]) & {"grpc", "tcpSocket", "httpGet", "exec"}
                if folder.endswith("tls"):  # the kubelet's gRPC probes speak no TLS
                    if name == "livenessProbe":  # a drain is no reason to be killed
                        self.assertEqual((kinds, container[name]["tcpSocket"]), ({"tcpSocket"}, {"port": "metrics"}))
                    else:
                        self.assertEqual((kinds, container[name]["httpGet"]), ({"httpGet"}, {"path": "/healthz", "port": "metrics"}))
                else:
                    self.assertEqual(kinds, {"grpc"})
                    self.assertEqual(container[name]["grpc"], {"port": GRPC})
            startup = container["startupProbe"]
            self.assertGreaterEqual(startup["periodSeconds"] * startup["failureThreshold"], 120)

    def test_there_is_time_for_the_drain(self):
        for folder in self.each():
            pod, container = self.pod(folder)
            command = container["lifecycle"]["preStop"]["exec"]["command"]
            self.assertEqual(command[0], "sleep")
            drain = seconds(self.flags(folder)["MNEMOSYNE_DRAIN_TIMEOUT"])
            self.assertGreater(pod["terminationGracePeriodSeconds"], int(command[1]) + drain)

    def test_resources_follow_the_sizing(self):
        for folder in self.each():
            _, container = self.pod(folder)
            requests, limits, flags = container["resources"]["requests"], container["resources"]["limits"], self.flags(folder)
            needed = (200 << 20) + quantity(flags["MNEMOSYNE_MAX_RESIDENT_BYTES"]) + int(flags["MNEMOSYNE_MAX_QUERIES"]) * 3_000_000
            self.assertEqual(requests["memory"], limits["memory"])
            self.assertGreater(quantity(limits["memory"]), 1.25 * needed)
            self.assertNotIn("cpu", limits)
            if folder.endswith("gpu"):
                self.assertEqual((limits["nvidia.com/gpu"], flags["MNEMOSYNE_DEVICE"]), ("1", "cuda"))
            else:
                self.assertEqual(flags["MNEMOSYNE_WORKERS"], requests["cpu"])

    def test_data_is_in_the_volume(self):
        for folder in self.each():
            stateful = self.one(folder, "StatefulSet")["spec"]
            _, container = self.pod(folder)
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            self.assertEqual([claim["metadata"]["name"] for claim in stateful["volumeClaimTemplates"]], ["data"])
            # Not the volume's root, which may have a lost+found.
            self.assertTrue(self.flags(folder)["MNEMOSYNE_DATA"].startswith(mounts["data"] + "/"))
            self.assertEqual(stateful["persistentVolumeClaimRetentionPolicy"], {"whenDeleted": "Retain", "whenScaled": "Retain"})
            headless = self.one(folder, "Service", stateful["serviceName"])["spec"]
            self.assertEqual(headless["clusterIP"], "None")

    def test_secrets_of_tls_are_mounted_where_the_flags_say(self):
        pod, container = self.pod("overlays/tls")
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        secrets = {volume["name"]: volume["secret"] for volume in pod["volumes"]}
        flags = self.flags("overlays/tls")
        for flag in "MNEMOSYNE_TLS_CERTIFICATE", "MNEMOSYNE_TLS_KEY", "MNEMOSYNE_ACCESS_FILE":
            mount = mounts[os.path.dirname(flags[flag])]
            self.assertTrue(mount["readOnly"])
            self.assertNotIn("subPath", mount)  # a file by subPath is not renewed
            self.assertEqual(secrets[mount["name"]]["defaultMode"], 0o440)

    def test_the_budget_and_the_monitor_find_the_server(self):
        for folder in ["base", "overlays/gpu", "overlays/tls"]:
            labels = self.one(folder, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
            budget = self.one(folder, "PodDisruptionBudget")["spec"]
            self.assertEqual(budget["maxUnavailable"], 1)
            self.assertLessEqual(budget["selector"]["matchLabels"].items(), labels.items())
            monitor = self.one(folder, "ServiceMonitor")["spec"]
            found = [o for o in self.objects[folder] if o["kind"] == "Service" and
                     monitor["selector"]["matchLabels"].items() <= o["metadata"]["labels"].items()]
            self.assertEqual([service["metadata"]["name"] for service in found], ["mnemosyned"])
            names = {port["name"] for port in found[0]["spec"]["ports"]}
            self.assertLessEqual({endpoint["port"] for endpoint in monitor["endpoints"]}, names)

    def test_nobody_else_reaches_it(self):
        for folder in self.each():
            policy = self.one(folder, "NetworkPolicy")["spec"]
            labels = self.one(folder, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
            self.assertLessEqual(policy["podSelector"]["matchLabels"].items(), labels.items())
            self.assertEqual((sorted(policy["policyTypes"]), policy["egress"]), (["Egress", "Ingress"], []))
            self.assertTrue(all(rule["from"] and rule["ports"] for rule in policy["ingress"]))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
