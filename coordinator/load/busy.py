"""How long each stage of a cluster has computed, from the workers' own metrics."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from coordinator.client import authorization

COMPUTE = "stageline_stage_compute_seconds_sum"


async def compute_seconds(url: str, api_key: str | None) -> dict[int, float] | None:
    """Seconds of compute of each stage since its worker started; None if the workers cannot be asked from here."""
    headers = authorization(api_key)
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport()) as http:
        try:
            groups = (await http.get(f"{url}/metrics/targets", headers=headers)).raise_for_status().json()
            stages = {
                int(group["labels"]["stage"]): group["targets"][0] for group in groups if "stage" in group["labels"]
            }
            return {stage: await _sum(http, target) for stage, target in sorted(stages.items())}
        except (httpx.HTTPError, ValueError, LookupError, TypeError):
            return None


def busy_shares(before: dict[int, float] | None, after: dict[int, float] | None, seconds: float) -> list[float] | None:
    """The share of `seconds` in which each stage computed; None if a stage is missing or was started again."""
    if not before or not after or before.keys() != after.keys():
        return None
    spent = [after[stage] - before[stage] for stage in before]
    return [own / seconds for own in spent] if min(spent) >= 0 else None


async def _sum(http: httpx.AsyncClient, target: str) -> float:
    text = (await http.get(f"http://{target}/metrics")).raise_for_status().text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == COMPUTE)
