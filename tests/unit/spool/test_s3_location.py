"""`--spool s3://`: what it names, and what is refused with the remedy."""

from __future__ import annotations

import pytest

from longshore.server.config.settings import SettingsError
from longshore.server.config.spool_url import S3Location, s3_location


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("s3://bucket", S3Location(bucket="bucket")),
        ("s3://bucket/", S3Location(bucket="bucket")),
        ("s3://my.bucket-1/a/b/", S3Location(bucket="my.bucket-1", prefix="a/b")),
        ("s3://bucket/p?region=eu-west-1", S3Location(bucket="bucket", prefix="p", region="eu-west-1")),
        (
            "s3://bucket/p?endpoint=https://minio.example.org:9000&region=x",
            S3Location(bucket="bucket", prefix="p", endpoint="https://minio.example.org:9000", region="x"),
        ),
        (
            "s3://bucket?endpoint=http://127.0.0.1:9",
            S3Location(bucket="bucket", endpoint="http://127.0.0.1:9", plain=True),
        ),
        ("s3://bucket?endpoint=http://localhost", S3Location(bucket="bucket", endpoint="http://localhost", plain=True)),
    ],
)
def test_parts_of_a_spool_url(url: str, location: S3Location) -> None:
    assert s3_location(url, {}) == location


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://", "s3://BUCKET/PREFIX"),
        ("s3:///prefix", "s3://BUCKET/PREFIX"),
        ("s3://Bucket", "s3://BUCKET/PREFIX"),
        ("s3://bucket/a//b", "s3://BUCKET/PREFIX"),
        ("s3://bucket/../b", "s3://BUCKET/PREFIX"),
        ("s3://bucket/a b", "s3://BUCKET/PREFIX"),
        ("s3://bucket?key=x", "there is no key"),
        ("s3://bucket?endpoint=minio:9000", "https://HOST"),
        ("s3://bucket?endpoint=http://minio.example.org", "AWS_ALLOW_HTTP"),
        ("s3://bucket?endpoint=http://10.0.0.1:9000", "AWS_ALLOW_HTTP"),
    ],
)
def test_wrong_urls_are_refused(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match="--spool") as refusal:
        s3_location(url, {})
    assert said in str(refusal.value)


def test_a_secret_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(SettingsError, match="AWS_SECRET_ACCESS_KEY") as refusal:
        s3_location("s3://AKIA:hush@bucket/prefix", {})
    assert "hush" not in str(refusal.value)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"])
def test_the_environments_endpoint_is_held_to_the_same(name: str) -> None:
    assert s3_location("s3://bucket", {name: "http://127.0.0.1:9"}).plain
    assert not s3_location("s3://bucket", {name: "https://example.org"}).plain
    with pytest.raises(SettingsError, match="AWS_ALLOW_HTTP"):
        s3_location("s3://bucket", {name: "http://example.org"})
    assert s3_location("s3://bucket", {name: "http://example.org", "AWS_ALLOW_HTTP": "true"}).plain
