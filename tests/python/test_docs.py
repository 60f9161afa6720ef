"""What the documentation names exists: paths, links, commands, options; its code compiles; its output is real.

Each check is a function from text to a list of problems, and is tried on planted faults besides the real pages.
"""

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from cli_helpers import DIGITS, ROOT, as_json, millrace, succeeds

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", DIGITS / "README.md",
         *sorted((ROOT / "docs").rglob("*.md"))]
PAGE_IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
VERBS = ["devices", "inspect", "run", "bench", "demo", "build", "cache", "serve", "client"]

TOP = {path.name for path in ROOT.iterdir()} - {"build", ".deps"}
ROOMS = {path.name for path in (ROOT / "src").iterdir()}
MADE = {"build", ".deps"}  # by building: not there in a fresh clone
FOREIGN_PATHS = {"onnxruntime/capi/libonnxruntime.so.*"}  # within a package of somebody else's
OTHER_PROGRAMS_OPTIONS = {"--exclude-libs,ALL", "--check", "--validate", "--system"}

INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


# --- Reading pages ---

def blocks(text):
    """(language, code) of every block; indented ones have the language ""."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield match[1], match[2]
    rest = without_fences(text)
    for match in re.finditer(r"(?:\A|\n\n)((?:    [^\n]*\n(?:\n(?=    ))?)+)", rest):
        yield "", re.sub(r"^    ", "", match[1], flags=re.MULTILINE)


def without_fences(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def inline(text):
    """Code within lines, not that of blocks."""
    prose = re.sub(r"^    .*$", "", without_fences(text), flags=re.MULTILINE)
    return [" ".join(code.split()) for code in INLINE.findall(prose)]


def command_lines(text):
    """The words of every command: lines of shell blocks, and code within lines that begins with a program."""
    for language, code in blocks(text):
        if language in ("", "sh"):
            for line in code.splitlines():
                yield from split(re.sub(r"^\$ ", "", line))
    for code in inline(text):
        if re.match(r"(make|millrace|build/millrace|bin/millrace|python3|tools/\S+|\.deps/bin/\w+|cmake|ctest) ", code):
            yield from split(code)


def split(line):
    line = re.sub(r"(^|\s)#.*$", "", line)
    try:
        words = shlex.split(line.replace("\\|", "|"))
    except ValueError:
        return
    if words:
        yield words


# --- Paths and links ---

def exists(path, base=ROOT):
    """With NAME and the like for any name."""
    pattern = re.sub(r"\b(NAME|ROOM|VERB|FILE|PRESET)\b", "*", path.rstrip("/"))
    if "*" in pattern:
        return any(base.glob(pattern))
    return (base / pattern).exists()


def looks_like_path(code):
    if not re.fullmatch(r"[\w.*/-]+", code) or "/" not in code.strip("/") or code in FOREIGN_PATHS:
        return False
    first = code.split("/")[0]
    return first in TOP or first in ROOMS or bool(re.search(r"\.(md|cpp|h|cu|py|sh|cmake|toml|txt)$", code))


def path_problems(text, page):
    found = [code for code in inline(text)]
    for words in command_lines(text):
        found += [word.split("=", 1)[-1] for word in words]
    for code in found:
        if code.split("/")[0] in MADE or code.startswith("foo"):
            continue
        if looks_like_path(code) and not (exists(code) or exists(code, ROOT / "src") or exists(code, page.parent)):
            yield f"`{code}` does not exist"


def heading_anchors(page):
    for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def link_problems(text, page):
    for target in LINK.findall(without_fences(text)):
        if re.match(r"\w+:", target):
            yield f"({target}) leads out of the repository"
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists():
            yield f"({target}) does not exist"
        elif anchor and anchor not in heading_anchors(path):
            yield f"({target}): no such heading"


# --- Commands ---

@functools.cache
def make_targets():
    return set(re.findall(r"^([a-z][\w-]*)(?: [\w-]+)*:", (ROOT / "Makefile").read_text(), re.MULTILINE))


@functools.cache
def presets():
    return {preset["name"] for preset in json.loads((ROOT / "CMakePresets.json").read_text())["buildPresets"]}


@functools.cache
def help_of(verb=None):
    return succeeds(*([verb] if verb else []), "--help")


@functools.cache
def options_of(verb=None):
    """Those with a second name, as in `--this,--no-this`, by both."""
    pairs = re.findall(r"^ +(?:-\w,)?(--[\w-]+)(?:,(--[\w-]+))?", help_of(verb), re.MULTILINE)
    return {option for pair in pairs for option in pair if option} | {"--help"}


def all_options():
    return set().union(options_of(), *(options_of(verb) for verb in VERBS))


def short_options(verb):
    return set(re.findall(r"^ +(-\w),--", help_of(verb), re.MULTILINE)) if verb else {"-h"}


def millrace_problems(words):
    verb = next((word for word in words[1:] if not word.startswith("-")), None)
    if verb == "serves":  # what "millrace serve" prints
        return
    if verb and verb != "VERB" and verb not in VERBS:
        yield f"millrace has no verb {verb}"
        return
    known = options_of() | (all_options() if verb == "VERB" else options_of(verb) | short_options(verb) if verb else set())
    for word in words[1:]:
        if word.startswith("-") and word.split("=")[0] not in known:
            yield f"millrace {verb or ''} has no option {word}"


def command_problems(text):
    for words in command_lines(text):
        program = words[0]
        if program == "make":
            for word in words[1:]:
                if "=" not in word and not word.startswith("-") and word not in make_targets():
                    yield f"the Makefile has no target {word}"
        elif program.split("/")[-1] == "millrace":
            yield from millrace_problems(words)
        for option, value in zip(words, words[1:]):
            if option == "--preset" and value not in presets():
                yield f"there is no preset {value}"
            if option == "--target" and (room := re.fullmatch(r"(\w+)_test", value)) and room[1] not in ROOMS:
                yield f"there is no room {room[1]} to test"


def option_problems(text):
    """Options named by themselves, as in `--json`."""
    for code in inline(text):
        if code.startswith("--"):
            option = re.split(r"[ =]", code.replace("\\|", "|"))[0]
            if option not in all_options() and option not in OTHER_PROGRAMS_OPTIONS:
                yield f"no program has the option {option}"


# --- Names in the code ---

@functools.cache
def words_of_the_code():
    sources = [path for folder in ("include", "src") for path in (ROOT / folder).rglob("*") if path.suffix in (".h", ".cpp")]
    return set(re.findall(r"\w+", "\n".join(path.read_text() for path in sources)))


def name_problems(text):
    """Members, as in `PlanState::stage`."""
    for code in inline(text):
        if match := re.fullmatch(r"([A-Z]\w+)::~?(\w+)(?:\(.*\))?", code):
            if not {match[1], match[2]} <= words_of_the_code():
                yield f"`{code}` is nowhere in the code"


def problems_of(text, page):
    return [*path_problems(text, page), *link_problems(text, page), *command_problems(text), *option_problems(text),
            *name_problems(text)]


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_what_a_page_names_exists(page):
    assert problems_of(page.read_text(), page) == []


@pytest.mark.parametrize("fault", [
    "`src/engine/batcher.cpp`", "`engine/batcher.h`", "`docs/nowhere.md`", "`tests/NAME/*.java`", "`bench/none/`",
    "[a](nowhere.md)", "![a](docs/pictures/none.svg)", "[a](README.md#no-such-heading)", "[a](https://example.org/)",
    "`make tests`", "    make everything\n", "```sh\nmake tests\n```\n",
    "`millrace dance`", "    $ build/millrace run x --inputs a=b\n", "    millrace devices --top 3\n", "`millrace bench --help-me`",
    "    millrace inspect examples/digit\n", "    millrace run x --input images=examples/digits/image\n", "`--jsn`",
    "    .deps/bin/cmake --preset devel\n", "    .deps/bin/cmake --build --preset dev --target motor_test\n",
    "    python3 tools/deps/fetch_all.py build\n", "`PlanState::perform`", "`Motor::stage`",
])
def test_planted_faults_are_found(fault):
    text = f"# A page\n\nSome words.\n\n{fault}\n"
    assert len(problems_of(text, ROOT / "README.md")) == 1


def test_pages_name_enough_to_be_worth_checking():
    """The readers above find what they are to check: a change of form must not leave the checks empty."""
    text = "".join(page.read_text() for page in PAGES)
    assert sum(looks_like_path(code) for code in inline(text)) > 60
    assert sum(words[0].split("/")[-1] == "millrace" for words in command_lines(text)) > 15
    assert sum(words[0] == "make" for words in command_lines(text)) > 10
    assert len(LINK.findall(text)) > 60


# --- docs/cli.md against the program ---

def undocumented(page):
    """Options of the program that the page does not mention where it should."""
    shared = page.split("## Options that several verbs share")[1].split("\n## ")[0]
    for verb in VERBS:
        match = re.search(rf"^## {verb}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        if not match:
            yield f"no section on {verb}"
            continue
        rows = [row for row in shared.splitlines() if f"`{verb}`" in row or "| all |" in row]
        for option in options_of(verb) - {"--help"}:
            if not re.search(rf"{option}\b(?!-)", match[1] + "\n".join(rows)):
                yield f"{verb} {option}"


def test_every_option_is_documented():
    assert list(undocumented((ROOT / "docs" / "cli.md").read_text())) == []


def test_an_undocumented_option_is_found():
    page = (ROOT / "docs" / "cli.md").read_text()
    assert list(undocumented(page.replace("--top K", "--best K").replace("--top 3", ""))) == ["run --top"]
    assert list(undocumented(page.replace("\n## demo\n", "\n## show\n"))) == ["no section on demo"]


def test_all_verbs_are_known_here():
    listed = re.search(r"Subcommands:\n(.*?)\n\n", help_of(), re.DOTALL)[1]
    assert re.findall(r"^  (\w+)", listed, re.MULTILINE) == VERBS


# --- Code and output ---

def compiles(code):
    compiler = os.environ.get("CXX", shutil.which("g++") or "clang++")
    program = f"""
      #include <chrono>
      #include <utility>
      #include <millrace/engine.h>
      int report(const millrace::Error& error);
      int example(const float* pixels);
      int example(const float* pixels) {{
      {code}
      return 0;
      }}"""
    done = subprocess.run([compiler, "-std=c++20", "-Wall", "-Werror", "-Wno-unused-variable", "-Wno-unused-but-set-variable",
                           f"-I{ROOT / 'include'}", "-fsyntax-only", "-x", "c++", "-"],
                          input=program, capture_output=True, text=True)
    return done.returncode == 0, done.stderr


def cpp_of(page):
    return [code for language, code in blocks((ROOT / page).read_text()) if language == "cpp"]


def test_the_short_example_compiles():
    (code,) = cpp_of("README.md")
    assert code.count("\n") == 5
    good, why = compiles(code)
    assert good, why
    assert not compiles(code.replace("infer", "infers"))[0]


def test_the_guides_code_compiles():
    parts = cpp_of("docs/library.md")
    assert len(parts) >= 3
    good, why = compiles("\n".join(parts))
    assert good, why


def test_the_configurations_load(tmp_path):
    for name in ("digits.onnx", "labels.txt"):
        shutil.copy(DIGITS / name, tmp_path)
    texts = [code for language, code in blocks((ROOT / "docs" / "configuration.md").read_text()) if language == "json"]
    assert len(texts) == 2
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.json").write_text(text)
        assert as_json("inspect", tmp_path / f"{i}.json")
        (tmp_path / f"{i}.json").write_text(text.replace('"', '"un', 1))
        assert millrace("inspect", tmp_path / f"{i}.json").returncode == 1


def test_the_readmes_output_is_what_the_program_prints():
    (shown,) = [code for _, code in blocks((ROOT / "README.md").read_text()) if code.startswith("$ ")]
    command, _, output = shown.partition("\n")
    printed = succeeds(*shlex.split(command)[2:], cwd=ROOT)

    def comparable(text):
        """Without times; numbers with two digits, since processors differ in the rest."""
        text = re.sub(r"[\d.,]+ [mun]?s \([\d.,]+/s\)", "TIME", text)
        return [re.sub(r"-?\d+\.\d+(e[+-]?\d+)?", lambda n: f"{float(n[0]):.1e}", line).split() for line in text.splitlines()]

    assert "TIME" in str(comparable(output))
    assert comparable(printed) == comparable(output)


def test_pictures_are_well_formed():
    pictures = sorted((ROOT / "docs").rglob("*.svg"))
    assert pictures
    for picture in pictures:
        root = ElementTree.parse(picture).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and "viewBox" in root.attrib, picture
        assert not [e for e in root.iter() if e.tag.endswith(("script", "image"))], picture


# --- Hosts ---

# In two parts, since this file is searched as well.
REGISTRIES = [".".join(parts) for parts in [
    ("pypi", "org"), ("pythonhosted", "org"), ("debian", "org"), ("crates", "io"), ("npmjs", "org"), ("npmjs", "com"),
    ("maven", "org"), ("maven.apache", "org"), ("anaconda", "org"), ("ghcr", "io"), ("docker", "io"), ("nvidia", "com")]]
ADDRESSES = {"www.w3.org", "www.apache.org",  # names of a format and of the licence
             "127.0.0.1", "HOST", "host"}
TEST_ADDRESSES = {"mirror", "x", "example.org", "a", "a@b", "h"}


def host_problems(text, path):
    allowed = ADDRESSES | (TEST_ADDRESSES if path.startswith("tests/") or "_test." in path else set())
    for host in re.findall(r"\bhttps?://([^/\s:\"'`)>\\\[(,]+)", text):
        if host not in allowed:
            yield f"{path}: {host}"
    for host in REGISTRIES:
        if re.search(rf"\b{re.escape(host)}\b", text):
            yield f"{path}: {host}"


def repository_files():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_registrys_host():
    files = repository_files()
    assert len(files) > 100
    problems = []
    for name in files:
        content = (ROOT / name).read_bytes()
        if b"\0" not in content:
            problems += host_problems(content.decode(errors="replace"), name)
    assert problems == []


@pytest.mark.parametrize("fault", [f"see {REGISTRIES[0]}/project", "deb." + REGISTRIES[2], "https" + "://mirror/simple"])
def test_a_named_host_is_found(fault):
    assert list(host_problems(fault, "docs/page.md"))
