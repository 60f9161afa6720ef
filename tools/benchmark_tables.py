#!/usr/bin/env python3
"""Writes the tables of measured figures in the docs, from the records in docs/benchmarks/.

    tools/benchmark_tables.py [--check] [ROOT]

In README.md and docs/**/*.md, what stands between the two marker lines is replaced: by every bar, or by the throughputs on a GPU
beside those of the loops by hand. --check changes nothing and ends with 1 when a page is not as it would be written. Standard
library only.
"""

import collections
import json
import sys
from pathlib import Path

BEGIN = "<!-- benchmarks: written by tools/benchmark_tables.py -->"
BEGIN_LOOPS = "<!-- benchmarks beside loops: written by tools/benchmark_tables.py -->"
END = "<!-- end of benchmarks -->"
# In the order in which a reader wants them; others follow by name.
ORDER = ["gpu_resnet50_host", "gpu_resnet50_resident", "gpu_callers", "gpu_latency", "gpu_mlp", "digits_offline", "digits_latency", "digits_concurrent", "identity", "allocations", "open_loop", "memory", "devices",
         "shares", "isolation", "server_http_identity", "server_grpc_identity", "server_digits_latency", "server_large_input", "server_overload",
         "server_reloads", "server_idle_connections", "server_memory"]


def records(root):
    found = {path.stem: json.loads(path.read_text()) for path in sorted((root / "docs" / "benchmarks").glob("*.json"))}
    names = [name for name in ORDER if name in found] + [name for name in found if name not in ORDER]
    return [found[name] for name in names]


def cell(text):
    return text.replace("|", "\\|")


def machines(all_records):
    lines = []
    for record in all_records:
        about = record["machine"]
        counts = collections.Counter(about.get("gpus", []))
        gpus = "".join(f"{count} x {gpu}, " if count > 1 else f"{gpu}, " for gpu, count in counts.items())
        line = (f"{gpus}{about['processor']}, {about['cores']} cores, recorded {record['recorded']}, commit {record['commit'][:10]}"
                f"{' with changes' if record['modified'] else ''}")
        if line not in lines:
            lines.append(line)
    return lines


def table(all_records):
    if not all_records:
        return ["Nothing has been recorded yet."]
    lines = ["| what | figure | bar | measured | met |", "|---|---|---|---|---|"]
    for record in all_records:
        for bar in record["bars"]:
            lines.append(f"| {cell(record['what'])} | {cell(bar['what'])} | {cell(bar['bar'])} | {cell(bar['value'])} |"
                         f" {'yes' if bar['met'] else '**no**'} |")
    lines += ["", "Also measured:", ""]
    for record in all_records:
        if record["stated"]:
            lines.append(f"- {record['what']}: " + "; ".join(f"{entry['what']}: {entry['value']}" for entry in record["stated"]))
    lines += ["", "Machine: " + "; ".join(machines(all_records)) + "."]
    return lines


def beside_loops(all_records):
    """What runs on a GPU, a line for each cell that was compared with a loop by hand."""
    lines = ["| on one GPU | Millrace | best loop by hand | ratio (95%) | naive loop |", "|---|---|---|---|---|"]
    used = []
    for record in all_records:
        if not record["cell"].startswith("gpu_"):
            continue
        for result in record["results"]:
            loops = {loop["name"]: loop for loop in result.get("comparison", [])}
            if "direct" not in loops or result["scenario"] != "offline" or len(record["results"]) > 1:
                continue
            direct = loops["direct"]
            spread = direct["ratio_spread"]
            naive = f"{loops['naive']['items_per_s']:,.0f}" if "naive" in loops else ""
            lines.append(f"| {cell(record['what'])} | {result['items_per_s']:,.0f}/s | {direct['items_per_s']:,.0f}/s |"
                         f" {direct['ratio']:.3f} ({spread['low']:.3f} to {spread['high']:.3f}) | {naive} |")
            used.append(record)
    scaled = [record for record in all_records if record["cell"].startswith("gpu_scaling")]
    if scaled:
        lines += ["", "| on several GPUs | Millrace | of one GPU |", "|---|---|---|"]
    for record in scaled:
        rate = next(entry["value"] for entry in record["stated"] if entry["what"] == "items/s")
        lines.append(f"| {cell(record['what'])} | {rate}/s | {record['bars'][0]['value']} |")
    used += scaled
    return lines + ["", "Machine: " + "; ".join(machines(used)) + "."] if used else ["Nothing has been recorded yet."]


def page_with_table(text, lines, begin=BEGIN):
    """The page with every marked part replaced; None when it has none."""
    parts = text.split(begin + "\n")
    if len(parts) == 1:
        return None
    out = parts[0]
    for part in parts[1:]:
        _, end, rest = part.partition(END)
        if not end:
            raise ValueError(f"a part that begins with {begin} has no end; expected {END}")
        out += begin + "\n" + "\n".join(lines) + "\n" + END + rest
    return out


def update(root, check):
    """The pages that were not as they should be; rewritten unless `check`."""
    all_records = records(root)
    tables = {BEGIN: table(all_records), BEGIN_LOOPS: beside_loops(all_records)}
    changed = []
    for page in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        if not page.is_file():
            continue
        text = page.read_text()
        wanted = text
        for begin, lines in tables.items():
            wanted = page_with_table(wanted, lines, begin) or wanted
        if wanted == text:
            continue
        changed.append(page)
        if not check:
            page.write_text(wanted)
    return changed


def main():
    arguments = sys.argv[1:]
    check = "--check" in arguments
    rest = [argument for argument in arguments if argument != "--check"]
    root = Path(rest[0]) if rest else Path(__file__).resolve().parents[1]
    changed = update(root, check)
    for page in changed:
        print(f"{page}: {'is not as tools/benchmark_tables.py would write it' if check else 'written'}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
