"""The table of costs follows the template: what its conditions make, with the parameters that are given."""

from pathlib import Path

import pytest

from deploy.aws.cost import Line, cost_table, monthly, node_hours
from deploy.aws.template import Template
from services.engine.prices import list_prices
from tests.aws.roles import TEMPLATES

GRID = """
Parameters:
  Public: {Type: String, Default: "false"}
  Class: {Type: String, Default: db.t4g.small}
  Zones: {Type: String, Default: "false"}
  Certificate: {Type: String, Default: ""}
Conditions:
  Balanced: !Not [!Equals [!Ref Certificate, ""]]
Resources:
  Database:
    Type: AWS::RDS::DBInstance
    Properties: {DBInstanceClass: !Ref Class, AllocatedStorage: 20, MultiAZ: !Ref Zones}
  Control:
    Type: AWS::AutoScaling::AutoScalingGroup
    Properties: {MinSize: "1", TargetGroupARNs: !If [Balanced, [!Ref Targets], !Ref AWS::NoValue]}
  Launch:
    Type: AWS::EC2::LaunchTemplate
    Properties:
      LaunchTemplateData:
        InstanceType: t4g.small
        NetworkInterfaces: [{AssociatePublicIpAddress: !Ref Public}]
        BlockDeviceMappings: [{Ebs: {VolumeSize: 20}}]
  Balancer:
    Type: AWS::ElasticLoadBalancingV2::LoadBalancer
    Condition: Balanced
    Properties: {Scheme: internet-facing}
  OneSecret: {Type: AWS::SecretsManager::Secret}
  OtherSecret: {Type: AWS::SecretsManager::Secret}
  Role: {Type: AWS::IAM::Role}
"""
POOL = """
Parameters:
  Pool: {Type: String, Default: default}
  InstanceTypes: {Type: CommaDelimitedList, Default: "m7g.large,x9.huge"}
  RootGb: {Type: Number, Default: 73}
Resources:
  Group:
    Type: AWS::AutoScaling::AutoScalingGroup
    Properties: {MinSize: "0"}
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return path


@pytest.fixture
def pool(tmp_path: Path) -> Template:
    path = tmp_path / "pool.yaml"
    path.write_text(POOL)
    return Template(path)


def lines(path: Path, **given: str) -> dict[str, float | None]:
    found = monthly(Template(path, given), list_prices())
    return {line.what: None if line.dollars is None else round(line.dollars, 2) for line in found}


def test_a_grid_without_a_certificate(grid: Path) -> None:
    assert lines(grid) == {
        "Database: db.t4g.small in one zone": 23.36,
        "Database: 20 GB of disk": 2.3,
        "Control: 1 t4g.small": 12.26,
        "Control: 20 GB of disk": 1.6,
        "2 secrets": 0.8,
    }


def test_what_parameters_add(grid: Path) -> None:
    found = lines(grid, Public="true", Zones="true", Certificate="arn:aws:acm:a")
    assert found["Database: db.t4g.small in two zones"] == 46.72
    assert found["Database: 20 GB of disk"] == 4.6
    assert found["Control: public address"] == 3.65
    assert (found["Balancer: load balancer"], found["Balancer: 2 public addresses"]) == (16.43, 7.3)


def test_an_unknown_price_is_not_nothing(grid: Path, pool: Template) -> None:
    assert lines(grid, Class="db.x9.huge")["Database: db.x9.huge in one zone"] is None
    assert list(node_hours(pool, list_prices())) == [
        Line("default: m7g.large On-Demand", pytest.approx(0.0816 + 0.008)),
        Line("default: x9.huge On-Demand", None),
    ]
    table = cost_table(None, Template(grid, {"Class": "db.x9.huge"}), [pool])
    assert "16.96, and what 1 of them cost, which is unknown" in table
    assert len([line for line in table.splitlines() if line.endswith("  unknown")]) == 2


def test_a_kind_of_resource_that_is_not_known_is_said_to_be_unknown(grid: Path) -> None:
    grid.write_text(GRID.replace("AWS::IAM::Role", "AWS::Redshift::Cluster"))
    assert lines(grid)["Role (AWS::Redshift::Cluster)"] is None


def test_endpoints_cost_by_the_zone() -> None:
    network = Template(TEMPLATES / "network.yaml", {"Egress": "endpoints"})
    found = {line.what: line.dollars for line in monthly(network, list_prices())}
    assert len(found) == 10 and {round(dollars or 0, 2) for dollars in found.values()} == {7.3}
    assert "S3: endpoint" not in found, "that of S3 is free"


def test_a_parameter_that_does_not_exist_is_refused(grid: Path) -> None:
    with pytest.raises(ValueError, match=r"grid.yaml has no parameters \['Klass'\]; it has"):
        Template(grid, {"Klass": "db.t4g.micro"})


def test_pools_cost_nothing_while_they_have_no_nodes(pool: Template) -> None:
    assert list(monthly(pool, list_prices())) == []


def test_each_resource_of_the_templates_has_a_price_or_none() -> None:
    network, grid, pool = (Template(TEMPLATES / f"{name}.yaml") for name in ("network", "grid", "pool"))
    found = [line for template in (network, grid, pool) for line in monthly(template, list_prices())]
    assert [line.what for line in found if line.dollars is None] == []
    assert all(line.dollars is not None for line in node_hours(pool, list_prices()))
