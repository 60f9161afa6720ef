"""tools/deps/fetch.py: what is pinned is what is unpacked, once, and nothing else.

The registries here are folders: pip and apt-get are the real ones, pointed at files made by the test.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FETCH = ROOT / "tools" / "deps" / "fetch.py"
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing answers there

spec = importlib.util.spec_from_file_location("fetch", FETCH)
fetch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fetch)


def offline(**more):
    """An environment in which neither pip nor apt-get reaches anything."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        environment[name] = NOWHERE
    return environment | {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "5"} | more


def run_fetch(*arguments, environment):
    done = subprocess.run([sys.executable, FETCH, *map(str, arguments)], env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    return done.returncode, done.stdout


class Registry:
    """A folder of wheels that pip takes for its only source."""

    def __init__(self, folder):
        self.wheels = folder / "wheels"
        self.wheels.mkdir()
        self.pins = folder / "deps.toml"
        self.deps = folder / "deps"
        self.entries = {}

    def publish(self, name, version, files):
        path = self.wheels / f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(path, "w") as wheel:
            for inside, text in files.items():
                wheel.writestr(inside, text)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
            wheel.writestr(f"{info}/LICENSE", "Do as you like.\n")
        return path

    def pin(self, name, version, path, take):
        self.entries[name] = (
            f'[package.{name}]\nfrom = "pypi"\nversion = "{version}"\nsha256 = "{fetch.sha256(path)}"\n'
            f'groups = ["build"]\ntake = {{ {take} }}\n')
        self.pins.write_text("\n".join(self.entries.values()))

    def fetch(self, **environment):
        settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)} | environment
        return run_fetch("build", "--pins", self.pins, "--deps", self.deps, environment=offline(**settings))


@pytest.fixture
def registry(tmp_path):
    made = Registry(tmp_path)
    made.path = made.publish("gear", "1.0", {"gear/wheel.txt": "round\n", "gear/old.txt": "old\n", "other.txt": "no\n"})
    made.pin("gear", "1.0", made.path, '"gear" = "gear"')
    return made


def snapshot(folder):
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*") if path.is_file()}


# --- The pins themselves -------------------------------------------------------------------------


def test_every_pin_is_well_formed():
    packages, system = fetch.read_pins(ROOT / "deps.toml")
    assert len(packages) > 20
    for name, entry in packages.items():
        assert set(entry["groups"]) <= {"build", "cuda", "tensorrt", "test", "clients", "lint", "fuzz"}, name
        assert re.fullmatch(r"[0-9][\w.+:~-]*", entry["version"]), name
        if "system" in entry:
            assert re.fullmatch(r"\S+ >= [\d.]+", entry["system"]), name
        if entry.get("venv"):
            assert entry["from"] == "pypi", name
        same = packages.get(entry["of"], entry)  # one package for two purposes is of one version,
        if entry.get("venv") and same.get("venv") and not set(entry["groups"]) & set(same["groups"]):
            continue  # but each Python environment has its own
        assert (entry["version"], entry["sha256"]) == (same["version"], same["sha256"]), name
    checksums = [entry["sha256"] for name, entry in packages.items() if entry["of"] == name]
    assert len(set(checksums)) == len(checksums)
    assert set(system) <= {"build", "fuzz"}


def test_no_pin_names_a_host():
    for file in (ROOT / "deps.toml", FETCH):
        assert not re.search(r"https?://|\b(pypi\.org|debian\.org)\b", file.read_text())


@pytest.mark.parametrize("broken, complaint", [
    ('[package.a]\nfrom = "pypi"\nversion = "1"\ngroups = []\n', "sha256"),
    ('[package.a]\nfrom = "pypi"\nversion = "1"\nsha256 = "12"\ngroups = []\nvenv = true\n', "64 hexadecimal"),
    (f'[package.a]\nfrom = "ftp"\nversion = "1"\nsha256 = "{"0" * 64}"\ngroups = []\nvenv = true\n', "known: pypi"),
    (f'[package.a]\nfrom = "pypi"\nversion = "1"\nsha256 = "{"0" * 64}"\ngroups = []\n', "'take' or 'venv'"),
    (f'[package.a]\nfrom = "pypi"\nversion = "1"\nsha256 = "{"0" * 64}"\ngroups = ["lint"]\nvenv = true\n', "test, clients"),
])
def test_a_malformed_pin_is_named(tmp_path, broken, complaint):
    pins = tmp_path / "deps.toml"
    pins.write_text(broken)
    status, output = run_fetch("build", "--pins", pins, "--deps", tmp_path / "deps", environment=offline())
    assert status == 1
    assert "package a" in output and complaint in output


