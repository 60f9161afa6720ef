#!/usr/bin/env python3
"""Runs the benchmarks and records what they say in docs/benchmarks/, one file for each cell.

    bench/run.py [--bin DIR] [--out DIR] [--quick] [--strict] [CELL ...]      (default: all cells, in the order below)

DIR holds the programs (default: build/release/bin). A record has the raw output of its commands, with the commit, the
machine and the programs' checksums, and says which bars were met. --quick makes every measurement as short as it can be:
its figures mean nothing. On a machine without the repository's history, MILLRACE_COMMIT names the commit. --strict ends with 1 when a bar was not met. Standard library only.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIGITS = "examples/digits"
DIGITS_INPUT = f"{DIGITS}/held_out.npz"
TIMEOUT_S = 1800


# --- Bars ---

def at_least(what, bar, value, form):
    return {"what": what, "bar": "at least " + form.format(bar), "value": form.format(value), "met": bool(value >= bar)}


def at_most(what, bar, value, form):
    return {"what": what, "bar": "at most " + form.format(bar), "value": form.format(value), "met": bool(value <= bar)}


def stated(what, form, value):
    return {"what": what, "value": form.format(value)}


def comparison(result, name):
    """The comparison of that name; of direct_best the plain one where that was the best."""
    found = {entry["name"]: entry for entry in result["comparison"]}
    return found.get(name) or found["direct"]


def ratio_text(entry):
    spread = entry["ratio_spread"]
    return f"{entry['ratio']:.3f} ({spread['low']:.3f} to {spread['high']:.3f})"


# --- Cells: what is run, and what its figures must be ---

class Cell:
    """`commands`: lists of arguments, the first the program's name. `judge(results)` gives bars and statements."""

    def __init__(self, what, commands, judge):
        self.what, self.commands, self.judge = what, commands, judge


def bench(model, *arguments, duration=10, pairs=15):
    def command(quick, earlier):
        more = [argument(earlier) if callable(argument) else argument for argument in arguments]
        seconds, count = (0.2, 2) if quick else (duration, pairs)
        end = ["--pairs", str(count)] if "--compare" in more else []
        return ["millrace", "bench", model, *more, "--duration", str(seconds), *end, "--json"]
    return command


def program(name, quick_arguments, *arguments):
    return lambda quick, earlier: [f"bench_{name}", *(quick_arguments if quick else arguments)]


def digits(*arguments, **options):
    return bench(DIGITS, "--input", DIGITS_INPUT, *arguments, **options)


def judge_offline(results):
    direct, best = comparison(results[0], "direct"), comparison(results[0], "direct_best")
    return ([at_least("throughput / direct", 0.97, direct["ratio"], "{:.3f}")],
            [stated("items/s", "{:,.0f}", results[0]["items_per_s"]), stated("ratio with its 95% interval", "{}", ratio_text(direct)),
             stated("throughput / direct at its best", "{}", ratio_text(best) + ", " + best["what"]),
             stated("throughput / naive", "{}", ratio_text(comparison(results[0], "naive")))])


def judge_latency(results):
    direct, best, wake = comparison(results[0], "direct"), comparison(results[0], "direct_best"), results[0]["wake_us"]
    excess = direct["p50_excess_us"]
    return ([at_most("p50 above direct, against 4 wake-ups", 4 * wake, excess["median"], "{:.1f} us")],
            [stated("p50", "{:.1f} us", results[0]["latency_us"]["p50"]), stated("p50 of direct", "{:.1f} us", direct["p50_us"]),
             stated("p50 above direct, 95% interval", "{}", f"{excess['low']:.1f} to {excess['high']:.1f} us"),
             stated("p50 above direct at its best", "{:.1f} us", best["p50_excess_us"]["median"]),
             stated("thread wake-up", "{:.2f} us", wake), stated("aim", "{}", "at most 60 us above direct")])


