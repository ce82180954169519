#!/usr/bin/env python3
"""Runs the libFuzzer targets from their corpora and keeps the books: tests/fuzz/log.csv has, for each day and target,
the processor seconds spent, the inputs run and what was found, so that the time a parser has withstood adds up over the
years.

Processor seconds count, not minutes of the clock: a busy machine makes a run longer, never a figure larger. New inputs
that reach new code stay in build/fuzz/found/<target>, crashes in build/fuzz/crashes/<target>. Exits with 1 when
something was found."""
import argparse
import csv
import datetime
import fcntl
import os
import pathlib
import platform
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / 'build/fuzz'
LOG = ROOT / 'tests/fuzz/log.csv'
FIELDS = ['date', 'machine', 'target', 'cpu_seconds', 'runs', 'edges', 'findings']
SLICE_SECONDS = 60


def build(names):
    if not (BUILD / 'build.ninja').exists():
        subprocess.run(['meson', 'setup', BUILD, '-Dtests=true', '-Dfuzz=true', '-Db_sanitize=address,undefined',
                        '-Db_lundef=false', '-Doptimization=1', '-Dc_args=-fsanitize=fuzzer-no-link'],
                       cwd=ROOT, env=dict(os.environ, CC='clang'), check=True, stdout=subprocess.DEVNULL)
    subprocess.run(['ninja', '-C', BUILD, '--quiet', *(f'tests/fuzz/fuzz_{name}' for name in names)], check=True)


def targets(only):
    names = sorted(path.name.removesuffix('_fuzz.c') for path in (ROOT / 'tests/fuzz').glob('*_fuzz.c'))
    return [name for name in names if not only or name in only]


def run_slice(name, seconds):
    """One run of a target; gives (processor seconds, inputs, edges, findings)."""
    found, crashes = BUILD / 'found' / name, BUILD / 'crashes' / name
    found.mkdir(parents=True, exist_ok=True)
    crashes.mkdir(parents=True, exist_ok=True)
    command = [BUILD / 'tests/fuzz' / f'fuzz_{name}', f'-max_total_time={seconds}', '-rss_limit_mb=1024', '-timeout=30',
               '-print_final_stats=1', f'-artifact_prefix={crashes}/', found, ROOT / 'tests/fuzz/corpus' / name]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors='replace')
    text = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    runs = re.search(r'stat::number_of_executed_units:\s*(\d+)', text)
    edges = re.findall(r'cov: (\d+)', text)
    if process.returncode:
        print(text[-6000:], file=sys.stderr)
    return (usage.ru_utime + usage.ru_stime, int(runs[1]) if runs else 0, int(edges[-1]) if edges else 0,
            1 if process.returncode else 0)


def log_add(name, *figures):
    """Adds to today's row of the target; runs side by side take turns."""
    with (BUILD / 'log.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_log(name, *figures)


def write_log(name, cpu_seconds, runs, edges, findings):
    rows = list(csv.DictReader(LOG.open())) if LOG.exists() else []
    today, machine = datetime.date.today().isoformat(), f'{platform.machine()} {os.cpu_count()} cores'
    row = next((r for r in rows if (r['date'], r['machine'], r['target']) == (today, machine, name)), None)
    if not row:
        row = dict(date=today, machine=machine, target=name, cpu_seconds=0, runs=0, edges=0, findings=0)
        rows.append(row)
    row['cpu_seconds'] = round(float(row['cpu_seconds']) + cpu_seconds)
    row['runs'] = int(row['runs']) + runs
    row['edges'] = max(int(row['edges']), edges)
    row['findings'] = int(row['findings']) + findings
    with LOG.open('w', newline='') as out:
        writer = csv.DictWriter(out, FIELDS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda r: (r['date'], r['machine'], r['target'])))


def print_totals():
    totals = {}
    for row in csv.DictReader(LOG.open()) if LOG.exists() else []:
        total = totals.setdefault(row['target'], [0, 0])
        total[0] += int(row['cpu_seconds'])
        total[1] += int(row['runs'])
    for name, (seconds, runs) in sorted(totals.items()):
        print(f'{name:16} {seconds / 60:8.1f} processor minutes {runs:14,} inputs so far')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=60, help='processor seconds for each target (default 60)')
    parser.add_argument('--only', nargs='*', help='names of targets')
    parser.add_argument('--log', action='store_true', help='add the figures to tests/fuzz/log.csv')
    parser.add_argument('--totals', action='store_true', help='print what the log adds up to, run nothing')
    args = parser.parse_args()
    if args.totals:
        return print_totals()
    names = targets(args.only)
    build(names)
    spent, failed = {}, set()
    while names:
        for name in list(names):
            left = args.seconds - spent.get(name, 0)
            figures = run_slice(name, max(1, round(min(left, SLICE_SECONDS))))
            spent[name] = spent.get(name, 0) + figures[0]
            print(f'{name:16} {spent[name]:7.0f} s {figures[1]:12,} inputs {figures[2]:7} edges'
                  f'{"  FOUND SOMETHING" if figures[3] else ""}', flush=True)
            if args.log:
                log_add(name, *figures)
            if figures[3]:
                failed.add(name)
            if figures[3] or spent[name] >= args.seconds - 1:
                names.remove(name)
    if failed:
        sys.exit(f'found in: {", ".join(sorted(failed))}; inputs are in build/fuzz/crashes')


if __name__ == '__main__':
    main()
