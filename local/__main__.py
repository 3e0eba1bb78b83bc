"""The embedded platform's command: `python -m local up | preview | status | token | monitor | env | …`.

Answers for scripts go to stdout; progress and messages go to stderr. Exit status: 0 done, 1 a mistake or a
failure that is told in one message, 130 interrupted.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from pulumi import RunError
from rich.console import Console
from rich.table import Table

from infra.tenants.roster import load_roster
from local import (
    backups,
    consoles,
    drill,
    edge,
    engine,
    machines,
    monitor,
    restoring,
    roster_schema,
    roster_tool,
    servers,
    sleep,
    state,
    supervisor,
    tokens,
    toolchain,
    total_loss,
)
from local.errors import LocalError, refused
from local.paths import DATA, LOGS, ROOT
from local.servers import postgres
from local.toolchain import manifests

CONSOLE = consoles.console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    consoles.write_anything()
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
        sys.stdout.flush()
    except (LocalError, RunError) as error:
        return _failed(error)
    except BrokenPipeError:
        # Whoever read the answer has read enough; what is left of it goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _failed(refused(error, DATA, "the command did not come to its end"))
    except KeyboardInterrupt:
        CONSOLE.print("Interrupted. Nothing is lost: run the same command again to go on.")
        return 130
    return 0


def _failed(error: Exception) -> int:
    CONSOLE.print(f"error: {error}", style="red", soft_wrap=True)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        command: Callable[[argparse.Namespace], None], name: str, summary: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=command)
        return sub

    sub = add(_up, "up", "bring up the servers, run the program, print the tenants")
    sub.add_argument(
        "--plugins", choices=("any", "official"), default="any", help="official: refuse a stand-in"
    )
    sub = add(_preview, "preview", "what `up` would change")
    sub.add_argument("--stack", default=engine.LOCAL_STACK, help="local, or a stack to plan from nothing")
    sub.add_argument(
        "--plugins", choices=("any", "official"), default="any", help="official: refuse a stand-in"
    )
    sub.add_argument("--json", action="store_true", help="only the counts, as JSON on stdout")
    sub = add(_status, "status", "servers and tenants as they are now")
    sub.add_argument("--json", action="store_true", help="JSON on stdout")
    sub = add(_token, "token", "a token for a tenant's URL, valid for an hour, on stdout")
    sub.add_argument("audience", metavar="TENANT", help="a tenant's id, or `console` for the operators' page")
    sub = add(_monitor, "monitor", "start Prometheus beside the platform, and tell what it knows")
    sub.add_argument("--json", action="store_true", help="JSON on stdout")
    sub = add(_restore, "restore", "bring back what a tenant had at a time; plans, asks, and compares")
    sub.add_argument("tenant", help="its id")
    sub.add_argument("what", choices=("database", "objects", "secrets"))
    sub.add_argument("--at", required=True, metavar="TIME", help="such as 2026-11-28T10:00Z")
    sub.add_argument("--yes", metavar="TENANT", help="do not ask; the tenant's id once more")
    sub = add(_drill, "drill", "destroy what disasters destroy, bring it back from backups, and compare")
    sub.add_argument("--json", action="store_true", help="JSON on stdout")
    sub.add_argument(
        "--lose-data",
        action="store_true",
        help="instead: lose everything but object storage, and bring it back",
    )
    sub = add(_costs, "costs", "what each tenant has cost in a month, by the ledger")
    sub.add_argument("--month", metavar="YYYY-MM", help="else the present one")
    sub.add_argument("--invoice", metavar="FILE", help="Exoscale's usage report of that month")
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="JSON on stdout")
    form.add_argument("--csv", action="store_true", help="CSV on stdout")
    add(_demo, "demo", "the tour of sleep and wake, as it happens; puts back what it changes")
    add(_env, "env", "export lines for the ordinary clients")
    sub = add(_logs, "logs", "follow the servers' logs")
    sub.add_argument("server", nargs="?", help="only this server's")
    sub = add(_down, "down", "stop the servers; their data stays")
    sub.add_argument(
        "--delete-data", action="store_true", help="remove everything the servers have written, too"
    )
    sub = add(_attack, "attack", "try, as every tenant, to get at what is every other's; none may succeed")
    sub.add_argument(
        "servers", nargs="*", metavar="SERVER", help="only these, as in `attack postgres postgres-harm`"
    )
    sub = add(_bench, "bench", "measure; the last line is JSON")
    sub.add_argument("names", nargs="*", metavar="NAME", help="only these, as in `bench gateway sweep`")
    add(_actionlint, "actionlint", "check the CI's workflows")
    roster_tool.add_parser(add(roster_tool.run, "tenant", "edit the roster: add, list, move, suspend, …"))
    add(_manifests, "manifests", "regenerate the vendored KubeVirt manifest from its pinned module")
    add(_schema, "schema", "regenerate the roster's JSON schema from its model")
    return parser


def _say(line: str) -> None:
    CONSOLE.out(line.rstrip("\n"), highlight=False)


def _up(options: argparse.Namespace) -> None:
    _check_roster()
    toolchain.ensure(CONSOLE)
    with supervisor.exclusive():
        _bring_up(options)


def _bring_up(options: argparse.Namespace) -> None:
    plugins = engine.install_plugins(engine.LOCAL_STACK, official_only=options.plugins == "official")
    CONSOLE.print(f"Engine: {toolchain.tool('pulumi')}")
    CONSOLE.print(f"Plugins: {plugins.describe()}")
    servers.start_all(CONSOLE)
    try:
        engine.up(engine.stack(engine.LOCAL_STACK), output=_say)
    except engine.UpdateError as error:
        if error.tenants:
            _print_result(error.tenants)
        with contextlib.suppress(LocalError):  # the update's own failure is what is to be told
            state.keep()
        raise
    backups.keep(CONSOLE)
    state.keep()
    _print_result(failed=frozenset())
    CONSOLE.print(f"Console: {_url(tokens.CONSOLE)} (`make token TENANT={tokens.CONSOLE}`)")


def _print_result(failed: Collection[str]) -> None:
    """Print every tenant and, if the update failed for some, for which."""
    declared = engine.tenants(engine.LOCAL_STACK)
    with CONSOLE.status("Waiting for the tenants' machines and pods to settle …"):
        machines.settle(declared)
    outcome = ("update",) if failed else ("name",)
    columns = ("id", *outcome, "tier", "served_by", "status", "url")
    rows = [
        {**_with_url(tenant), "update": "failed" if tenant["id"] in failed else "done"}
        for tenant in machines.observe(declared)
    ]
    _print_tenants(_table_console(), columns, rows)


def _preview(options: argparse.Namespace) -> None:
    _check_roster()
    toolchain.ensure(CONSOLE)
    with supervisor.exclusive():
        engine.install_plugins(options.stack, official_only=options.plugins == "official")
        if options.stack == engine.LOCAL_STACK:
            servers.start_all(CONSOLE)
        output = (lambda _line: None) if options.json else _say
        counts = engine.preview(engine.stack(options.stack), output=output)
    if options.json:
        sys.stdout.write(engine.as_json({"changes": counts}) + "\n")
    else:
        _say("Changes: " + ", ".join(f"{count} {step}" for step, count in counts.items()))


def _check_roster() -> None:
    """A mistake in the roster is told before anything is built or started; the program checks it again."""
    load_roster(ROOT / "tenants.yaml")


def _status(options: argparse.Namespace) -> None:
    services = servers.statuses()
    known = services["kube-apiserver"].ready
    tenants, trouble = sleep.explain(_observed()) if known else ([], "")
    if options.json:
        listed = {
            name: {"ready": status.ready, "pid": status.pid, "detail": status.detail}
            for name, status in services.items()
        }
        report = {
            "services": listed,
            "tenants": [_with_url(tenant) for tenant in tenants],
            "trouble": trouble,
        }
        sys.stdout.write(engine.as_json(report) + "\n")
        return
    console = _table_console()
    table = Table("server", "ready", "pid", "detail", title="Servers")
    for name, status in services.items():
        table.add_row(name, "yes" if status.ready else "no", str(status.pid or ""), status.detail)
    console.print(table)
    if not known:
        console.print("The tenants are known when the Kubernetes API is ready: `make up`.")
        return
    _print_tenants(console, ("id", "tier", "sleep", "since", "reason", "last_wake"), map(_readable, tenants))
    console.print(f"Guests: {servers.node_agent.guests()}.")
    console.print(f"Gateway: {edge.told()}.")
    if trouble:
        console.print(trouble, style="yellow")


def _observed() -> list[dict[str, Any]]:
    return machines.observe(engine.tenants(engine.LOCAL_STACK))


def _with_url(tenant: machines.Tenant) -> machines.Tenant:
    return {**tenant, "url": _url(tenant["id"])}


def _url(host: str) -> str:
    return f"https://{host}.{servers.load_balancer.DOMAIN}:{servers.load_balancer.port()}"


def _readable(tenant: machines.Tenant) -> machines.Tenant:
    """With moments as people write them."""
    wake = tenant["last_wake"]
    return {
        **tenant,
        "since": _clock(tenant["since"]),
        "last_wake": f"{_clock(wake['at'])}, took {wake['seconds']:.1f} s" if wake else "",
    }


def _clock(moment: float | None) -> str:
    if moment is None:
        return ""
    then = time.localtime(moment)
    today = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%d %b %H:%M", then)


def _table_console() -> Console:
    """As wide as the terminal; wide enough for whole words where there is none."""
    return consoles.console(width=None if sys.stdout.isatty() else 120)


def _print_tenants(console: Console, columns: Sequence[str], tenants: Iterable[machines.Tenant]) -> None:
    rows = [[str(tenant[column]) for column in columns] for tenant in tenants]
    table = Table(*(column.replace("_", " ") for column in columns), title=f"{len(rows)} tenants")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _token(options: argparse.Namespace) -> None:
    known = [tenant["id"] for tenant in engine.tenants(engine.LOCAL_STACK)]
    sys.stdout.write(tokens.mint(options.audience, known) + "\n")


def _monitor(options: argparse.Namespace) -> None:
    with supervisor.exclusive():
        _check_ready()
        monitor.start(CONSOLE)
    if options.json:
        sys.stdout.write(engine.as_json(monitor.report()) + "\n")
    else:
        monitor.tell(_table_console())


def _demo(_options: argparse.Namespace) -> None:
    from local.demo import tour  # its clients, which no other command needs

    with supervisor.exclusive():
        _check_ready()
        tenants = _observed()
        console = _table_console()
        _print_tenants(console, ("id", "name", "tier", "served_by", "status", "url"), map(_with_url, tenants))
        console.print(f"Guests: {servers.node_agent.guests()}.")
        known = [tenant["id"] for tenant in tenants]
        have_guests = servers.node_agent.have_guests()
        tour.run(_observed, lambda host: tokens.mint(host, known), have_guests, console)


def _costs(options: argparse.Namespace) -> None:
    if not servers.statuses()["postgres"].ready:
        raise LocalError("postgres: not running, so the ledger cannot be read; run `make up` first.")
    command = [sys.executable, "-m", "costs", "--stack", engine.LOCAL_STACK]
    command += [f"--{name}={told}" for name in ("month", "invoice") if (told := getattr(options, name))]
    command += [f"--{form}" for form in ("json", "csv") if getattr(options, form)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **postgres.environment()}, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def _restore(options: argparse.Namespace) -> None:
    _check_ready()
    at = restoring.time(options.at)
    with supervisor.exclusive(), restoring.recovered(options.what, at, CONSOLE) as recovered:
        status = restoring.run([options.tenant, options.what, "--at", options.at], recovered, options.yes)
    if status:
        raise SystemExit(status)


def _drill(options: argparse.Namespace) -> None:
    _check_ready()
    with supervisor.exclusive():
        outcomes = total_loss.run(CONSOLE) if options.lose_data else drill.run(CONSOLE)
    if options.json:
        sys.stdout.write(drill.as_data(outcomes) + "\n")
    else:
        _table_console().print(drill.table(outcomes))
    if differences := [f"{each.disaster}: {told}" for each in outcomes for told in each.differences]:
        raise LocalError("not all came back as it was:\n" + "\n".join(differences))


def _env(_options: argparse.Namespace) -> None:
    for name, value in servers.environment().items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


def _logs(options: argparse.Namespace) -> None:
    names = [options.server] if options.server else [path.stem for path in sorted(LOGS.glob("*.log"))]
    files = [LOGS / f"{name}.log" for name in names]
    missing = [name for name, file in zip(names, files, strict=True) if not file.is_file()]
    if missing or not files:
        known = ", ".join(path.stem for path in sorted(LOGS.glob("*.log"))) or "none yet: run `make up`"
        raise LocalError(f"There is no log of {', '.join(missing) or 'any server'}. Logs: {known}.")
    subprocess.run(["tail", "-n", "40", "-F", *map(os.fspath, files)], check=False)


def _down(options: argparse.Namespace) -> None:
    with supervisor.exclusive():
        servers.stop_all(CONSOLE)
        if options.delete_data:
            shutil.rmtree(DATA)
            CONSOLE.print(f"Removed {DATA}.")


def _attack(options: argparse.Namespace) -> None:
    from local.attack import campaign, tenants  # the clients of all the servers, which no other command needs

    unknown = sorted(set(options.servers) - {*campaign.NAMES})
    if unknown:
        raise LocalError(
            f"attack: there is no server {', '.join(unknown)}, so nothing was tried; known: "
            f"{', '.join(campaign.NAMES)}."
        )
    with supervisor.exclusive():
        _check_ready()
        attackers = tenants.active(engine.tenants(engine.LOCAL_STACK))
        report = campaign.run(attackers, options.servers or campaign.NAMES, CONSOLE)
    _table_console().print(report.table())
    for finding in report.findings():
        _say(finding)
    sys.stdout.write(report.last_line + "\n")
    if not report.holds:
        raise LocalError(
            "the tenants' isolation is not proven: see the findings above. Take back what was granted too "
            "much, or mend what is broken, and run `make attack` again."
        )


def _check_ready() -> None:
    missing = [name for name, status in servers.statuses().items() if not status.ready]
    if missing:
        raise LocalError(f"{', '.join(missing)}: not running, so nothing was tried; run `make up` first.")


def _bench(options: argparse.Namespace) -> None:
    from local import bench  # its own imports are many, and no other command needs them

    unknown = [name for name in options.names if name not in bench.BENCHES]
    if unknown:
        raise LocalError(f"bench: there is no {', '.join(unknown)}; known: {', '.join(bench.BENCHES)}.")
    figures, failures = bench.run(CONSOLE, options.names)
    if failures:
        # What was measured is told all the same: it took minutes.
        CONSOLE.print("\n".join(failures))
    sys.stdout.write(engine.as_json({"benchmarks": figures}) + "\n")
    if failures:
        raise LocalError(
            f"{len(failures)} of the benches could not be run, or found what must not be: see above."
        )


def _actionlint(_options: argparse.Namespace) -> None:
    toolchain.ensure(CONSOLE, "actionlint")
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
    # Without the helpers it would look for on PATH, it says the same on every machine.
    command: list[str | Path] = [toolchain.tool("actionlint"), "-shellcheck=", "-pyflakes=", *workflows]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LocalError(
            f"The workflows have mistakes, so CI would not run as they say:\n{done.stdout}{done.stderr}"
        )


def _manifests(_options: argparse.Namespace) -> None:
    toolchain.ensure(CONSOLE)
    CONSOLE.print(f"Wrote {manifests.regenerate()}.")


def _schema(_options: argparse.Namespace) -> None:
    CONSOLE.print(f"Wrote {roster_schema.write()}.")


if __name__ == "__main__":
    sys.exit(main())
