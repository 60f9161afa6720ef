"""What is delivered besides the program fits it: the service, the image's recipe, the example of a configuration."""

import json
import re
import shlex
import shutil
import subprocess

import pytest

from cli_helpers import BINARY, ROOT, millrace, succeeds

PACKAGING = ROOT / "packaging"
IMAGE_LIMIT = 400_000_000
BASE_IMAGE = 80_000_000  # what debian:bookworm-slim takes when it is unpacked, with room to spare
VENDOR_LIBRARIES = re.compile(r"lib(nv|cu|cudnn|tensorrt|nccl|npp)[\w-]*\.(so|a)")


def instructions(text):
    """(name, arguments) of each instruction, continued lines joined."""
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in lines.splitlines() if line.strip()]


RECIPE = instructions((PACKAGING / "Containerfile").read_text())


def stages():
    """The instructions of each stage, its FROM first."""
    found = []
    for instruction in RECIPE:
        if instruction[0] == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    if not (BINARY.parents[1] / "cmake_install.cmake").exists():
        pytest.skip("NOT CHECKED: no build to install from")
    place = tmp_path_factory.mktemp("installed")
    cmake = ROOT / ".deps" / "bin" / "cmake"
    done = subprocess.run([cmake if cmake.exists() else "cmake", "--install", BINARY.parents[1], "--component", "program", "--prefix",
                           place, "--strip"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place


def copied_from_build():
    """(path under the installed tree, path in the image) of what the image takes."""
    for name, arguments in stages()[-1]:
        if name == "COPY":
            origin, source, target = arguments.split()
            assert origin == "--from=build", arguments
            assert source.startswith("/installed/"), arguments
            yield source.removeprefix("/installed/"), target


def test_the_image_takes_what_an_installation_has(installed):
    taken = list(copied_from_build())
    assert {source.split("/")[0] for source, _ in taken} == {"bin", "lib", "share"}
    for source, _ in taken:
        assert (installed / source).exists(), source


def test_the_image_is_small_and_without_vendors_libraries(installed):
    files = [path for source, _ in copied_from_build() for path in [installed / source, *(installed / source).rglob("*")] if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    assert 10_000_000 < total < IMAGE_LIMIT - BASE_IMAGE
    assert not [path for path in files if VENDOR_LIBRARIES.search(path.name)]


def test_the_program_runs_from_where_the_image_has_it(installed, tmp_path):
    root = tmp_path / "image"
    for source, target in copied_from_build():
        place = root / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (installed / source).is_dir() else shutil.copy)(installed / source, place)
    (entry,) = json.loads(next(arguments for name, arguments in RECIPE if name == "ENTRYPOINT"))
    done = subprocess.run([root / entry.lstrip("/"), "--version"], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0 and "not usable" not in re.search(r"backend onnxruntime.*", done.stdout)[0], done.stdout + done.stderr


def test_the_recipe_names_what_is_there():
    assert len(stages()) == 2
    for name, arguments in RECIPE:
        if name == "FROM":
            assert re.fullmatch(r"[a-z]+:[\w.-]+( AS \w+)?", arguments), f"{arguments}: expected a plain name"
        if name == "COPY" and not arguments.startswith("--from"):
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists(), source
    built = next(arguments for name, arguments in RECIPE if "cmake --build" in arguments)
    presets = {preset["name"] for preset in json.loads((ROOT / "CMakePresets.json").read_text())["configurePresets"]}
    assert set(re.findall(r"--preset (\w+)", built)) <= presets


def test_the_image_runs_as_nobody_and_starts_with_options_that_exist(tmp_path):
    last = dict(stages()[-1])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"])
    assert last["STOPSIGNAL"] == "SIGTERM"
    command = json.loads(last["CMD"])
    assert "--allow-open" not in command
    settings = json.loads(succeeds(*command, "--print-config"))
    assert set(last["EXPOSE"].split()) == {str(settings[port]) for port in ("http_port", "grpc_port", "metrics_port")}
    assert settings["token_file"]


# --- The service ---

def service_lines():
    return [line for line in (PACKAGING / "millrace.service").read_text().splitlines() if line and not line.startswith("#")]


def service_settings():
    return dict(line.split("=", 1) for line in service_lines() if "=" in line)


def seconds(text):
    value, unit = re.fullmatch(r"(\d+)(s|min)", text).groups()
    return int(value) * {"s": 1, "min": 60}[unit]


def test_the_service_starts_the_program_with_the_example_configuration():
    settings = service_settings()
    words = shlex.split(settings["ExecStart"])
    assert words[:2] == ["/opt/millrace/bin/millrace", "serve"]
    words[words.index("/etc/millrace/server.json")] = PACKAGING / "server.json"
    config = json.loads(succeeds(*words[1:], "--print-config"))
    assert config["repositories"] == ["/srv/models"]
    assert seconds(settings["TimeoutStopSec"]) > seconds(config["drain_limit"]) + 5
    assert settings["Type"] == "notify" and settings["KillMode"] == "mixed" and seconds(settings["WatchdogSec"]) > 2


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="NOT CHECKED: no systemd-analyze")
def test_systemd_takes_the_service(tmp_path):
    unit = tmp_path / "millrace.service"
    unit.write_text((PACKAGING / "millrace.service").read_text().replace("/opt/millrace/bin/millrace", str(BINARY)))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert done.returncode == 0 and str(unit.name) not in done.stderr, done.stderr
    unit.write_text(unit.read_text().replace("PrivateTmp=", "PrivateTemp="))
    assert "PrivateTemp" in subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True).stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="NOT CHECKED: no systemd-analyze")
def test_the_service_is_hardened():
    """Its exposure, from 0 to 10, as systemd judges it without running it."""
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=25", PACKAGING / "millrace.service"],
                          capture_output=True, text=True)
    if "Failed" in done.stderr and "offline" in done.stderr:
        pytest.skip("NOT CHECKED: this systemd-analyze judges no files")
    assert done.returncode == 0, done.stdout[-400:]


# --- The runtime for KServe; its schema is checked in tests/clients ---

def test_the_runtimes_command_exists():
    text = (PACKAGING / "kserve" / "servingruntime.yaml").read_text()
    arguments = re.findall(r"^        - (serve|/mnt/models|--\S+)$", text, re.MULTILINE)
    settings = json.loads(succeeds(*arguments, "--print-config"))
    ports = {int(port) for port in re.findall(r"containerPort: (\d+)", text)}
    assert ports == {settings["http_port"], settings["grpc_port"], settings["metrics_port"]}
    assert set(re.findall(r"^ +port: (\d+)", text, re.MULTILINE)) == {str(settings["http_port"])}
    assert f'prometheus.kserve.io/port: "{settings["metrics_port"]}"' in text
    for path in re.findall(r"path: (/v2\S+)", text):
        assert path in ("/v2/health/live", "/v2/health/ready")


def test_an_option_that_does_not_exist_is_found():
    assert millrace("serve", "/mnt/models", "--http-prot=8080", "--print-config").returncode == 2
