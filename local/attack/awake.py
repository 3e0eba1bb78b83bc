"""The tenants' machines, awake while they are attacked: of one that sleeps there is little to attack."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from rich.console import Console

from local.attack.tenants import Tenant
from local.demo.machine import Machine
from local.errors import LocalError

_A_DAY = 24 * 60 * 60
_SECONDS = 180.0


@contextmanager
def awake(tenants: Sequence[Tenant], console: Console) -> Iterator[None]:
    """Wake the machines that sleep, let none be suspended meanwhile, and put them back to sleep.

    Raises:
        LocalError: a machine does not run, so that no refusal would prove anything.
    """
    machines = {tenant.id: Machine(tenant.id) for tenant in tenants if tenant.machine}
    with ExitStack() as stack:
        for name, machine in machines.items():
            stack.enter_context(machine.idle_limit(_A_DAY))
            if machine.status() == "Stopping":
                machine.wait_for("Stopped", _SECONDS)
            if machine.status() == "Stopped":
                console.print(f"{name}: asleep, and woken for the attack")
                machine.start()
                stack.callback(machine.stop)
        for name, machine in machines.items():
            if not machine.wait_for("Running", _SECONDS):
                raise LocalError(
                    f"attack: the machine of {name} is {machine.status()} and not Running, so a refusal "
                    "would prove nothing and nothing was tried; see `make status`."
                )
        yield
