"""Whether the ports that `up` takes are free."""

import httpx

from coordinator.listener import listen
from worker.agent.messages import Finding
from worker.checkup.check import Check
from worker.errors import ConfigError

SECONDS = 2.0

OTHER_PORT = "choose another one: `--{option}`, or end what holds it: `lsof -i :{port}`"
OTHER_HOST = "change --host or STAGELINE_HOST; where other machines shall come in, set STAGELINE_API_KEY"
CHECK = Check(
    "ports",
    "The HTTP port, and the agents' port if one is set, can be taken. Fails if another program holds one (on the "
    "HTTP port a running cluster of Stageline does not count), and if other machines could come in without an API key.",
    (OTHER_PORT, OTHER_HOST),
)


def try_port(host: str, port: int) -> str:
    """Why the address cannot be listened on, "" if it can."""
    try:
        listen(host, port).close()
    except ConfigError as error:
        return str(error.__cause__) if error.__cause__ else error.message
    return ""


def serves(host: str, port: int) -> bool:
    """Whether it is Stageline's coordinator that answers there."""
    name = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    try:
        url = f"http://{f'[{name}]' if ':' in name else name}:{port}/health"
        answer = httpx.get(url, timeout=SECONDS, trust_env=False)  # never through a proxy
    except httpx.HTTPError:
        return False
    return answer.content == b'{"status":"ok"}'


def ports(taken: dict[tuple[str, int], str], ours: bool, http: tuple[str, int], problem: str = "") -> Finding:
    """`taken`: (address, port) -> why not, "" if it is free; `ours`: whether a coordinator serves at `http`; `problem`:
    why `up` does not serve there at all."""
    if problem:
        return CHECK.fail(f"`up` refuses: {problem}", OTHER_HOST)
    told: list[str] = []
    held: tuple[str, int] | None = None
    for (host, port), problem in taken.items():
        if not problem:
            told.append(f"{host} port {port} is free" if port else f"any free port of {host}")
        elif (host, port) == http and ours:
            told.append(f"{host} port {port}: a cluster runs there")
        else:
            told.append(f"{host} port {port}: {problem}")
            held = held or (host, port)
    if held is None:
        return CHECK.ok("; ".join(told))
    return CHECK.fail("; ".join(told), OTHER_PORT.format(option="port" if held == http else "control", port=held[1]))
