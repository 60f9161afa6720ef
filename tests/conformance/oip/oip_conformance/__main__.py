"""oip-conformance: checks a server of the Open Inference Protocol and prints a report."""

import argparse
import json
import sys
import textwrap

from . import __version__
from .client import Client
from .registry import CHECKS, MUST, SHOULD, Failed, NotApplicable
from .runner import FAIL, FEATURES, PASS, SKIP, Runner, as_json, counts


def names(text):
    """A comma-separated list of features; "all" is each of them."""
    found = [name for name in text.split(",") if name]
    unknown = [name for name in found if name not in (*FEATURES, "all")]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: all, {', '.join(FEATURES)}")
    return FEATURES if "all" in found else found


def parser():
    made = argparse.ArgumentParser(prog="oip-conformance", description=__doc__.split(": ", 1)[1])
    made.add_argument("--http", metavar="URL", help="address for HTTP, as http://127.0.0.1:8000")
    made.add_argument("--grpc", metavar="HOST:PORT", help="address for gRPC")
    made.add_argument("--model", metavar="NAME", action="append", help="use only these of the models (may be given again)")
    made.add_argument("--check", metavar="ID", action="append", help="run only this check, or those below it (may be given again)")
    made.add_argument("--level", choices=[MUST, SHOULD], help="run only what the specification demands, or only what clients depend on")
    made.add_argument("--expect", metavar="FEATURES", type=names, default=[], help="these must be there, announced or not; or all")
    made.add_argument("--without", metavar="FEATURES", type=names, default=[], help="these are not checked")
    made.add_argument("--timeout", metavar="SECONDS", type=float, default=30.0, help="for one answer (default: %(default)g)")
    made.add_argument("--report", metavar="FILE", help="write the report as JSON")
    made.add_argument("--list", action="store_true", help="list the checks and exit")
    made.add_argument("--verbose", action="store_true", help="print every check, not only those that failed")
    made.add_argument("--version", action="version", version=__version__)
    return made


def print_result(result):
    check = result.check
    print(f"{result.outcome.upper():14} {check.id}  [{check.section}; {check.level}]")
    lines = {FAIL: [f"required: {check.requirement}", f"expected: {result.expected}", f"found:    {result.found}"],
             SKIP: [result.reason], PASS: []}[result.outcome]
    for line in lines:
        print(textwrap.indent(textwrap.fill(line, 110, subsequent_indent="          "), "    "))


def print_table(results):
    groups = dict.fromkeys(result.check.group for result in results)
    width = max(len(group) for group in groups)
    print(f"\n{'':{width}}  pass  fail  not applicable")
    for group in [*groups, "all"]:
        found = counts([result for result in results if group in (result.check.group, "all")])
        print(f"{group:{width}}  {found[PASS]:4}  {found[FAIL]:4}  {found[SKIP]:4}")


def main(arguments=None):
    options = parser().parse_args(arguments)
    if options.list:
        for check in CHECKS.values():
            print(f"{check.id:40} {check.level:6} {check.group:20} {check.requirement}")
        return 0
    if not options.http and not options.grpc:
        parser().error("expected --http, --grpc or both")
    try:
        client = Client(options.http, options.grpc, options.timeout)
    except ValueError as error:
        parser().error(str(error))
    try:
        if client.address:
            client.connect().socket.close()
        if client.target:
            client.rpc.wait_for_server()
    except (Failed, NotApplicable) as nothing:
        print(f"oip-conformance: {nothing}", file=sys.stderr)
        return 2
    runner = Runner(client, set(options.expect) - set(options.without), options.without, options.model)
    results = []
    for check in runner.select(options.check, options.level and [options.level]):
        results.append(runner.run(check))
        if options.verbose or results[-1].outcome == FAIL:
            print_result(results[-1])
    client.close()
    if not results:
        print(f"oip-conformance: no check is named {options.check}", file=sys.stderr)
        return 2
    print_table(results)
    if options.report:
        with open(options.report, "w") as file:
            json.dump(as_json(results, suite=__version__, http=options.http, grpc=options.grpc), file, indent=1)
            file.write("\n")
    return 1 if counts(results)[FAIL] else 0


if __name__ == "__main__":
    sys.exit(main())
