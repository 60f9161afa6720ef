#!/usr/bin/env python3
"""Checks which part of the project includes which: a room may use the rooms above it in docs/design, never below.

    tools/check_includes.py [ROOT]

Prints one line per forbidden include and exits with 1 if there is any. Standard library only.
"""

import functools
import re
import sys
from pathlib import Path

# Each room with the rooms it may include besides itself. Public headers (<millrace/x.h>) are open to all of them.
ABOVE = ["base", "tensor", "device", "kernels", "backends", "engine", "repository", "server", "client", "diagnose", "tune", "video"]
ROOMS = {room: set(ABOVE[:index]) for index, room in enumerate(ABOVE)}
ROOMS["io"] = {"base", "tensor"}
ROOMS["server"].add("io")  # classification
ROOMS["repository"].add("io")  # a configuration states how images become tensors
ROOMS["cli"] = {"base", "io", "repository", "server", "client", "diagnose"}

CUDA_ROOMS = {"device", "kernels", "backends"}
CUDA_HEADER = re.compile(r"^(cuda|cuda_.*|cudart.*|cublas.*|cudnn.*|cufft.*|curand.*|cupti.*|nvml|nvrtc|nvToolsExt|driver_types"
                         r"|vector_types|device_launch_parameters|NvInfer.*|NvOnnxParser.*)\.(h|hpp|cuh)$"
                         r"|^(cub|thrust|cuda|cooperative_groups|nvtx3)/|^cuda/")

INCLUDE = re.compile(r'^[ \t]*#[ \t]*(?:include|include_next|import)[ \t]*([<"])([^>"\n]+)[>"]', re.MULTILINE)
COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
SOURCES = {".h", ".hpp", ".cuh", ".cpp", ".cc", ".cu", ".inl"}


def includes(path):
    """(line, target) of every include of a file; those in comments do not count."""
    def blank(match):
        text = match[0]
        return text if text.startswith('"') else re.sub(r"[^\n]", " ", text)

    text = COMMENT.sub(blank, path.read_text(errors="replace"))
    for match in INCLUDE.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match[2]


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.suffix in SOURCES and path.is_file())


def target_of(include, path, root):
    """What an include of ours names: ("public" | "src" | "direct" | "other", the room or path)."""
    relative = (path.parent / include).resolve()
    for kind, folder in (("public", root / "include"), ("src", root / "src"), ("direct", root / "bench" / "direct")):
        if relative.is_file() and relative.is_relative_to(folder):
            return kind, relative.relative_to(folder).as_posix()
    if include.startswith("millrace/"):
        return "public", include
    if include.startswith("src/"):
        return "src", include.removeprefix("src/")
    if include.startswith("direct/"):
        return "direct", include
    if include.split("/")[0] in ROOMS and "/" in include:
        return "src", include
    return "other", include


def check_public(include, kind, name):
    if kind == "src":
        return "a public header includes nothing of src/"
    if kind == "direct":
        return "a public header includes nothing of bench/"
    if CUDA_HEADER.search(include):
        return "a public header includes no CUDA header"
    return None


def check_room(room, include, kind, name):
    if CUDA_HEADER.search(include) and room not in CUDA_ROOMS:
        return f"a CUDA header may be included in {', '.join(sorted(CUDA_ROOMS))} only"
    if kind == "direct" and room != "cli":
        return "only cli/ may include bench/direct"
    if kind == "src":
        other = name.split("/")[0]
        if other not in ROOMS:
            return f"src/{other} is no room"
        if other != room and other not in ROOMS[room]:
            allowed = ", ".join(sorted(ROOMS[room])) or "none"
            return f"{room}/ may not include {other}/ (it may include: {allowed})"
    return None


def check_direct(include, kind, name):
    if kind in ("src", "public"):
        return "bench/direct calls only the vendors' interfaces: it includes nothing of src/ or include/millrace"
    return None


def check_example(include, kind, name):
    if kind in ("src", "direct"):
        return "an example includes public headers only"
    return None


def violations(root):
    """One line of text per forbidden include below `root`, and the number of files read."""
    root = root.resolve()
    jobs = [(path, check_public) for path in files(root / "include")]
    jobs += [(path, check_direct) for path in files(root / "bench" / "direct")]
    jobs += [(path, check_example) for path in files(root / "examples")]
    found = []
    for path in files(root / "src"):
        room = path.relative_to(root / "src").parts[0]
        if room not in ROOMS:
            found.append(f"{path.relative_to(root)}:1: src/{room} is no room; known: {', '.join(sorted(ROOMS))}")
            continue
        jobs.append((path, functools.partial(check_room, room)))
    for path, check in jobs:
        for line, include in includes(path):
            reason = check(include, *target_of(include, path, root))
            if reason:
                found.append(f"{path.relative_to(root)}:{line}: includes {include}: {reason}")
    return found, len(jobs)


def main():
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]
    found, count = violations(root)
    for line in found:
        print(line)
    if count == 0:
        sys.exit(f"{root}: no source file found")
    print(f"includes: {count} files, {len(found)} forbidden")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
