#!/usr/bin/env python3
"""Fetches what deps.toml pins into .deps/, with pip, apt-get and cargo, and verifies every checksum.

    tools/deps/fetch.py build cuda test     what these groups need
    tools/deps/fetch.py --latest NAME       version and checksum of NAME in its registry today
    tools/deps/fetch.py --list              every package, and whether it is there

A package that is complete leaves a stamp; a run that finds all stamps touches no network. An interrupted
download or unpacking is done again from its start. Standard library only.
"""

import argparse
import concurrent.futures
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

RECIPE = 1  # raise when unpacking changes: older stamps then count for nothing
CARGO = "1.68"  # from there on it needs no copy of the whole index
PYTHON = (3, 11)  # the wheels of the environments are pinned for this one
ENVIRONMENTS = {"test": "venv", "clients": "clients"}  # group -> folder of its Python environment
DEBIAN_RELEASES = ("bullseye", "bookworm", "trixie", "forky", "sid")
LICENCE = re.compile(r"(^|/)(licen[cs]e|copying|notice|thirdpartynotices)[^/]*$", re.IGNORECASE)


class Failure(Exception):
    """A message for the user; no traceback."""


def run(command, **options):
    """Runs a command and returns its output; a failure carries the command and what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    if done.returncode != 0:
        raise Failure(f"{' '.join(map(str, command))}\n{done.stdout.strip()}")
    return done.stdout


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_pins(path):
    """The pins of deps.toml as {name: entry}, and the table of system programs."""
    import tomllib

    with open(path, "rb") as file:
        data = tomllib.load(file)
    packages = data.get("package", {})
    for name, entry in packages.items():
        entry["name"] = name
        entry.setdefault("of", name)
        where = f"{path.name}: package {name}"
        for key in ("from", "version", "sha256", "groups"):
            if key not in entry:
                raise Failure(f"{where}: expected a key {key!r}, found {sorted(entry)}")
        if not re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]):
            raise Failure(f"{where}: sha256 is not 64 hexadecimal digits: {entry['sha256']!r}")
        if entry["from"] not in ("pypi", "crates", *DEBIAN_RELEASES):
            raise Failure(f"{where}: from is {entry['from']!r}; known: pypi, crates, {', '.join(DEBIAN_RELEASES)}")
        if not entry.get("take") and not entry.get("venv"):
            raise Failure(f"{where}: expected 'take' or 'venv'")
        if entry.get("venv") and not set(entry["groups"]) <= set(ENVIRONMENTS):
            raise Failure(f"{where}: venv goes with the groups {', '.join(ENVIRONMENTS)}, found {entry['groups']}")
    return packages, data.get("system", {})


# --- What the system has -------------------------------------------------------------------------


def numbers(text):
    return tuple(int(part) for part in re.findall(r"\d+", text))


def system_program(requirement, search_path):
    """The path of a program that satisfies 'name >= version' on this machine, or None."""
    name, minimum = re.fullmatch(r"(\S+) >= ([\d.]+)", requirement).groups()
    places = search_path + (os.pathsep + "/usr/local/cuda/bin" if name == "nvcc" else "")
    program = shutil.which(name, path=places)
    if name == "nvcc" and os.environ.get("CUDACXX"):
        program = shutil.which(os.environ["CUDACXX"])
    if not program:
        return None
    try:
        out = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"release (\d+\.\d+)" if name == "nvcc" else r"(\d+(?:\.\d+)+)", out)
    return program if found and numbers(found[1]) >= numbers(minimum) else None


def apt_install(names, why):
    """Installs Debian packages on this machine: root and apt-get needed, otherwise a message says what to do."""
    missing = " ".join(names)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Failure(f"{why} missing; install it first (on Debian, as root: apt-get install {missing})")
    print(f"deps: {why} missing: apt-get install {missing}", flush=True)
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    install = ["apt-get", "install", "-y", "--no-install-recommends", *names]
    try:
        run(install, env=environment)
    except Failure:  # most often: no package lists yet, or old ones
        run(["apt-get", "update"], env=environment)
        run(install, env=environment)


def ensure_system_programs(wanted):
    for program, packages in wanted.items():
        if not shutil.which(program):
            apt_install([packages] if isinstance(packages, str) else packages, f"{program} is")


def ensure_python_module(module, package):
    probe = [sys.executable, "-c", f"import {module}"]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        apt_install([package], f"the Python module {module} is")


# --- Registries ----------------------------------------------------------------------------------


class PyPI:
    """Wheels by name, with pip. Those that are only unpacked are asked for by platform, so that any Python 3 will do."""

    ANY_PYTHON = ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11", "--abi=cp311", "--abi=abi3",
                  "--abi=none", "--platform=manylinux2014_x86_64", "--platform=manylinux_2_25_x86_64", "--platform=manylinux_2_27_x86_64",
                  "--platform=manylinux_2_28_x86_64", "--platform=any"]

    def __init__(self):
        ensure_python_module("pip", "python3-pip")

    def download(self, entry, folder, pinned=True):
        name = entry["of"]
        requirement = f"{name}=={entry['version']} --hash=sha256:{entry['sha256']}" if pinned else name
        listing = folder / "requirement.txt"
        listing.write_text(requirement + "\n")
        hashes = ["--require-hashes"] if pinned else []
        try:
            run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir",
                 "--disable-pip-version-check", *hashes, *self.ANY_PYTHON, "-d", folder, "-r", listing])
        except Failure as failure:
            if "THESE PACKAGES DO NOT MATCH THE HASHES" in str(failure):
                raise Failure(f"{name} {entry['version']}: {mismatch(str(failure), entry)}") from None
            if "No matching distribution" in str(failure) and "from versions: none" not in str(failure):
                raise Failure(gone(entry)) from None
            raise Failure(f"{name} {entry['version']}: download failed; run again to go on.\n{failure}") from None
        listing.unlink()

    @staticmethod
    def version_of(file):
        return file.name.split("-")[1]


class Crates:
    """Crates by name, with cargo: they are taken from where it keeps its downloads."""

    def __init__(self):
        if not system_program(f"cargo >= {CARGO}", os.environ.get("PATH", "")):
            apt_install(["cargo-web"], f"cargo {CARGO} or newer is")

    def download(self, entry, folder, pinned=True):
        name = entry["name"]
        project = folder / "project"
        project.mkdir()
        version = f"={entry['version']}" if pinned else "*"
        (project / "lib.rs").touch()
        (project / "Cargo.toml").write_text('[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n'
                                            '[lib]\npath = "lib.rs"\n'
                                            f'[dependencies]\n{name} = {{ version = "{version}", default-features = false }}\n')
        try:
            run(["cargo", "fetch", "--quiet", "--manifest-path", project / "Cargo.toml"])
        except Failure as failure:
            if "failed to select a version" in str(failure):
                raise Failure(gone(entry)) from None
            raise Failure(f"{name} {entry['version']}: download failed; run again to go on.\n{failure}") from None
        locked = re.search(rf'name = "{re.escape(name)}"\nversion = "([^"]+)"', (project / "Cargo.lock").read_text())[1]
        home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
        found = sorted((home / "registry" / "cache").glob(f"*/{name}-{locked}.crate"))
        if not found:
            raise Failure(f"{name} {locked}: cargo fetched it, but there is no such file under {home}/registry/cache")
        shutil.copy(found[0], folder)
        shutil.rmtree(project)

    @staticmethod
    def version_of(file):
        return file.stem.rpartition("-")[2]


class Debian:
    """Debian packages by name, with apt-get in state folders of our own: nothing is installed, and any user may do it."""

    def __init__(self, release, deps):
        self.release = release
        self.home = deps / "apt" / release
        self.lock = threading.Lock()
        self.ready = False

    def options(self):
        return ["-o", "APT::Sandbox::User=root", "-o", f"Dir::Etc::sourcelist={self.home}/release.list",
                "-o", "Dir::Etc::sourceparts=/dev/null", "-o", f"Dir::State::Lists={self.home}/lists",
                "-o", f"Dir::Cache={self.home}/cache"]

    def prepare(self):
        with self.lock:
            if self.ready:
                return
            for part in ("lists/partial", "cache/archives/partial"):
                (self.home / part).mkdir(parents=True, exist_ok=True)
            (self.home / "release.list").write_text(source_list(self.release))
            try:
                run(["apt-get", *self.options(), "-o", "APT::Update::Error-Mode=any", "update"])
            except Failure as failure:
                raise Failure(f"the package lists of Debian {self.release} cannot be fetched; run again to go on.\n"
                              f"{failure}") from None
            self.ready = True

    def download(self, entry, folder, pinned=True):
        self.prepare()
        name, wanted = entry["name"], entry["name"]
        if pinned:
            offered = self.offered(name)
            if entry["version"] in offered:
                wanted = f"{name}={entry['version']}"
            elif os.environ.get("MILLRACE_DEPS_UNPINNED") == "1" and offered:
                entry["unpinned"] = offered[0]
                print(f"deps: WARNING: {name} {entry['version']} is gone; taking {offered[0]}, unverified "
                      "(MILLRACE_DEPS_UNPINNED=1)", file=sys.stderr, flush=True)
            else:
                raise Failure(gone(entry, offered))
        try:
            run(["apt-get", *self.options(), "download", wanted], cwd=folder)
        except Failure as failure:
            raise Failure(f"{name}: download failed; run again to go on.\n{failure}") from None

    def offered(self, name):
        out = run(["apt-cache", *self.options(), "madison", name])
        return [line.split("|")[1].strip() for line in out.splitlines() if line.count("|") >= 2]

    @staticmethod
    def version_of(file):
        return run(["dpkg-deb", "-f", file, "Version"]).strip()


def source_list(release):
    """The machine's own Debian sources, with the release's name replaced."""
    etc = Path("/etc/apt")
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    found = []
    for file in (file for file in files if file.is_file()):
        text = file.read_text(errors="replace")
        found += deb822_sources(text) if file.suffix == ".sources" else one_line_sources(text)
    lines = []
    for uri, suite, signed_by in found:
        codename, _, pocket = suite.partition("-")
        if codename in DEBIAN_RELEASES or codename == "stable":
            key = f"[signed-by={signed_by}] " if signed_by else ""
            line = f"deb {key}{uri} {release}{'-' + pocket if pocket else ''} main"
            if line not in lines:
                lines.append(line)
    if not lines:
        raise Failure("no Debian archive in /etc/apt: install the libraries that deps.toml names with the system's own "
                      "package manager (CMake finds them), or build on Debian 12")
    return "\n".join(lines) + "\n"


def deb822_sources(text):
    for stanza in re.split(r"\n\s*\n", text):
        fields, key = {}, None
        for line in (line for line in stanza.splitlines() if not line.startswith("#")):
            if line[:1].isspace() and key:
                fields[key] += "\n" + line
            elif ":" in line:
                key, value = line.split(":", 1)
                key = key.strip().lower()
                fields[key] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        signed_by = fields.get("signed-by", "")
        if "main" not in fields.get("components", "").split() or "\n" in signed_by:
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield uri, suite, signed_by


def one_line_sources(text):
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)", line.strip())
        if match and "main" in match[4].split():
            signed_by = re.search(r"signed-by=(\S+)", match[1] or "")
            yield match[2], match[3], signed_by[1] if signed_by else ""


def mismatch(found, entry):
    return (f"checksum mismatch: deps.toml pins sha256 {entry['sha256']}, the download differs. It was discarded. "
            f"Run again; if it stays, the registry or a proxy serves another file: do not use it.\n{found}")


def gone(entry, offered=()):
    name = entry["name"]
    has = f"it has {', '.join(offered)}" if offered else "it has none of that name"
    return (f"{name} {entry['version']} (from {entry['from']}) is no longer in the archive; {has}. To update the pin: "
            f"tools/deps/fetch.py --latest {name}, and put what it prints into deps.toml.")


# --- Unpacking -----------------------------------------------------------------------------------


def mapped(path, take):
    """Where the file at `path` inside a package goes under .deps/, or None."""
    for source, target in take.items():
        if path == source:
            return target
        if path.startswith(source + "/"):
            return target + path[len(source):]
    return None


def unpack_wheel(file, entry, deps):
    """Unpacks what the entry takes, and its licence texts; returns the paths written, relative to .deps/."""
    written = []
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            target = mapped(info.filename, entry["take"])
            if target is None and LICENCE.search(info.filename):
                target = f"licences/{entry['name']}/{Path(info.filename).name}"
            if target is None:
                continue
            path = deps / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            with archive.open(info) as source, open(path, "wb") as copy:
                shutil.copyfileobj(source, copy)
            path.chmod(0o755 if (info.external_attr >> 16) & 0o111 else 0o644)
            written.append(target)
    return written


def unpack_crate(file, entry, deps):
    written = []
    with tarfile.open(file) as archive:
        for member in (member for member in archive if member.isfile()):
            inside = member.name.partition("/")[2]  # below NAME-VERSION/
            target = mapped(inside, entry["take"])
            if target is None and LICENCE.search(inside):
                target = f"licences/{entry['name']}/{Path(inside).name}"
            if target is None:
                continue
            path = deps / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            with archive.extractfile(member) as source, open(path, "wb") as copy:
                shutil.copyfileobj(source, copy)
            written.append(target)
    return written


def unpack_deb(file, entry, deps):
    scratch = file.parent / "unpacked"
    shutil.rmtree(scratch, ignore_errors=True)
    run(["dpkg-deb", "-x", file, scratch])
    written = []
    for path in sorted(scratch.rglob("*")):
        inside = path.relative_to(scratch).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        target = mapped(inside, entry["take"])
        if target is None and inside == f"usr/share/doc/{entry['name']}/copyright":
            target = f"licences/{entry['name']}/copyright"
        if target is None:
            continue
        (deps / target).parent.mkdir(parents=True, exist_ok=True)
        (deps / target).unlink(missing_ok=True)
        shutil.move(path, deps / target)
        written.append(target)
    shutil.rmtree(scratch)
    return written


def install_links(entry, deps):
    """Makes the entry's links, and its programs in .deps/bin; returns the paths made."""
    made = []
    for path, target in entry.get("link", {}).items():
        replace_link(deps / path, target)
        made.append(path)
    for program in entry.get("bin", []):
        link = deps / "bin" / Path(program).name
        (deps / program).chmod(0o755)
        if "libs" in entry:
            link.parent.mkdir(exist_ok=True)
            link.unlink(missing_ok=True)
            link.write_text("#!/bin/sh\n"
                            f'LD_LIBRARY_PATH="{deps / entry["libs"]}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}" '
                            f'exec "{deps / program}" "$@"\n')
            link.chmod(0o755)
        else:
            replace_link(link, os.path.relpath(deps / program, link.parent))
        made.append(link.relative_to(deps).as_posix())
    return made


