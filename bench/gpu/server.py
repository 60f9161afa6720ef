#!/usr/bin/env python3
"""Runs the benchmarks of the server on a GPU and records what they say, one file for each cell, as bench/server/run.py does.

    bench/gpu/server.py --models DIR [--bin DIR] [--out DIR] [--quick] [CELL ...]

DIR of --models holds resnet50.plan and mlp.plan, made as bench/gpu/run.py says. MILLRACE_TENSORRT names TensorRT's folder.
Client and server run on this machine, on all its cores; the engine's own figure is measured in turn with the served one.
Standard library only.
"""

import argparse
import importlib.util
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def module_at(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gpu = module_at("gpu_benchmarks", ROOT / "bench" / "gpu" / "run.py")
served = module_at("server_benchmarks", ROOT / "bench" / "server" / "run.py")
host, of, rate = served.host, served.of, served.rate

RESNET, MLP = "resnet50", "mlp"
BATCH = 32
MODELS = Path()
# Of the served model, lanes and slots: found by trying 2 to 6 lanes on an H200, as for the engine's own figure.
LANES = {"system": (4, 1), "cuda": (2, 2)}
ENGINE = {"system": ("--lanes", "3", "--slots", "1"), "cuda": ("--lanes", "2", "--slots", "1", "--resident")}


def write(lanes, slots):
    def write_models(folder, names):
        for name in names:
            (folder / name / "1").mkdir(parents=True)
            shutil.copy(MODELS / f"{name}.plan", folder / name / "1" / "model.plan")
            (folder / name / "config.pbtxt").write_text(configuration(name, lanes, slots))
    return write_models


def configuration(name, lanes, slots, more=""):
    batch = BATCH if name == RESNET else 8
    return (f'backend: "tensorrt"\nmax_batch_size: {batch}\ninstance_group {{ kind: KIND_GPU count: {lanes} }}\ndynamic_batching {{ }}\n' +
            served.parameter("millrace.slots", slots) + more)


def measure_resnet(memory, images, callers):
    def measure(run):
        lanes, slots = LANES[memory]
        for _ in range(run.rounds(5)):
            run.result("engine", ["millrace", "bench", MODELS / f"{RESNET}.plan", "--offline", "--batch", BATCH, *ENGINE[memory], "--duration", run.seconds(2), "--json"])
            with run.millrace([RESNET], "--allow-client-shm", core=None, devices="0", write=write(lanes, slots)) as (urls, pid, _folder):
                run.bench("served", urls["grpc"], RESNET, "--concurrency", callers, "--batch", images, "--shared-memory", memory, seconds=4, core=None, pid=pid)
    return measure


def judge_resnet(bar):
    def judge(results):
        engine, answers = of(results, "engine", "served")
        ratios = [one["items_per_s"] / other["items_per_s"] for one, other in zip(answers, engine)]
        middle = sorted(answers, key=lambda result: result["items_per_s"])[len(answers) // 2]
        return ([host.at_least("served / the engine's own figure", bar, statistics.median(ratios), "{:.3f}")],
                [host.stated("ratios", "{}", served.texts(ratios)),
                 host.stated("images/s", "{:,.0f}", statistics.median(result["items_per_s"] for result in answers)),
                 host.stated("images/s of the engine", "{:,.0f}", statistics.median(result["items_per_s"] for result in engine)),
                 host.stated("p50 and p99", "{}", f"{middle['latency_us']['p50'] / 1000:.1f} and {middle['latency_us']['p99'] / 1000:.1f} ms"),
                 host.stated("server CPU per request", "{:.1f} us", served.cpu_us(answers))])
    return judge


def measure_reloads(run):
    """One model answers single images while another, under load too, is loaded again and again."""
    count = 5 if run.quick else 100
    with run.millrace([RESNET, MLP], "--mode", "explicit", "--load", RESNET, "--load", MLP, "--allow-repository-control", core=None, devices="0",
                      write=write(2, 1)) as (urls, pid, folder):
        run.bench("calm", urls["grpc"], RESNET, "--concurrency", 8, "--batch", 1, "--whole", seconds=10, core=None, pid=pid)
        loaded, failures, over = [], [], threading.Event()

        def reload():
            for number in range(count):
                (folder / MLP / "config.pbtxt").write_text(configuration(MLP, 2, 1, served.parameter("number", number)))
                started = time.monotonic()
                try:
                    served.ask(f"{urls['http']}/v2/repository/models/{MLP}/load", {})
                except OSError as error:
                    failures.append(str(error))
                loaded.append(time.monotonic() - started)
            over.set()

        def load():
            while not over.is_set():
                run.bench("reloaded", urls["http"], MLP, "--concurrency", 8, "--batch", 8, "--whole", seconds=5, core=None, bad=(1,))

        threads = [threading.Thread(target=reload), threading.Thread(target=load)]
        for thread in threads:
            thread.start()
        while not over.is_set():
            run.bench("beside", urls["grpc"], RESNET, "--concurrency", 8, "--batch", 1, "--whole", seconds=5, core=None, pid=pid, bad=(1,))
        for thread in threads:
            thread.join()
    if failures:
        raise RuntimeError(f"{len(failures)} of {count} loads failed: {failures[0]}")
    run.keep("reloads", {"seconds": loaded})


def judge_reloads(results):
    [calm], beside, reloaded, [reloads] = of(results, "calm", "beside", "reloaded", "reloads")
    usual = calm["latency_us"]["p99"] / 1000
    longest = max(result["latency_us"]["max"] for result in beside) / 1000
    return ([host.at_most(f"failed requests over {len(reloads['seconds'])} reloads", 0, sum(result["errors"] for result in beside + reloaded), "{:.0f}"),
             host.at_most("longest wait of the other model beyond its usual p99", 50, longest - usual, "{:.1f} ms")],
            [host.stated("requests of the reloaded model", "{:,}", sum(result["requests"] for result in reloaded)),
             host.stated("requests of the other", "{:,}", sum(result["requests"] for result in beside)),
             host.stated("its usual p99", "{:.2f} ms", usual), host.stated("its p99 beside", "{:.2f} ms", max(r["latency_us"]["p99"] for r in beside) / 1000),
             host.stated("a reload takes", "{:.0f} ms", 1000 * statistics.median(reloads["seconds"]))])


CELLS = {f"gpu_server_{images}_{memory}": served.Cell(f"Served ResNet-50 FP16, gRPC, {callers} callers of {what}, {where} shared memory",
                                                      measure_resnet(memory, images, callers), judge_resnet(bar))
         for images, callers, what, bars in ((8, 64, "8 images", (0.93, 0.97)), (1, 256, "one image", (0.88, 0.92)))
         for memory, where, bar in (("system", "system", bars[0]), ("cuda", "CUDA", bars[1]))}
CELLS["gpu_server_reloads"] = served.Cell("Reloads of a served model on a GPU beside another", measure_reloads, judge_reloads)


def main():
    global MODELS
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cells", nargs="*", metavar="CELL")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--bin", type=Path, default=ROOT / "build" / "release" / "bin")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    arguments.requests = 0
    MODELS = arguments.models.resolve()
    for name in arguments.cells:
        if name not in CELLS:
            parser.error(f"there is no cell {name!r}; there are {', '.join(CELLS)}")
    missing = [name for name in (RESNET, MLP) if not (MODELS / f"{name}.plan").exists()]
    if missing:
        parser.error(f"there is no {missing[0]}.plan in {MODELS}; bench/gpu/run.py says how it is made")
    gpus, failed = gpu.gpu(), 0
    served.CELLS = CELLS
    for name in arguments.cells or CELLS:
        print(f"{name}: {CELLS[name].what}", flush=True)
        try:
            record = served.run_cell(name, arguments)
        except (OSError, RuntimeError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
            print(f"bench: {name}: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        record["machine"]["gpus"] = gpus
        host.write(record, arguments.out)
        served.show(record)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
