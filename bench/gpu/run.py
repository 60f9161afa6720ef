#!/usr/bin/env python3
"""Runs the benchmarks on a GPU and records what they say, one file for each cell, as bench/run.py does.

    bench/gpu/run.py --models DIR [--bin DIR] [--out DIR] [--quick] [CELL ...]

DIR of --models holds the engines that tools/models/write.py and "millrace build" made: resnet50.plan (FP16, --batch
1..32..128), mlp.plan (FP16, --batch 1..64), bert-base-384.plan and yolov4-608.plan (FP16, --batch 1..32 and 1..8). Cells whose engine is
not there are left out, and said so. MILLRACE_TENSORRT names TensorRT's folder. Each cell alternates with the best loop by hand,
which is looked for first; a comparison counts only where that loop does what is known of the machine. Standard library only.
"""

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def host_benchmarks():
    spec = importlib.util.spec_from_file_location("host_benchmarks", ROOT / "bench" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


host = host_benchmarks()


# What loops by hand are known to do on an H200, in items/s; and the share of it that makes a comparison count.
KNOWN = {"host": 33_720, "resident": 37_494, "naive": 12_000}
ENOUGH = 0.97


class Cell(host.Cell):
    """`engines`: the files that it needs, `gpus`: how many of them."""

    def __init__(self, what, engines, commands, judge, gpus=1):
        super().__init__(what, commands, judge)
        self.engines = [engines] if isinstance(engines, (str, Path)) else engines
        self.gpus = gpus


def bench(engine, *arguments, duration=4, pairs=9):
    def command(quick, earlier):
        seconds, count = (0.2, 2) if quick else (duration, pairs)
        end = ["--pairs", str(count)] if "--compare" in arguments else []
        return ["millrace", "bench", str(MODELS / engine), *arguments, "--duration", str(seconds), *end, "--json"]
    return command


def bench_models(placed, *arguments, duration=4):
    """Several models at once; `placed`: of engine and devices."""
    def command(quick, earlier):
        models = [f"{MODELS / engine}@{devices}" for engine, devices in placed]
        return ["millrace", "bench", *models, *arguments, "--duration", str(0.2 if quick else duration), "--json"]
    return command


def about(result):
    direct = host.comparison(result, "direct")
    return [host.stated("items/s", "{:,.0f}", result["items_per_s"]),
            host.stated("items/s of direct", "{:,.0f}", direct["items_per_s"]),
            host.stated("ratio with its 95% interval", "{}", host.ratio_text(direct)),
            host.stated("direct", "{}", direct["what"]),
            host.stated("CPU per request", "{:.1f} us", result["cpu_us_per_request"])]


def judge_best(known, bar=0.99, naive=None):
    """Throughput against the best loop by hand; 1.00 must lie inside the interval or below it."""
    def judge(results):
        direct = host.comparison(results[0], "direct")
        bars = [host.at_least("throughput / best direct", bar, direct["ratio"], "{:.3f}")]
        if bar >= 0.99:
            bars.append(host.at_least("upper end of its 95% interval", 1.0, direct["ratio_spread"]["high"], "{:.3f}"))
        statements = about(results[0])
        if known:
            statements.append(host.stated("direct / what is known of it", "{:.3f}", direct["items_per_s"] / KNOWN[known]))
        if naive:
            loop = host.comparison(results[0], "naive")
            bars.append(host.at_least("throughput / naive", naive, loop["ratio"], "{:.2f}"))
            statements.append(host.stated("items/s of naive", "{:,.0f}", loop["items_per_s"]))
        return bars, statements
    return judge


def judge_latency(results):
    direct = host.comparison(results[0], "direct")
    excess = direct["p50_excess_us"]
    return ([host.at_most("p50 above direct", 15, excess["median"], "{:.1f} us")],
            [host.stated("p50", "{:.0f} us", results[0]["latency_us"]["p50"]), host.stated("p50 of direct", "{:.0f} us", direct["p50_us"]),
             host.stated("95% interval", "{}", f"{excess['low']:.1f} to {excess['high']:.1f} us"),
             host.stated("p99", "{:.0f} us", results[0]["latency_us"]["p99"])])


def judge_callers(results):
    fixed, callers = results
    best = max(fixed["items_per_s"], host.comparison(fixed, "direct")["items_per_s"])
    return ([host.at_least("throughput / best of batch 32", 0.95, callers["items_per_s"] / best, "{:.3f}")],
            [host.stated("images/s", "{:,.0f}", callers["items_per_s"]), host.stated("images in a batch", "{:.1f}", callers["batch_items_mean"]),
             host.stated("p50", "{:.2f} ms", callers["latency_us"]["p50"] / 1000), host.stated("p99", "{:.2f} ms", callers["latency_us"]["p99"] / 1000)])


def judge_gather(results):
    """64 pieces of 150,528 bytes, by the engine and by each method of a gather."""
    engine = results[0]["engine"]
    row = next(row for row in results[0]["methods"] if (row["source"], row["bytes"], row["pieces"]) == ("pinned", 150_528, 64))
    return ([host.at_least("64 requests of 150,528 B into a batch", 45, engine["gb_per_s"], "{:.1f} GB/s")],
            [host.stated("one batch at a time", "{:.1f} GB/s", results[0]["engine_alone"]["gb_per_s"])] +
            [host.stated(f"the same pieces, {method}", "{:.1f} GB/s", row[method]["gb_per_s"])
             for method in ("each", "batch", "kernel", "automatic")])


def median(values):
    values = sorted(values)
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2


def judge_scaling(bar):
    """In turn one GPU and several. A request is a whole batch, so CPU per request is CPU per item but for a factor."""
    def judge(results):
        pairs = list(zip(results[0::2], results[1::2]))
        ratios = [several["items_per_s"] / one["items_per_s"] for one, several in pairs]
        cpu = [several["cpu_us_per_request"] / one["cpu_us_per_request"] for one, several in pairs]
        one, several = pairs[-1]
        return ([host.at_least("throughput / one GPU", bar, median(ratios), "{:.3f}"),
                 host.at_most("host CPU per item / one GPU", 1.05, median(cpu), "{:.3f}")],
                [host.stated("items/s of one GPU", "{:,.0f}", median([pair[0]["items_per_s"] for pair in pairs])),
                 host.stated("items/s", "{:,.0f}", median([pair[1]["items_per_s"] for pair in pairs])),
                 host.stated("ratios", "{}", " ".join(f"{ratio:.3f}" for ratio in ratios)),
                 host.stated("items/s of each GPU", "{}", " ".join(f"{device['items_per_s']:,.0f}" for device in several["per_device"])),
                 host.stated("CPU per request", "{}", f"{several['cpu_us_per_request']:.1f} us, one GPU {one['cpu_us_per_request']:.1f} us")])
    return judge


def judge_locality(results):
    quiet, busy = results
    share = {device["device"]: device["share_of_model"] for device in quiet["per_device"]}
    moved = sum(device["moved_requests"] for device in quiet["per_device"])
    return ([host.at_least("share of GPU 1, which has the data", 1.0, share["cuda:1"], "{:.4f}"),
             host.at_most("requests moved", 0, moved, "{:.0f}")],
            [host.stated("requests", "{:,}", quiet["requests"]),
             host.stated("shares with 512 in flight", "{}", " ".join(f"{device['share_of_model']:.3f}" for device in busy["per_device"])),
             host.stated("requests moved with 512 in flight", "{:,}", sum(device["moved_requests"] for device in busy["per_device"])),
             host.stated("requests/s, quiet and busy", "{}", f"{quiet['requests_per_s']:,.0f}, {busy['requests_per_s']:,.0f}")])


def judge_mixed(results):
    alone, together = results[:2], results[2]["models"]
    bars, statements = [], []
    for name, one, beside in zip(("ResNet-50 on GPU 0", "MLP on GPU 1"), alone, together):
        bars.append(host.at_least(f"{name} beside the other / alone", 0.95, beside["items_per_s"] / one["items_per_s"], "{:.3f}"))
        statements.append(host.stated(f"items/s of {name}", "{:,.0f}", beside["items_per_s"]))
    return bars, statements


MODELS = Path()
RESNET, MLP, BERT, YOLO = "resnet50.plan", "mlp.plan", "bert-base-384.plan", "yolov4-608.plan"
OFFLINE = ("--offline", "--batch")
CELLS = {
    "gpu_resnet50_host": Cell("ResNet-50 FP16, batch 32, pinned host memory", RESNET,
                              [bench(RESNET, *OFFLINE, "32", "--lanes", "3", "--slots", "1", "--compare", "direct,naive")], judge_best("host", naive=2.6)),
    "gpu_resnet50_resident": Cell("ResNet-50 FP16, batch 32, resident", RESNET,
                                  [bench(RESNET, *OFFLINE, "32", "--lanes", "2", "--slots", "1", "--resident", "--compare", "direct")], judge_best("resident")),
    "gpu_mlp": Cell("Small MLP FP16, batch 8, resident", MLP,
                    [bench(MLP, *OFFLINE, "8", "--lanes", "8", "--slots", "1", "--resident", "--compare", "direct")], judge_best(None, 0.6)),
    "gpu_latency": Cell("ResNet-50 FP16, one caller, one image", RESNET,
                        [bench(RESNET, "--concurrency", "1", "--batch", "1", "--lanes", "1", "--compare", "direct")], judge_latency),
    "gpu_callers": Cell("ResNet-50 FP16, 256 callers of one image", RESNET,
                        [bench(RESNET, *OFFLINE, "32", "--lanes", "4", "--compare", "direct", pairs=3),
                         bench(RESNET, "--concurrency", "256", "--batch", "32", "--lanes", "4")], judge_callers),
}
AVERAGE = Path("tests") / "models" / "average.onnx"  # from the repository's folder
CELLS["gpu_gather"] = Cell("64 requests from separate pinned buffers", ROOT / AVERAGE,
                           [lambda quick, earlier: ["bench_gather", "--model", str(AVERAGE), *(["--rounds", "1"] if quick else [])]], judge_gather)
# By model and batch: lanes for host memory, and for data on the GPU. Found by trying 1 to 16 of them on an H200; what the best loop by
# hand takes with a hardware queue for each stream where that loop has more.
LANES = {("resnet50", 1): (16, 16), ("resnet50", 8): (6, 12), ("resnet50", 128): (4, 2), ("bert", 1): (8, 8), ("bert", 8): (2, 2), ("bert", 32): (2, 2),
         ("yolov4", 1): (8, 12), ("yolov4", 8): (8, 2)}
SLOTS = {("resnet50", 1, "resident"): 2}  # by model, batch and place, where they are not 1
IN_FLIGHT = {("resnet50", 8, "resident"): 12}  # as many as lanes, as in the loop by hand: where they are not twice as many
WITHOUT_GRAPHS = {("resnet50", 8)}  # from host memory; so goes the best loop by hand there too
FILES = {"resnet50": ("ResNet-50", RESNET), "bert": ("BERT-base 384", BERT), "yolov4": ("YOLOv4-608", YOLO)}
for (name, batch), lanes in LANES.items():
    model, engine = FILES[name]
    for count, where, more in zip(lanes, ("host", "resident"), ((), ("--resident",))):
        graphs = ("--option", "graphs=off") if where == "host" and (name, batch) in WITHOUT_GRAPHS else ()
        flight = ("--in-flight", str(IN_FLIGHT[name, batch, where])) if (name, batch, where) in IN_FLIGHT else ()
        CELLS[f"gpu_{name}_{batch}_{where}"] = Cell(
            f"{model} FP16, batch {batch}, {'resident' if more else 'pinned host memory'}", engine,
            [bench(engine, *OFFLINE, str(batch), "--lanes", str(count), "--slots", str(SLOTS.get((name, batch, where), 1)), *flight, *graphs, *more, "--compare", "direct", duration=3, pairs=7)],
            judge_best(None, 0.98))
PINNED = ("--offline", "--batch", "32", "--lanes", "3", "--slots", "1")
for count, bar in ((2, 1.95), (4, 3.8)):
    devices = ",".join(map(str, range(count)))
    CELLS[f"gpu_scaling_{count}"] = Cell(
        f"ResNet-50 FP16, batch 32, pinned host memory, {count} GPUs", RESNET,
        [bench(RESNET, *PINNED, "--devices", chosen, duration=2) for _ in range(3) for chosen in ("0", devices)], judge_scaling(bar), gpus=count)
    CELLS[f"gpu_locality_{count}"] = Cell(
        f"ResNet-50 FP16, data on GPU 1 of {count}", RESNET,
        [bench(RESNET, "--devices", devices, "--data-on", "1", "--batch", "8", "--lanes", "4", "--concurrency", callers) for callers in ("2", "512")],
        judge_locality, gpus=count)
CELLS["gpu_mixed"] = Cell("ResNet-50 on GPU 0 and the MLP on GPU 1, batch 32, resident", [RESNET, MLP],
                          [bench_models([(RESNET, "0")], *OFFLINE, "32", "--lanes", "4", "--resident"),
                           bench_models([(MLP, "1")], *OFFLINE, "32", "--lanes", "4", "--resident"),
                           bench_models([(RESNET, "0"), (MLP, "1")], *OFFLINE, "32", "--lanes", "4", "--resident")], judge_mixed, gpus=2)


def gpu():
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False)
    except OSError as error:
        sys.exit(f"bench: no GPU: {error}")
    return done.stdout.strip().splitlines()


