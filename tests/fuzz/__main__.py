"""``python tests/fuzz``: seeded damage to every kind of file that a person brings; exit code 1 on a finding.

Each input is a right file with one mutation. The code that reads it may refuse it with a UserError, or read it.
Whatever else comes is a finding: another exception, a crash, or more than 20 s of work. ``--targets NAME --first NUMBER
--count 1`` runs one input again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE.parents[1], HERE.parent, HERE.parent / "datasets", HERE.parent / "data", HERE):
    sys.path.insert(0, str(folder))


def main() -> int:
    """Run the targets and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other inputs")
    parser.add_argument("--count", type=int, default=160, help="inputs for each target")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument(
        "--targets", nargs="*", metavar="NAME", help="names, or their beginnings; all by default"
    )
    parser.add_argument("--json", type=Path, help="write counts and findings there")
    args = parser.parse_args()
    from fuzz_runner import Tally, as_json, run_target, table
    from fuzz_targets import TARGETS

    wanted = tuple(args.targets or ("",))
    chosen = [target for target in TARGETS if target.name.startswith(wanted)]
    if not chosen:
        parser.error(f"no such target; there are {', '.join(target.name for target in TARGETS)}")
    tallies: dict[str, Tally] = {}
    for target in chosen:
        sys.stderr.write(f"{target.name} …\n")
        found = run_target(target, args.count, seed=args.seed, first=args.first)
        tally = tallies.setdefault(target.group, Tally())
        tally.counts += found.counts
        tally.findings += found.findings
        for finding in found.findings:
            sys.stderr.write(
                f"  {finding.number} {finding.file} ({finding.mutation}): {finding.detail}\n"
            )
    print(table(tallies))
    if args.json:
        args.json.write_text(as_json(tallies))
    return int(any(tally.findings for tally in tallies.values()))


if __name__ == "__main__":
    raise SystemExit(main())