# --- This checkout's dependencies ----------------------------------------------------------------


def test_a_second_run_touches_no_network_and_no_file():
    before = snapshot(ROOT / ".deps" / "stamps")
    assert before, "the dependencies of this checkout are not fetched"
    status, output = run_fetch("build", "test", environment=offline())
    assert (status, output) == (0, "deps: build test: complete\n")
    assert snapshot(ROOT / ".deps" / "stamps") == before


def test_without_the_network_a_first_run_fails_and_says_how_to_go_on(tmp_path):
    status, output = run_fetch("lint", "--deps", tmp_path, environment=offline())
    assert status == 1
    assert "clang-format" in output and "run again" in output


# --- Wheels --------------------------------------------------------------------------------------


def test_takes_what_the_pin_names_and_the_licence(registry):
    status, output = registry.fetch()
    assert status == 0, output
    assert (registry.deps / "gear" / "wheel.txt").read_text() == "round\n"
    assert (registry.deps / "licences" / "gear" / "LICENSE").is_file()
    assert not (registry.deps / "other.txt").exists()


def test_a_corrupted_download_is_refused_and_discarded(registry):
    good = registry.path.read_bytes()
    registry.path.write_bytes(good.replace(b"round", b"flat!"))
    status, output = registry.fetch()
    assert status == 1
    assert "gear 1.0" in output and "checksum mismatch" in output
    assert not (registry.deps / "gear").exists()
    assert not (registry.deps / "stamps" / "gear").exists()

    registry.path.write_bytes(good)
    status, output = registry.fetch()
    assert status == 0, output
    assert (registry.deps / "gear" / "wheel.txt").read_text() == "round\n"


def test_a_partial_download_is_done_again(registry):
    left = registry.deps / "downloads" / "gear" / registry.path.name
    left.parent.mkdir(parents=True)
    left.write_bytes(registry.path.read_bytes()[:100])
    status, output = registry.fetch()
    assert status == 0, output
    assert (registry.deps / "gear" / "wheel.txt").is_file()


def test_a_whole_download_left_by_an_interrupted_run_is_used(registry):
    left = registry.deps / "downloads" / "gear" / registry.path.name
    left.parent.mkdir(parents=True)
    shutil.move(registry.path, left)
    status, output = registry.fetch()
    assert status == 0, output
    assert (registry.deps / "gear" / "wheel.txt").is_file()


def test_what_was_removed_is_fetched_again(registry):
    assert registry.fetch()[0] == 0
    (registry.deps / "gear" / "wheel.txt").unlink()
    status, output = registry.fetch()
    assert status == 0 and "1 packages to fetch" in output
    assert (registry.deps / "gear" / "wheel.txt").is_file()
    registry.path.unlink()
    status, output = registry.fetch()
    assert (status, output) == (0, "deps: build: complete\n")


def test_a_new_pin_leaves_nothing_of_the_old(registry):
    assert registry.fetch()[0] == 0
    newer = registry.publish("gear", "2.0", {"gear/wheel.txt": "rounder\n"})
    registry.pin("gear", "2.0", newer, '"gear" = "gear"')
    status, output = registry.fetch()
    assert status == 0, output
    assert (registry.deps / "gear" / "wheel.txt").read_text() == "rounder\n"
    assert not (registry.deps / "gear" / "old.txt").exists()


def test_a_version_that_is_gone_is_named_with_how_to_update(registry):
    other = registry.publish("gear", "1.1", {"gear/wheel.txt": "other\n"})
    registry.path.unlink()
    status, output = registry.fetch()
    assert status == 1
    assert "gear 1.0" in output and "--latest gear" in output
    settings = offline(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(registry.wheels))
    status, output = run_fetch("--latest", "gear", "--pins", registry.pins, "--deps", registry.deps, environment=settings)
    assert status == 0, output
    assert 'version = "1.1"' in output and fetch.sha256(other) in output


def test_a_take_that_does_not_fit_the_package_is_an_error(registry):
    registry.pin("gear", "1.0", registry.path, '"geer" = "gear"')
    status, output = registry.fetch()
    assert status == 1 and "nothing was unpacked to gear" in output


