#!/usr/bin/env python3
"""Runs the benchmarks of the server and records what they say, one file for each cell, as bench/run.py does.

    bench/server/run.py [--bin DIR] [--out DIR] [--quick] [--strict] [--requests N] [CELL ...]

Client and server run on this machine, by default each pinned to a core of its own. --requests is of the cell server_memory
(default: 10 million), and is recorded. Standard library only.
"""

import argparse
import contextlib
import datetime
import hashlib
import importlib.util
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVER_CORE, CLIENT_CORE = "0", "1"
START_S, TIMEOUT_S = 60, 1800


def host_benchmarks():
    spec = importlib.util.spec_from_file_location("host_benchmarks", ROOT / "bench" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


host = host_benchmarks()
at_least, at_most, stated = host.at_least, host.at_most, host.stated


# --- Models ---

def reference(model, max_batch=0, more=""):
    return (f'backend: "reference"\nmax_batch_size: {max_batch}\n'
            f'parameters {{ key: "model" value {{ string_value: "{model}" }} }}\n{more}')


def parameter(name, value):
    return f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}\n'


INPUT_BYTES = 4 << 20
SLEEP_US, SLEEP_BATCH, SLEEP_QUEUE = 8000, 8, 64
MODELS = {
    "identity": reference("reference:identity?shape=16", 64),
    "large": reference(f"reference:checksum?shape={INPUT_BYTES // 4}&no_read=1", 1),
    # One batch at a time, so that a request waits for what is queued before it and nothing else.
    "sleeping": reference(f"reference:busy?batch_us={SLEEP_US}&mode=sleep&shape=16", SLEEP_BATCH, parameter("millrace.slots", 1) +
                          f"dynamic_batching {{ default_queue_policy {{ max_queue_size: {SLEEP_QUEUE} }} }}\n"),
}


def write_repository(folder, names):
    for name in names:
        (folder / name / "1").mkdir(parents=True)
        if name == "digits":
            shutil.copy(ROOT / "examples" / "digits" / "digits.onnx", folder / name / "1" / "model.onnx")
        else:
            (folder / name / "config.pbtxt").write_text(MODELS[name])


# --- Programs ---