def judge_concurrent(results):
    on, off = results
    return ([at_least("batching on / direct at batch 32", 0.85, comparison(on, "direct")["ratio"], "{:.3f}"),
             at_least("batching off / direct at batch 1", 0.85, comparison(off, "direct")["ratio"], "{:.3f}")],
            [stated("images/s with batching", "{:,.0f}", on["items_per_s"]), stated("images/s without", "{:,.0f}", off["items_per_s"]),
             stated("on / off", "{:.2f}", on["items_per_s"] / off["items_per_s"]),
             stated("images in a batch", "{:.1f}", on["batch_items_mean"])])


def judge_identity(results):
    direct = comparison(results[0], "direct")
    return ([at_least("throughput / bare pipeline", 0.6, direct["ratio"], "{:.3f}")],
            [stated("requests/s (aim: 250,000)", "{:,.0f}", results[0]["requests_per_s"]),
             stated("requests/s of the bare pipeline", "{:,.0f}", direct["items_per_s"]),
             stated("ratio with its 95% interval", "{}", ratio_text(direct)),
             stated("CPU per request", "{:.2f} us", results[0]["cpu_us_per_request"])])


def judge_allocations(results):
    runs = {run["concurrency"]: run for run in results[0]["runs"]}
    return ([at_most("allocations per request", 2, runs[256]["allocations_per_request"], "{:.3f}")],
            [stated("allocations per request, one caller", "{:.3f}", runs[1]["allocations_per_request"])])


def judge_open_loop(results):
    result = results[-1]
    p99, lag = result["latency_us"]["p99"], result["timer_lag_us"]
    return ([at_most("p99, against 1 ms and the timer's lag", 1000 + lag, p99, "{:.0f} us")],
            [stated("requests/s", "{:,.0f}", result["rate"]), stated("p50", "{:.0f} us", result["latency_us"]["p50"]),
             stated("timer lag, p99", "{:.0f} us", lag), stated("sender late, p99", "{:.0f} us", result["sender_lateness_us"]["p99"])])


def judge_memory(results):
    return ([at_most("resident memory grown after the first tenth", 1, results[0]["most_growth_mib"], "{:.2f} MiB")],
            [stated("requests", "{:,}", results[0]["requests"])])


def judge_devices(results):
    return ([at_least("4 devices / 1", 3.9, results[0]["scaling"], "{:.3f}"),
             at_least("with one 3 times slower, share of the ideal sum", 0.95, results[0]["share_of_ideal"], "{:.3f}")], [])


def judge_shares(results):
    priority = results[0]["priority"]
    low_us = priority["low_batch_us"]
    bars = []
    for entry in results[0]["weights"]:
        off = abs(entry["device_time_ratio"] / 3 - 1)
        bars.append(at_most(f"device time of weights 3 : 1 off by, {entry['max_batches_in_flight']} in flight", 5, 100 * off, "{:.1f}%"))
    bars.append(at_most("high priority waits (p99), against a batch and 1 ms", (low_us + 1000) / 1000, priority["wait_us"]["p99"] / 1000, "{:.2f} ms"))
    return bars, [stated("high priority waits, longest", "{:.2f} ms", priority["wait_us"]["max"] / 1000),
                  stated("low-priority batch", "{:.0f} ms", low_us / 1000)]


def judge_isolation(results):
    return [at_most(f"p99 beside one that {entry['neighbour']} / alone", 1.1, entry["p99_ratio"], "{:.3f}")
            for entry in results[0]["neighbours"]], [stated("p99 alone", "{:.0f} us", results[0]["neighbours"][0]["alone_us"]["p99"])]


def half_the_rate(earlier):
    return f"{earlier[0]['requests_per_s'] / 2:.0f}"


