"""`python -m local.node_agent`: runs until SIGTERM; our own Pods' processes and guests go on without it.

Reads KUBECONFIG, AGENT_PLATFORM_GUESTS and AGENT_PLATFORM_FIGURES_PORT; and for the node pools
EXOSCALE_API_ENDPOINT, EXOSCALE_API_KEY and EXOSCALE_API_SECRET.
"""

import fcntl
import logging
import os
import signal

from kubernetes import config
from kubernetes.client import ApiClient

from local.node_agent import MODE, STATE, qemu
from local.node_agent.agent import Agent
from local.node_agent.containers import Containers
from local.node_agent.disks import Volumes
from local.node_agent.figures import PORT, Figures
from local.node_agent.guests import Hypervisor, ReportedGuests, SomeRealGuests
from local.node_agent.kube import Api
from local.node_agent.nodes import Pools
from local.node_agent.own_pods import OwnPods
from local.node_agent.workqueue import WorkQueue
from local.paths import LOGS


def main() -> None:
    """Wire the agent up and run it."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each lost connection is reported once, by us
    queue = WorkQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: queue.close())
    client: ApiClient = config.new_client_from_config()  # type: ignore[no-untyped-call]
    api = Api(client)
    containers = Containers(STATE / "pods", LOGS / "pods", lambda uid: queue.add(("ended", "", uid)))
    pools = Pools(
        os.environ["EXOSCALE_API_ENDPOINT"],
        os.environ["EXOSCALE_API_KEY"],
        os.environ["EXOSCALE_API_SECRET"],
    )
    own_pods = OwnPods(api, client.configuration.host, containers)
    disks = Volumes(STATE / "volumes")
    guests = Containers(STATE / "guests", LOGS / "guests", lambda uid: queue.add(("guest-ended", "", uid)))
    hypervisor: Hypervisor = ReportedGuests()
    if os.environ.get(MODE) != "reported":
        real = qemu.Qemu(
            api, client.configuration.host, guests, disks, LOGS / "guests", STATE / "accelerator.json"
        )
        hypervisor = SomeRealGuests(real, lambda machine: qemu.is_ours(machine) and not qemu.obstacle())
    agent = Agent(api, queue, pools, hypervisor, own_pods, disks)
    Figures(agent.machines, lambda uid: guests.processes(uid, qemu.CONTAINER)).serve(int(os.environ[PORT]))
    if agent.read():
        with (STATE / "at-work").open("w") as at_work:
            fcntl.flock(at_work, fcntl.LOCK_EX)
            agent.run()


if __name__ == "__main__":
    main()