def replace_link(link, target):
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)


# --- The whole -----------------------------------------------------------------------------------


class Fetcher:
    def __init__(self, pins, deps):
        self.packages, self.system = read_pins(pins)
        self.deps = deps
        self.registries = {}
        self.search_path = os.pathsep.join(
            place for place in os.environ.get("PATH", "").split(os.pathsep)
            if place and Path(place).resolve() != (deps / "bin").resolve())

    def registry(self, source):
        if source not in self.registries:
            if source in DEBIAN_RELEASES and not shutil.which("apt-get"):
                raise Failure("apt-get not found: install the libraries that deps.toml names with the system's own package "
                              "manager (CMake finds them), or build on Debian 12")
            makers = {"pypi": PyPI, "crates": Crates}
            self.registries[source] = makers[source]() if source in makers else Debian(source, self.deps)
        return self.registries[source]

    def stamp(self, name):
        return self.deps / "stamps" / name

    def read_stamp(self, name):
        try:
            return json.loads(self.stamp(name).read_text())
        except (OSError, ValueError):
            return {}

    def complete(self, entry):
        stamp = self.read_stamp(entry["name"])
        return stamp.get("sha256") == entry["sha256"] and stamp.get("entry") == fingerprint(entry) and all(
            os.path.lexists(self.deps / path) for path in stamp["files"])

    def fetch(self, groups):
        known = {group for entry in self.packages.values() for group in entry["groups"]} | set(self.system)
        for group in groups:
            if group not in known:
                raise Failure(f"unknown group {group!r}; known: {', '.join(sorted(known))}")
            ensure_system_programs(self.system.get(group, {}))
        wanted = [entry for entry in self.packages.values() if set(groups) & set(entry["groups"])]
        wanted = [entry for entry in wanted if not self.taken_from_system(entry)]
        missing = [entry for entry in wanted if not self.complete(entry)]
        if missing:
            self.fetch_missing(missing)
        for group in dict.fromkeys(groups):
            entries = [entry for entry in wanted if entry.get("venv") and group in entry["groups"]]
            if entries:
                self.build_environment(ENVIRONMENTS[group], entries)
        if not missing:
            print(f"deps: {' '.join(groups)}: complete")

    def taken_from_system(self, entry):
        program = system_program(entry["system"], self.search_path) if "system" in entry else None
        for path in entry.get("bin", []) if program else []:
            name = Path(path).name
            beside = Path(program).parent / name
            if beside.exists():
                replace_link(self.deps / "bin" / name, beside)
        if program:
            self.stamp(entry["name"]).unlink(missing_ok=True)
        return program is not None

    def fetch_missing(self, missing):
        for source in {entry["from"] for entry in missing}:
            self.registry(source)  # one after another: may install pip
        if any(entry.get("venv") for entry in missing):
            self.venv_python()
        print(f"deps: {len(missing)} packages to fetch into {self.deps}", flush=True)
        failures = []
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            jobs = {pool.submit(self.fetch_one, entry): entry for entry in missing}
            for count, job in enumerate(concurrent.futures.as_completed(jobs), 1):
                entry = jobs[job]
                try:
                    megabytes = job.result() / 1e6
                    print(f"deps: [{count}/{len(missing)}] {entry['name']} {entry['version']}  {megabytes:.1f} MB", flush=True)
                except Failure as failure:
                    failures.append(str(failure))
                    print(f"deps: [{count}/{len(missing)}] {entry['name']} FAILED", flush=True)
        if failures:
            raise Failure("\n".join(dict.fromkeys(failures)))

    def fetch_one(self, entry):
        """Downloads, verifies, unpacks and stamps one package; returns its size in bytes."""
        file = self.download(entry)
        self.remove_files(entry["name"])
        if entry.get("venv"):
            written = [file.relative_to(self.deps).as_posix()]
        else:
            unpack = {"pypi": unpack_wheel, "crates": unpack_crate}.get(entry["from"], unpack_deb)
            written = unpack(file, entry, self.deps) + install_links(entry, self.deps)
        for source in entry.get("take", {}).values():
            if not any(path == source or path.startswith(source + "/") for path in written):
                raise Failure(f"{entry['name']} {entry['version']}: nothing was unpacked to {source}; "
                              "'take' in deps.toml does not fit the package")
        size = file.stat().st_size
        stamp = self.stamp(entry["name"])
        stamp.parent.mkdir(exist_ok=True)
        draft = stamp.with_name(stamp.name + ".new")
        draft.write_text(json.dumps({"sha256": entry["sha256"], "entry": fingerprint(entry), "files": written}))
        draft.replace(stamp)
        if not entry.get("venv"):
            shutil.rmtree(file.parent)
        return size

    def download(self, entry):
        """The verified file of a package, in a folder of its own; what an earlier run left there is used if it is whole."""
        folder = self.deps / "downloads" / entry["name"]
        if folder.is_dir():
            for file in folder.iterdir():
                if file.is_file() and sha256(file) == entry["sha256"]:
                    return file
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        self.registry(entry["from"]).download(entry, folder)
        file = only_file(folder, entry)
        digest = sha256(file)
        if digest != entry["sha256"] and "unpinned" not in entry:
            file.unlink()
            raise Failure(f"{entry['name']} {entry['version']}: {mismatch('found sha256 ' + digest, entry)}")
        return file

    def remove_files(self, name):
        """Removes what an earlier version of the package left, so that no two versions mix."""
        for path in self.read_stamp(name).get("files", []):
            if not path.startswith("downloads/"):
                (self.deps / path).unlink(missing_ok=True)
        self.stamp(name).unlink(missing_ok=True)

    def venv_python(self):
        """A Python of the version that the wheels are pinned for."""
        if sys.version_info[:2] == PYTHON:
            python = sys.executable
        else:
            python = shutil.which("python%d.%d" % PYTHON)
        if not python:
            raise Failure("the Python packages of the tests are pinned for Python %d.%d, this is %d.%d; install python%d.%d"
                          % (*PYTHON, *sys.version_info[:2], *PYTHON))
        if subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True).returncode != 0:
            apt_install(["python%d.%d-venv" % PYTHON], "the Python module venv is")
        return python

    def build_environment(self, name, entries):
        """Installs the verified wheels, and nothing else, into .deps/NAME; no network."""
        lines = sorted(f"{entry['of']}=={entry['version']} --hash=sha256:{entry['sha256']}" for entry in entries)
        wanted = "\n".join(lines) + "\n"
        listing, folder = self.deps / f"{name}.txt", self.deps / name
        if listing.exists() and listing.read_text() == wanted and (folder / "bin" / "pytest").exists():
            return
        print(f"deps: .deps/{name} with {len(entries)} packages", flush=True)
        listing.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        run([self.venv_python(), "-m", "venv", folder])
        draft = self.deps / f"{name}.txt.new"
        draft.write_text(wanted)
        finds = [f"--find-links={self.deps / 'downloads' / entry['name']}" for entry in entries]
        run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--require-hashes",
             "--disable-pip-version-check", *finds, "-r", draft])
        run([folder / "bin" / "python", "-m", "pip", "check", "--disable-pip-version-check"])
        draft.replace(listing)

    def latest(self, name):
        """Prints version and checksum of the newest that the registry has."""
        if name not in self.packages:
            raise Failure(f"deps.toml has no package {name!r}")
        entry = self.packages[name]
        folder = self.deps / "downloads" / ("latest-" + name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        registry = self.registry(entry["from"])
        registry.download(entry, folder, pinned=False)
        file = only_file(folder, entry)
        print(f'[package.{name}]\nversion = "{registry.version_of(file)}"\nsha256 = "{sha256(file)}"')
        shutil.rmtree(folder)

    def list(self):
        for name, entry in self.packages.items():
            system = self.taken_from_system(entry)
            state = "system" if system else "there" if self.complete(entry) else "missing"
            print(f"{state:8} {name} {entry['version']}  ({', '.join(entry['groups'])})")


def fingerprint(entry):
    """What of an entry decides how it is unpacked."""
    keys = ("version", "take", "bin", "libs", "link", "venv")
    text = json.dumps([RECIPE, [entry.get(key) for key in keys]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def only_file(folder, entry):
    files = [path for path in folder.iterdir() if path.suffix in (".whl", ".deb", ".crate")]
    if len(files) != 1:
        raise Failure(f"{entry['name']}: expected one downloaded file in {folder}, found {len(files)}")
    return files[0]


def main():
    if sys.version_info < (3, 11):
        raise Failure(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description="Fetches the pinned dependencies into .deps/.")
    parser.add_argument("groups", nargs="*", help="build, cuda, tensorrt, test, clients, lint, fuzz")
    parser.add_argument("--pins", type=Path, default=root / "deps.toml", help="the file of pins (default: %(default)s)")
    parser.add_argument("--deps", type=Path, default=root / ".deps", help="where to unpack (default: %(default)s)")
    parser.add_argument("--latest", metavar="NAME", help="print version and checksum of NAME in its registry today")
    parser.add_argument("--list", action="store_true", help="print every package and whether it is there")
    options = parser.parse_args()
    if not options.groups and not options.latest and not options.list:
        parser.error("name at least one group")
    deps = options.deps.absolute()
    deps.mkdir(parents=True, exist_ok=True)
    with open(deps / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once: the second waits, then finds everything done
        fetcher = Fetcher(options.pins, deps)
        if options.latest:
            fetcher.latest(options.latest)
        elif options.list:
            fetcher.list()
        else:
            fetcher.fetch(options.groups)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"deps: error: {failure}")
    except KeyboardInterrupt:
        sys.exit("deps: interrupted; run again to go on")