IDENTITY = ("reference:identity", "--concurrency", "256", "--batch", "64")
CELLS = {
    "digits_offline": Cell("Digits, whole batches of 32",
                           [digits("--offline", "--batch", "32", "--compare", "direct,naive")], judge_offline),
    "digits_latency": Cell("Digits, one caller, one image",
                           [digits("--concurrency", "1", "--batch", "1", "--compare", "direct")], judge_latency),
    "digits_concurrent": Cell("Digits, 64 single images in flight",
                              [digits("--concurrency", "64", "--batch", "32", "--batching", way, "--compare", "direct")
                               for way in ("on", "off")], judge_concurrent),
    "identity": Cell("Identity model, 256 requests in flight", [bench(*IDENTITY, "--compare", "direct")], judge_identity),
    "allocations": Cell("Identity model, memory allocations", [program("allocations", ["--seconds", "0.1"])], judge_allocations),
    "open_loop": Cell("Identity model, half of that rate at random times",
                      [bench(*IDENTITY), bench("reference:identity", "--batch", "64", "--rate", half_the_rate)], judge_open_loop),
    "memory": Cell("10 million requests", [program("memory", ["--requests", "20000"])], judge_memory),
    "devices": Cell("Sleeping model on several host devices",
                    [program("devices", ["--seconds", "0.05", "--rounds", "1"])], judge_devices),
    "shares": Cell("Two models share a device", [program("shares", ["--seconds", "0.1", "--rounds", "1"])], judge_shares),
    "isolation": Cell("A model beside one that", [program("isolation", ["--seconds", "0.4", "--rounds", "1"])], judge_isolation),
}


# --- Records ---

def output_of(*command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def machine():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "") if hasattr(platform, "freedesktop_os_release") else ""
    return {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory / 2**30, 1),
            "system": system, "kernel": platform.release(), "load_before": round(os.getloadavg()[0], 2)}


def run_command(folder, command):
    started = time.monotonic()
    print("   ", " ".join(command), flush=True)
    done = subprocess.run([folder / command[0], *command[1:]], stdout=subprocess.PIPE, text=True, cwd=ROOT, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}")
    print(f"    {time.monotonic() - started:.0f} s", flush=True)
    return json.loads(done.stdout)


def run_cell(name, folder, quick):
    cell = CELLS[name]
    about = machine()
    commands, results = [], []
    for make in cell.commands:
        command = make(quick, results)
        results.append(run_command(folder, command))
        commands.append(command)
    bars, statements = cell.judge(results)
    hashes = {command[0]: hashlib.sha256((folder / command[0]).read_bytes()).hexdigest() for command in commands}
    return {"cell": name, "what": cell.what, "recorded": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            "commit": os.environ.get("MILLRACE_COMMIT") or output_of("git", "rev-parse", "HEAD"),
            "modified": output_of("git", "status", "--porcelain", "--", "src", "include", "bench", "cmake") != "",
            "machine": about, "binaries": hashes, "commands": [" ".join(command) for command in commands],
            "bars": bars, "stated": statements, "results": results}


def write(record, folder):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['cell']}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cells", nargs="*", metavar="CELL")
    parser.add_argument("--bin", type=Path, default=ROOT / "build" / "release" / "bin")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--strict", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.cells:
        if name not in CELLS:
            parser.error(f"there is no cell {name!r}; there are {', '.join(CELLS)}")
    missed = 0
    for name in arguments.cells or CELLS:
        print(f"{name}: {CELLS[name].what}", flush=True)
        try:
            record = run_cell(name, arguments.bin.resolve(), arguments.quick)
        except (OSError, RuntimeError, ValueError, subprocess.TimeoutExpired) as error:
            print(f"bench: {name}: {error}", file=sys.stderr)
            return 1
        write(record, arguments.out)
        for bar in record["bars"]:
            print(f"    {'met    ' if bar['met'] else 'NOT MET'}  {bar['what']}: {bar['value']} ({bar['bar']})")
            missed += 0 if bar["met"] else 1
        for entry in record["stated"]:
            print(f"             {entry['what']}: {entry['value']}")
    print(f"bench: {missed} bars not met" if missed else "bench: all bars met")
    return 1 if missed and arguments.strict else 0


if __name__ == "__main__":
    sys.exit(main())
