"""The emulator: the Auto Scaling actions that we add to it, and what it keeps over a restart."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from botocore.exceptions import ClientError

from deploy.local.emulator import Emulator
from services.platform.aws import Aws, connect_aws
from services.platform.settings import Settings
from tests.conftest import free_port


@pytest.fixture
async def group(aws: Aws) -> AsyncIterator[str]:
    """A group of one to three instances, two of them there."""
    name = f"piecework-{uuid4().hex}"
    await aws.autoscaling.create_auto_scaling_group(
        AutoScalingGroupName=name, MinSize=1, MaxSize=3, DesiredCapacity=2, AvailabilityZones=["us-east-1a"]
    )
    yield name
    await aws.autoscaling.delete_auto_scaling_group(AutoScalingGroupName=name, ForceDelete=True)


async def describe(aws: Aws, name: str) -> tuple[int, list[str]]:
    """The desired capacity of a group, and the ids of its instances."""
    answer = await aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])
    [group] = answer["AutoScalingGroups"]
    return group["DesiredCapacity"], [instance["InstanceId"] for instance in group["Instances"]]


async def test_terminating_with_decrement_takes_the_instance_out(aws: Aws, group: str) -> None:
    _, [first, second] = await describe(aws, group)

    answer = await aws.autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=first, ShouldDecrementDesiredCapacity=True
    )

    assert await describe(aws, group) == (1, [second])
    activity = answer["Activity"]
    assert activity["AutoScalingGroupName"] == group
    assert activity["Description"] == f"Terminating EC2 instance: {first}"
    assert activity["Cause"].endswith("shrinking the capacity from 2 to 1.")
    assert activity["StatusCode"] == "InProgress"


async def test_an_unhealthy_instance_is_replaced(aws: Aws, group: str) -> None:
    _, [first, second] = await describe(aws, group)
    await aws.autoscaling.set_instance_health(InstanceId=first, HealthStatus="Unhealthy")
    desired, instances = await describe(aws, group)
    assert desired == len(instances) == 2 and first not in instances and second in instances


async def test_a_terminating_hook_waits_for_its_completion_which_comes_once(aws: Aws, group: str) -> None:
    _, [first, _] = await describe(aws, group)
    hook = {"LifecycleHookName": "drain", "AutoScalingGroupName": group}
    await aws.autoscaling.put_lifecycle_hook(
        **hook, LifecycleTransition="autoscaling:EC2_INSTANCE_TERMINATING", HeartbeatTimeout=30
    )
    action = hook | {"InstanceId": first}
    with pytest.raises(ClientError, match="No active Lifecycle Action"):
        await aws.autoscaling.record_lifecycle_action_heartbeat(**action)
    await aws.autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=first, ShouldDecrementDesiredCapacity=True
    )
    await aws.autoscaling.record_lifecycle_action_heartbeat(**action)
    await aws.autoscaling.complete_lifecycle_action(**action, LifecycleActionResult="CONTINUE")
    with pytest.raises(ClientError, match="No active Lifecycle Action"):
        await aws.autoscaling.complete_lifecycle_action(**action, LifecycleActionResult="CONTINUE")


async def test_terminating_without_decrement_puts_another_in_its_place(aws: Aws, group: str) -> None:
    _, [first, second] = await describe(aws, group)

    await aws.autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=first, ShouldDecrementDesiredCapacity=False
    )

    desired, instances = await describe(aws, group)
    assert desired == 2
    assert len(instances) == 2
    assert second in instances
    assert first not in instances


async def test_decrement_below_the_minimum_is_refused(aws: Aws, group: str) -> None:
    _, [first, second] = await describe(aws, group)
    await aws.autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=first, ShouldDecrementDesiredCapacity=True
    )

    with pytest.raises(ClientError, match=r"desiredSize equals minSize \(1\)"):
        await aws.autoscaling.terminate_instance_in_auto_scaling_group(
            InstanceId=second, ShouldDecrementDesiredCapacity=True
        )

    assert await describe(aws, group) == (1, [second])


async def test_an_unknown_instance_is_refused(aws: Aws) -> None:
    with pytest.raises(ClientError, match="No managed instance found for instance ID: i-<none>") as refused:
        await aws.autoscaling.terminate_instance_in_auto_scaling_group(
            InstanceId="i-<none>", ShouldDecrementDesiredCapacity=True
        )
    assert refused.value.response["Error"]["Code"] == "ValidationError"


async def test_a_stop_keeps_queues_messages_objects_and_groups(tmp_path: Path) -> None:
    emulator = Emulator(free_port(), state=tmp_path)
    settings = Settings(aws_endpoint_url=emulator.url)
    emulator.start()
    async with connect_aws(settings) as aws:
        await aws.s3.create_bucket(Bucket="kept")
        await aws.s3.put_object(Bucket="kept", Key="uploads/1/data.csv", Body=b"a,b\n")
        queue_url = (await aws.sqs.create_queue(QueueName="kept"))["QueueUrl"]
        await aws.sqs.send_message(QueueUrl=queue_url, MessageBody="ring")
        await aws.autoscaling.create_auto_scaling_group(
            AutoScalingGroupName="kept", MinSize=0, MaxSize=2, DesiredCapacity=2, AvailabilityZones=["us-east-1a"]
        )
        before = await describe(aws, "kept")
    emulator.stop()

    emulator.start()
    try:
        async with connect_aws(settings) as aws:
            found = await aws.s3.get_object(Bucket="kept", Key="uploads/1/data.csv")
            assert await found["Body"].read() == b"a,b\n"
            [message] = (await aws.sqs.receive_message(QueueUrl=queue_url))["Messages"]
            assert message["Body"] == "ring"
            assert await describe(aws, "kept") == before
    finally:
        emulator.stop()


async def test_a_range_is_read_without_the_rest_of_its_object(tmp_path: Path) -> None:
    emulator = Emulator(free_port(), state=tmp_path)
    emulator.start()
    content = os.urandom(8_000_000)
    try:
        async with connect_aws(Settings(aws_endpoint_url=emulator.url)) as aws:
            await aws.s3.create_bucket(Bucket="raw")
            await aws.s3.put_object(Bucket="raw", Key="raw", Body=content)
            upload = (await aws.s3.create_multipart_upload(Bucket="raw", Key="copy"))["UploadId"]
            place = {"Bucket": "raw", "Key": "copy", "UploadId": upload}
            read = psutil.Process(emulator.process.pid).io_counters().read_chars

            found = await aws.s3.get_object(Bucket="raw", Key="raw", Range="bytes=5000000-5000009")
            copied = await aws.s3.upload_part_copy(
                **place, PartNumber=1, CopySource={"Bucket": "raw", "Key": "raw"}, CopySourceRange="bytes=100-199"
            )
            read = psutil.Process(emulator.process.pid).io_counters().read_chars - read

            assert await found["Body"].read() == content[5_000_000:5_000_010]
            part = {"PartNumber": 1, "ETag": copied["CopyPartResult"]["ETag"]}
            await aws.s3.complete_multipart_upload(**place, MultipartUpload={"Parts": [part]})
            assert await (await aws.s3.get_object(Bucket="raw", Key="copy"))["Body"].read() == content[100:200]
            assert await (await aws.s3.get_object(Bucket="raw", Key="raw"))["Body"].read() == content
            assert read < 1_000_000
    finally:
        emulator.stop()


async def test_a_kill_keeps_the_objects(tmp_path: Path) -> None:
    emulator = Emulator(free_port(), state=tmp_path)
    settings = Settings(aws_endpoint_url=emulator.url)
    emulator.start()
    async with connect_aws(settings) as aws:
        await aws.s3.create_bucket(Bucket="kept")
        await aws.s3.put_object(Bucket="kept", Key="jobs/1/result", Body=b"42")
    emulator.process.kill()
    emulator.process.wait()

    emulator.start()
    try:
        async with connect_aws(settings) as aws:
            found = await aws.s3.get_object(Bucket="kept", Key="jobs/1/result")
            assert await found["Body"].read() == b"42"
    finally:
        emulator.stop()
