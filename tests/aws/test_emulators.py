"""What the tests of this folder rest on."""

import json

from deploy.local.emulator import Emulator
from tests.aws.conftest import client_of


def test_an_emulator_makes_a_stack_and_removes_it(cloud: Emulator) -> None:
    client = client_of(cloud)
    template = {"Resources": {"Queue": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "made-by-a-stack"}}}}

    client("cloudformation").create_stack(StackName="small", TemplateBody=json.dumps(template))

    assert client("sqs").list_queues(QueueNamePrefix="made-by-a-stack").get("QueueUrls")
    client("cloudformation").delete_stack(StackName="small")
    assert not client("sqs").list_queues(QueueNamePrefix="made-by-a-stack").get("QueueUrls")
