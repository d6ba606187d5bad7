"""
`python -m benchmarks`: run the cases, compare two results, check a change, and write the pages.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import results, tables
from benchmarks.case import FULL, QUICK, NotHereError
from benchmarks.run import run
from benchmarks.stage import ORDERS, Broker
from benchmarks.subjects import cases, chosen

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOUND_WANTING, _USAGE = 1, 2
_KINDS = {"lite": (Broker.LITE,), "real": (Broker.REAL,), "both": (Broker.LITE, Broker.REAL)}


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Return 0 if all is well, 1 if a goal was missed or a change is too slow, 2 if nothing was done.
    """
    options = _parser().parse_args(arguments)
    try:
        code = options.act(options)
    except (LookupError, NotHereError, results.ResultsError) as error:
        print(error.args[0], file=sys.stderr)
        return _USAGE
    except KeyboardInterrupt:
        print("interrupted; what was measured until then is in the file, if --json named one", file=sys.stderr)
        return 130
    assert isinstance(code, int)  # noqa: S101 - of the functions below
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    actions = parser.add_subparsers(required=True, metavar="run|compare|check|plot")

    running = actions.add_parser("run", help="measure; takes more than an hour, wants a quiet machine")
    running.add_argument("--list", action="store_true", help="name the cases and end")
    running.add_argument(
        "--only", nargs="+", default=[], metavar="CASE", help="these cases or subjects; * fits anything"
    )
    running.add_argument("--broker", choices=list(_KINDS), default="both")
    running.add_argument("--rounds", type=_positive, help=f"that count (default {FULL.rounds})")
    running.add_argument("--quick", action="store_true", help="so short that only whether it runs can be seen")
    running.add_argument("--json", type=Path, metavar="FILE", help="write the results there, after each case")
    running.add_argument("--add", action="store_true", help="keep what FILE has of other cases")
    running.add_argument("--orders", type=Path, default=ORDERS, metavar="CSV", help="a file of real orders")
    running.set_defaults(act=_run)

    comparing = actions.add_parser("compare", help="two results side by side")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    comparing.set_defaults(act=_compare)

    checking = actions.add_parser("check", help="whether a change made it slower")
    checking.add_argument("--short", action="store_true", help="under a minute, and only for what doubles")
    checking.add_argument("--update", action="store_true", help="measure, and make that the new baseline")
    checking.add_argument("--baseline", type=Path, metavar="FILE")
    checking.set_defaults(act=_check)

    plotting = actions.add_parser("plot", help="write the plots, and the tables of the pages, from results")
    plotting.add_argument("results", type=Path, nargs="?", help="of `run --json`; by default those that the pages show")
    plotting.set_defaults(act=_plot)
    return parser


def _run(options: argparse.Namespace) -> int:
    picked = chosen(options.only)
    if options.list:
        for case in cases() if not options.only else picked:
            sizes = ", ".join(f"{size:,} B" for size in case.sizes if size)
            print(f"{case.name:16} {case.title}{f' ({sizes})' if sizes else ''}")
        return 0
    if options.add and options.json is None:
        raise LookupError("--add needs --json FILE, the results to add to")
    if not options.orders.is_file():
        raise LookupError(f"--orders: there is no file {options.orders}")
    console = tables.console()
    found = run(
        picked,
        _KINDS[options.broker],
        QUICK if options.quick else FULL,
        rounds=options.rounds,
        orders=options.orders,
        save_to=options.json,
        add=options.add,
    )
    console.print(tables.of_goals(found))
    for where, why in found.missing.items():
        console.print(f"{where} did not run: {why}", style="yellow")
    for where, why in found.failed.items():
        console.print(f"{where} failed: {why}", style="bold red")
    if options.quick:
        console.print("These figures come from very short rounds and mean nothing.", style="yellow")
        return _FOUND_WANTING if found.failed else 0
    missed = [finding for result in found.results for finding in result.findings if finding.met is False]
    return _FOUND_WANTING if missed or found.failed else 0


def _compare(options: argparse.Namespace) -> int:
    table = tables.side_by_side(results.load(options.old), results.load(options.new))
    tables.console().print(table)
    return 0


def _check(options: argparse.Namespace) -> int:
    from benchmarks.gate import check  # noqa: PLC0415 - the others need none of it

    return check.main(short=options.short, update=options.update, baseline=options.baseline)


def _plot(options: argparse.Namespace) -> int:
    from benchmarks import pages  # noqa: PLC0415 - matplotlib takes a second

    return pages.main(options.results)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