class Run:
    """What a cell runs: keeps the commands and what they said for the record."""

    def __init__(self, folder, quick, requests):
        self.folder, self.quick, self.requests = folder, quick, requests
        self.commands, self.results, self.programs, self.repository = [], [], set(), "no repository"

    def seconds(self, seconds):
        return 0.3 if self.quick else seconds

    def rounds(self, count):
        return 1 if self.quick else count

    def start(self, command, core):
        self.programs.add(command[0])
        words = (["taskset", "-c", core] if core else []) + [str(word) for word in command]
        self.note(words)
        words[words.index(str(command[0]))] = str(self.folder / command[0])
        return words

    def note(self, words):
        """For the record: without what differs from run to run."""
        text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", " ".join(words))
        text = re.sub(r"--server-pid \d+", "--server-pid PID", text).replace(f"{self.repository}", "REPOSITORY")
        if text not in self.commands:
            self.commands.append(text)

    def result(self, role, command, core=None, bad=()):
        """Keeps the JSON that a program prints, as that of `role`; exit codes in `bad` are fine."""
        done = subprocess.run(self.start(command, core), stdout=subprocess.PIPE, text=True, cwd=ROOT, timeout=TIMEOUT_S, check=False)
        if done.returncode != 0 and done.returncode not in bad:
            raise RuntimeError(f"{' '.join(map(str, command))}: exit code {done.returncode}")
        return self.keep(role, json.loads(done.stdout))

    def keep(self, role, figures):
        self.results.append({"role": role, **figures})
        return figures

    def bench(self, role, url, model, *arguments, seconds=4, core=CLIENT_CORE, pid=None, bad=()):
        more = ["--server-pid", pid] if pid else []
        return self.result(role, ["millrace", "bench", "--url", url, model, *arguments, "--duration", self.seconds(seconds), *more, "--json"], core, bad)

    @contextlib.contextmanager
    def listening(self, command, core, read):
        """A program that says on its first lines where it listens; what `read` finds in them, with its process."""
        with subprocess.Popen(self.start(command, core), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            try:
                until, found = time.monotonic() + START_S, None
                while found is None and time.monotonic() < until:
                    line = process.stdout.readline()
                    if not line:
                        raise RuntimeError(f"{' '.join(map(str, command))}: ended before it listened")
                    found = read(line)
                if found is None:
                    raise RuntimeError(f"{' '.join(map(str, command))}: did not listen within {START_S} s")
                yield found, process.pid
            finally:
                process.terminate()

    def do_nothing_http(self, core=SERVER_CORE):
        return self.listening(["server_do_nothing_http", "--port", "0"], core, lambda line: f"http://127.0.0.1:{int(line)}")

    def do_nothing_grpc(self, core=SERVER_CORE):
        return self.listening(["bench_server_grpc", "--serve", "queue-raw"], core, lambda line: f"grpc://127.0.0.1:{int(line)}")

    @contextlib.contextmanager
    def millrace(self, models, *arguments, core=SERVER_CORE, devices="host:0", write=write_repository):
        """The server with these models: {"http": URL, "grpc": URL}, its process and its folder."""
        with tempfile.TemporaryDirectory() as folder:
            self.repository = folder
            write(Path(folder), models)
            # One process, whose CPU time is all of the server's.
            command = ["millrace", "serve", folder, "--no-supervise", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "-1", "--devices", devices,
                       "--log", "error", *arguments]

            def read(line):
                return dict(re.findall(r"((?:http|grpc))://(\S+)", line)) if line.startswith("millrace serves") else None

            with self.listening(command, core, read) as (found, pid):
                yield {scheme: f"{scheme}://{address}" for scheme, address in found.items()}, pid, Path(folder)


# --- Cells: what is run, and what its figures must be ---

class Cell:
    """`measure(run)` fills the run; `judge(results)` gives bars and statements."""

    def __init__(self, what, measure, judge):
        self.what, self.measure, self.judge = what, measure, judge


def of(results, *roles):
    """The results of each role, in the order of the measurements."""
    found = [[result for result in results if result["role"] == role] for role in roles]
    return found[0] if len(roles) == 1 else found


def per_cpu_second(result):
    return result["server"]["requests_per_cpu_s"]


def cpu_us(results):
    return statistics.median(result["server"]["cpu_us_per_request"] for result in results)


def rate(results):
    return statistics.median(result["requests_per_s"] for result in results)


def p50(results):
    return statistics.median(result["latency_us"]["p50"] for result in results)


def texts(ratios):
    return " ".join(f"{ratio:.3f}" for ratio in ratios)


def measure_identity(scheme, do_nothing):
    """In turn the server that does nothing and ours."""
    def measure(run):
        for _ in range(run.rounds(5)):
            with do_nothing(run) as (url, pid):
                run.bench("do nothing", url, "identity", "--concurrency", "32", pid=pid)
            with run.millrace(["identity"]) as (urls, pid, _folder):
                run.bench("ours", urls[scheme], "identity", "--concurrency", "32", pid=pid)
        with run.millrace(["identity"]) as (urls, pid, _folder):
            run.bench("one caller", urls[scheme], "identity", "--concurrency", "1", pid=pid)
    return measure


def judge_identity(most_us):
    def judge(results):
        ours, theirs, alone = of(results, "ours", "do nothing", "one caller")
        ratios = [per_cpu_second(one) / per_cpu_second(other) for one, other in zip(ours, theirs)]
        return ([at_least("requests per server CPU-second / do-nothing server", 0.7, statistics.median(ratios), "{:.3f}"),
                 at_most("server CPU per request", most_us, cpu_us(ours), "{:.1f} us")],
                [stated("ratios", "{}", texts(ratios)), stated("server CPU per request of the do-nothing server", "{:.1f} us", cpu_us(theirs)),
                 stated("server CPU per request with one caller", "{:.1f} us", cpu_us(alone)),
                 stated("requests/s", "{:,.0f}", rate(ours)), stated("requests/s of the do-nothing server", "{:,.0f}", rate(theirs))])
    return judge


def measure_digits(run):
    """All on the same cores, unpinned: a model on the CPU takes what there is."""
    data = ["--input", "examples/digits/held_out.npz", "--concurrency", "1"]
    for _ in range(run.rounds(5)):
        run.result("engine", ["millrace", "bench", "examples/digits", *data, "--batch", "1", "--duration", run.seconds(3), "--json"])
        with run.do_nothing_http(core=None) as (url, _pid):
            run.bench("do nothing", url, "identity", "--concurrency", "1", seconds=3, core=None)
        with run.millrace(["digits"], core=None) as (urls, _pid, _folder):
            run.bench("served", urls["http"], "digits", *data, seconds=3, core=None)


def judge_digits(results):
    engine, nothing, served = of(results, "engine", "do nothing", "served")
    wake = statistics.median(result["wake_us"] for result in results)
    return ([at_most("p50, against the engine's, the do-nothing server's and 4 wake-ups", p50(engine) + p50(nothing) + 4 * wake, p50(served), "{:.1f} us")],
            [stated("p50 of the engine", "{:.1f} us", p50(engine)), stated("p50 of the do-nothing server", "{:.1f} us", p50(nothing)),
             stated("thread wake-up", "{:.2f} us", wake), stated("p99", "{:.0f} us", statistics.median(r["latency_us"]["p99"] for r in served))])


def measure_large_input(run):
    """In turn the loopback's own speed, HTTP and shared memory."""
    for _ in range(run.rounds(5)):
        run.result("loopback", ["server_loopback", "--bytes", INPUT_BYTES, "--seconds", run.seconds(2), "--cores", f"{SERVER_CORE},{CLIENT_CORE}"])
        with run.millrace(["large"], "--allow-client-shm") as (urls, pid, _folder):
            run.bench("http", urls["http"], "large", "--concurrency", "4", seconds=3, pid=pid)
            run.bench("shared", urls["http"], "large", "--concurrency", "4", "--shared-memory", "system", seconds=3, pid=pid)


def judge_large_input(results):
    loopback, http, shared = of(results, "loopback", "http", "shared")
    copies = [one["requests_per_s"] / other["blocks_per_s"] for one, other in zip(http, loopback)]
    gains = [one["requests_per_s"] / other["requests_per_s"] for one, other in zip(shared, http)]
    return ([at_least("binary HTTP / the loopback's copy speed", 0.6, statistics.median(copies), "{:.3f}"),
             at_least("system shared memory / binary HTTP, requests/s", 5, statistics.median(gains), "{:.1f}")],
            [stated("loopback", "{:.2f} GB/s", statistics.median(result["gb_per_s"] for result in loopback)),
             stated("HTTP", "{:.2f} GB/s", rate(http) * INPUT_BYTES / 1e9), stated("ratios", "{}", texts(copies)),
             stated("requests/s over shared memory", "{:,.0f}", rate(shared)),
             stated("server CPU per request, HTTP and shared memory", "{}", f"{cpu_us(http):.0f} us, {cpu_us(shared):.1f} us")])


def measure_overload(run):
    with run.millrace(["identity", "sleeping"]) as (urls, pid, _folder):
        run.bench("alone", urls["http"], "identity", "--concurrency", "32", seconds=3, pid=pid)
        calm = run.bench("calm", urls["http"], "sleeping", "--concurrency", "32", seconds=4, pid=pid)
        run.bench("overloaded", urls["http"], "sleeping", "--rate", f"{2 * calm['requests_per_s']:.0f}", "--allow-refused", "--whole", seconds=60, pid=pid)


def judge_overload(results):
    [alone], [calm], [busy] = of(results, "alone", "calm", "overloaded")
    capacity, refused = calm["requests_per_s"], busy["server"]["refused"]
    limit_ms = 1000 * SLEEP_QUEUE / capacity + SLEEP_US / 1000 + busy["timer_lag_us"] / 1000
    sizes = [sample["server_rss_mib"] for sample in busy["samples"]]
    settled = sizes[len(sizes) // 6:]
    return ([at_least("goodput / capacity", 0.9, busy["requests_per_s"] / capacity, "{:.3f}"),
             at_most("p99 of the accepted, against queue limit, service time and the timer's lag", limit_ms, busy["latency_us"]["p99"] / 1000, "{:.1f} ms"),
             at_most("resident memory grown after the first sixth", 4, max(settled) - settled[0], "{:.2f} MiB"),
             at_most("requests neither answered nor refused", 0, busy["errors"] - refused, "{:.0f}"),
             at_most("capacity / what the server alone answers", 0.2, capacity / alone["requests_per_s"], "{:.3f}")],
            [stated("capacity", "{:,.0f}/s", capacity), stated("sent", "{:,.0f}/s", busy["rate"]), stated("answered", "{:,.0f}/s", busy["requests_per_s"]),
             stated("refused", "{:,}", refused), stated("seconds", "{:.0f}", busy["seconds"]), stated("p50", "{:.1f} ms", busy["latency_us"]["p50"] / 1000)])


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=60) as answer:
        return answer.read()


def measure_reloads(run):
    """A client loads the model again and again, each time with a new configuration."""
    count = 5 if run.quick else 100
    with run.millrace(["identity"], "--mode", "explicit", "--load", "identity", "--allow-repository-control") as (urls, pid, folder):
        loaded, failures = [], []

        def reload():
            for number in range(count):
                (folder / "identity" / "config.pbtxt").write_text(MODELS["identity"] + parameter("number", number))
                started = time.monotonic()
                try:
                    ask(f"{urls['http']}/v2/repository/models/identity/load", {})
                except OSError as error:
                    failures.append(str(error))
                loaded.append(time.monotonic() - started)
                time.sleep(0.05)

        thread = threading.Thread(target=reload)
        thread.start()
        while thread.is_alive() or not of(run.results, "loaded"):
            run.bench("loaded", urls["http"], "identity", "--concurrency", "16", "--whole", seconds=10, pid=pid, bad=(1,))
        thread.join()
        config = json.loads(ask(f"{urls['http']}/v2/models/identity/config"))
    if failures or config["parameters"]["number"]["string_value"] != str(count - 1):
        raise RuntimeError(f"{len(failures)} of {count} loads failed, or the last was not taken: {failures[:1]}")
    run.keep("reloads", {"seconds": loaded})


def judge_reloads(results):
    loaded, [reloads] = of(results, "loaded", "reloads")
    return ([at_most(f"failed requests over {len(reloads['seconds'])} reloads", 0, sum(result["errors"] for result in loaded), "{:.0f}")],
            [stated("requests", "{:,}", sum(result["requests"] for result in loaded)), stated("requests/s", "{:,.0f}", rate(loaded)),
             stated("a reload takes", "{:.0f} ms", 1000 * statistics.median(reloads["seconds"])),
             stated("p99", "{:.2f} ms", max(result["latency_us"]["p99"] for result in loaded) / 1000)])


def measure_idle(run):
    """In turn without and with connections that do nothing but be there."""
    count = 100 if run.quick else 2000
    with run.millrace(["identity"]) as (urls, pid, _folder):
        host_name, port = urls["http"].removeprefix("http://").split(":")
        for _ in range(run.rounds(5)):
            run.bench("without", urls["http"], "identity", "--concurrency", "32", seconds=3, pid=pid)
            with contextlib.ExitStack() as stack:
                for _ in range(count):
                    idle = stack.enter_context(socket.create_connection((host_name, int(port))))
                    idle.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                    if not idle.recv(1000).startswith(b"HTTP/1.1 200"):
                        raise RuntimeError("an idle connection was not answered")
                run.bench("with", urls["http"], "identity", "--concurrency", "32", seconds=3, pid=pid)
    run.keep("connections", {"count": count})


def judge_idle(results):
    without, beside, [connections] = of(results, "without", "with", "connections")
    ratios = [one["requests_per_s"] / other["requests_per_s"] for one, other in zip(beside, without)]
    cpu = [per_cpu_second(one) / per_cpu_second(other) for one, other in zip(beside, without)]
    return ([at_least(f"requests/s with {connections['count']:,} idle connections / without", 0.95, statistics.median(ratios), "{:.3f}")],
            [stated("ratios", "{}", texts(ratios)), stated("requests per server CPU-second, with / without", "{:.3f}", statistics.median(cpu)),
             stated("requests/s", "{:,.0f}", rate(beside)),
             stated("resident with and without", "{}", " and ".join(f"{max(r['server']['rss_mib'] for r in part):.1f} MiB" for part in (beside, without)))])


def measure_memory(run):
    wanted, answered = 20_000 if run.quick else run.requests, 0
    with run.millrace(["identity"]) as (urls, pid, _folder):
        while answered < wanted:
            answered += run.bench("load", urls["http"], "identity", "--concurrency", "32", "--whole", seconds=60, pid=pid)["requests"]


def judge_memory(results):
    answered, sizes = 0, []  # requests so far, MiB then
    for sample in (sample for result in results for sample in result["samples"]):
        answered += round(sample["requests_per_s"] * sample["seconds"])
        sizes.append((answered, sample["server_rss_mib"]))
    after = [size for requests, size in sizes if requests >= answered / 10]
    return ([at_most("resident memory grown after the first tenth", 4, max(after) - after[0], "{:.2f} MiB")],
            [stated("requests", "{:,}", answered), stated("resident at the end", "{:.1f} MiB", after[-1])])


CELLS = {
    "server_http_identity": Cell("Served identity model, 16 x FP32, binary HTTP", measure_identity("http", Run.do_nothing_http), judge_identity(30)),
    "server_grpc_identity": Cell("Served identity model, 16 x FP32, gRPC", measure_identity("grpc", Run.do_nothing_grpc), judge_identity(45)),
    "server_digits_latency": Cell("Digits over HTTP, one caller, one image", measure_digits, judge_digits),
    "server_large_input": Cell("Served model that does not read its 4 MiB", measure_large_input, judge_large_input),
    "server_overload": Cell("Served sleeping model, open loop at twice its capacity", measure_overload, judge_overload),
    "server_reloads": Cell("Reloads of a served model under load", measure_reloads, judge_reloads),
    "server_idle_connections": Cell("Served identity model beside idle connections", measure_idle, judge_idle),
    "server_memory": Cell("Served identity model, many requests", measure_memory, judge_memory),
}


def run_cell(name, arguments):
    cell = CELLS[name]
    about = host.machine()
    run = Run(arguments.bin.resolve(), arguments.quick, arguments.requests)
    cell.measure(run)
    bars, statements = cell.judge(run.results)
    hashes = {program: hashlib.sha256((run.folder / program).read_bytes()).hexdigest() for program in sorted(run.programs)}
    return {"cell": name, "what": cell.what, "recorded": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            "commit": os.environ.get("MILLRACE_COMMIT") or host.output_of("git", "rev-parse", "HEAD"),
            "modified": host.output_of("git", "status", "--porcelain", "--", "src", "include", "bench", "cmake") != "",
            "machine": about, "binaries": hashes, "commands": run.commands, "bars": bars, "stated": statements, "results": run.results}


def show(record):
    """Prints a record; the number of bars that it misses."""
    for bar in record["bars"]:
        print(f"    {'met    ' if bar['met'] else 'NOT MET'}  {bar['what']}: {bar['value']} ({bar['bar']})", flush=True)
    for entry in record["stated"]:
        print(f"             {entry['what']}: {entry['value']}", flush=True)
    return sum(not bar["met"] for bar in record["bars"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cells", nargs="*", metavar="CELL")
    parser.add_argument("--bin", type=Path, default=ROOT / "build" / "release" / "bin")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--requests", type=int, default=10_000_000)
    arguments = parser.parse_args()
    for name in arguments.cells:
        if name not in CELLS:
            parser.error(f"there is no cell {name!r}; there are {', '.join(CELLS)}")
    missed = failed = 0
    for name in arguments.cells or CELLS:
        print(f"{name}: {CELLS[name].what}", flush=True)
        try:
            record = run_cell(name, arguments)
        except (OSError, RuntimeError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
            print(f"bench: {name}: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        host.write(record, arguments.out)
        missed += show(record)
    print(f"bench: {missed} bars not met, {failed} cells failed")
    return 1 if failed or (missed and arguments.strict) else 0


if __name__ == "__main__":
    sys.exit(main())