def test_each_environment_has_its_own_version(registry):
    older, newer = registry.path, registry.publish("gear", "2.0", {"gear/wheel.txt": "rounder\n"})
    pin = '[package.{}]\nof = "gear"\nfrom = "pypi"\nversion = "{}"\nsha256 = "{}"\ngroups = ["{}"]\nvenv = true\n'
    registry.pins.write_text(pin.format("gear", "1.0", fetch.sha256(older), "test")
                             + pin.format("gear-2", "2.0", fetch.sha256(newer), "clients"))
    settings = offline(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(registry.wheels))
    status, output = run_fetch("test", "clients", "--pins", registry.pins, "--deps", registry.deps, environment=settings)
    assert status == 0, output
    for name, text in (("venv", "round\n"), ("clients", "rounder\n")):
        (file,) = (registry.deps / name).rglob("gear/wheel.txt")
        assert file.read_text() == text


def test_an_unknown_group_is_named(registry):
    status, output = run_fetch("bild", "--pins", registry.pins, "--deps", registry.deps, environment=offline())
    assert status == 1 and "'bild'" in output and "build" in output


# --- Debian packages -----------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A Debian archive in a folder, with one package, and a fetcher that knows only that archive."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        pytest.skip("NOT CHECKED: needs apt-get and dpkg-deb")
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: cog\nVersion: 1.0-1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: a cog\n")
    (tree / "usr" / "include").mkdir(parents=True)
    (tree / "usr" / "include" / "cog.h").write_text("#define COG 1\n")
    (tree / "usr" / "share" / "doc" / "cog").mkdir(parents=True)
    (tree / "usr" / "share" / "doc" / "cog" / "copyright").write_text("Do as you like.\n")
    repository = tmp_path / "repository"
    repository.mkdir()
    package = repository / "cog_1.0-1_all.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, package], check=True, capture_output=True)
    (repository / "Packages").write_text(
        f"Package: cog\nVersion: 1.0-1\nArchitecture: all\nMaintainer: nobody <n@example.org>\n"
        f"Filename: ./{package.name}\nSize: {package.stat().st_size}\nSHA256: {fetch.sha256(package)}\nDescription: a cog\n")
    monkeypatch.setattr(fetch, "source_list", lambda release: f"deb [trusted=yes] file:{repository} ./\n")

    def run(version="1.0-1", checksum=None):
        pins = tmp_path / "deps.toml"
        pins.write_text(f'[package.cog]\nfrom = "bookworm"\nversion = "{version}"\n'
                        f'sha256 = "{checksum or fetch.sha256(package)}"\ngroups = ["build"]\n'
                        'take = { "usr/include" = "debian/usr/include" }\n')
        deps = tmp_path / "deps"
        deps.mkdir(exist_ok=True)
        fetch.Fetcher(pins, deps).fetch(["build"])
        return deps

    return run


def test_a_debian_package_is_unpacked_and_not_installed(archive, capsys):
    deps = archive()
    assert (deps / "debian" / "usr" / "include" / "cog.h").is_file()
    assert (deps / "licences" / "cog" / "copyright").is_file()
    assert not Path("/usr/include/cog.h").exists()
    capsys.readouterr()
    archive()
    assert capsys.readouterr().out == "deps: build: complete\n"


def test_a_debian_package_with_another_checksum_is_refused(archive):
    with pytest.raises(fetch.Failure, match="checksum mismatch"):
        archive(checksum="0" * 64)


def test_a_debian_version_that_vanished_is_named(archive, monkeypatch):
    with pytest.raises(fetch.Failure, match=r"cog 0\.9-1 .* it has 1\.0-1\. .*--latest cog"):
        archive(version="0.9-1", checksum="0" * 64)
    monkeypatch.setenv("MILLRACE_DEPS_UNPINNED", "1")
    deps = archive(version="0.9-1", checksum="0" * 64)
    assert (deps / "debian" / "usr" / "include" / "cog.h").is_file()


def test_sources_of_another_release_are_made_from_the_machines_own():
    deb822 = ("# a comment\nTypes: deb\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\n"
              "Components: main contrib\nSigned-By: /k.gpg\n\nTypes: deb-src\nURIs: http://mirror/debian\nSuites: bookworm\n"
              "Components: main\n")
    assert list(fetch.deb822_sources(deb822)) == [
        ("http://mirror/debian", "bookworm", "/k.gpg"), ("http://mirror/debian", "bookworm-updates", "/k.gpg")]
    one_line = "deb [arch=amd64 signed-by=/k.gpg] http://mirror/debian bookworm main\n# deb http://x/ bookworm main\n"
    assert list(fetch.one_line_sources(one_line)) == [("http://mirror/debian", "bookworm", "/k.gpg")]