def main():
    global MODELS
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cells", nargs="*", metavar="CELL")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--bin", type=Path, default=ROOT / "build" / "release" / "bin")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    MODELS = arguments.models.resolve()
    for name in arguments.cells:
        if name not in CELLS:
            parser.error(f"there is no cell {name!r}; there are {', '.join(CELLS)}")
    gpus, failed = gpu(), 0
    host.CELLS = CELLS
    for name in arguments.cells or CELLS:
        cell = CELLS[name]
        missing = [str(MODELS / engine) for engine in cell.engines if not (MODELS / engine).exists()]
        if missing or len(gpus) < cell.gpus:
            why = f"there is no {', '.join(missing)}" if missing else f"it needs {cell.gpus} GPUs, there are {len(gpus)}"
            print(f"{name}: left out, NOT CHECKED: {why}", flush=True)
            continue
        print(f"{name}: {cell.what}", flush=True)
        try:
            record = host.run_cell(name, arguments.bin.resolve(), arguments.quick)
        except (OSError, RuntimeError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
            print(f"bench: {name}: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        record["machine"]["gpus"] = gpus
        host.write(record, arguments.out)
        for bar in record["bars"]:
            print(f"    {'met    ' if bar['met'] else 'NOT MET'}  {bar['what']}: {bar['value']} ({bar['bar']})", flush=True)
        for entry in record["stated"]:
            print(f"             {entry['what']}: {entry['value']}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
