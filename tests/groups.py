"""Auto Scaling groups for tests."""

from collections.abc import Mapping
from uuid import uuid4

from services.platform.aws import Aws


async def create_group(
    aws: Aws,
    name: str | None = None,
    *,
    minimum: int = 0,
    maximum: int,
    desired: int = 0,
    tags: Mapping[str, str] = {},  # it is never changed
) -> str:
    """A group of its own; returns its name. Auto Scaling makes none without telling it what to launch."""
    name = name or f"group-{uuid4().hex}"
    await aws.autoscaling.create_launch_configuration(
        LaunchConfigurationName=name, ImageId="ami-12c6146b", InstanceType="m5.large"
    )
    await aws.autoscaling.create_auto_scaling_group(
        AutoScalingGroupName=name,
        LaunchConfigurationName=name,
        MinSize=minimum,
        MaxSize=maximum,
        DesiredCapacity=desired,
        AvailabilityZones=["us-east-1a"],
        Tags=[{"Key": key, "Value": value, "PropagateAtLaunch": True} for key, value in tags.items()],
    )
    return name
