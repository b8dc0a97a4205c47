"""What a key's limits make of a job that it submits."""

from services.engine.errors import SpecError
from services.engine.spec import JobSpec, StageSpec
from services.platform.auth import Key


def apply_scope(key: Key, spec: JobSpec) -> JobSpec:
    """The job with the key's share, labels, pool and priority where it names none. Raises SpecError for a field that
    names others than the key may use."""
    labels = _labels(key, spec)
    stages = [_in_pools(key, stage, number) for number, stage in enumerate(spec.stages)]
    share = _pick(key, "shares", spec.share, "share" in spec.model_fields_set)
    changes = {"share": share, "labels": labels, "stages": stages, "priority": _priority(key, spec)}
    return spec.model_copy(update=changes)


def _in_pools(key: Key, stage: StageSpec, number: int) -> StageSpec:
    for pool in stage.pools or ():
        _pick(key, "pools", pool, True, number)
    named = stage.pools is not None or "pool" in stage.model_fields_set
    return stage.model_copy(update={"pool": _pick(key, "pools", stage.pool, named, number)})


def _pick(key: Key, kind: str, value: str, named: bool, stage: int | None = None) -> str:
    """`value`, or the first that the key may use if the job does not name one."""
    allowed: tuple[str, ...] = getattr(key, kind)
    if not allowed or value in allowed:
        return value
    if not named:
        return allowed[0]
    field = "share" if stage is None else f"stages.{stage}.pool"
    raise SpecError(
        field, value, f"the key {key.name!r} may only use {' and '.join(allowed)}: write one, or leave it out"
    )


def _labels(key: Key, spec: JobSpec) -> dict[str, str]:
    for name, value in key.labels.items():
        if spec.labels.get(name, value) != value:
            fix = f"the jobs of the key {key.name!r} have the label {name}={value}: write that, or leave it out"
            raise SpecError(f"labels.{name}", spec.labels[name], fix)
    return {**spec.labels, **key.labels}


def _priority(key: Key, spec: JobSpec) -> int:
    if key.priority_max is None or spec.priority <= key.priority_max:
        return spec.priority
    if "priority" not in spec.model_fields_set:
        return key.priority_max
    fix = f"the highest priority of the key {key.name!r} is {key.priority_max}: write that or less"
    raise SpecError("priority", spec.priority, fix)
