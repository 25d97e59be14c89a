"""An S3 address: s3://bucket/prefix, and what says which server is meant, as Arrow writes it."""

from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from selfstudy_engine.data.errors import UsageError, shown

_KEYS = {"endpoint_override", "scheme", "region"}


@dataclass(frozen=True, slots=True)
class RemoteAddress:
    """Where in S3; what is None comes from AWS's environment variables."""

    bucket: str
    prefix: str
    """Without slashes around it; may be empty."""
    endpoint: str | None = None
    """URL of the server."""
    region: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read s3://BUCKET/PREFIX?endpoint_override=HOST:PORT&scheme=http&region=REGION.

        >>> RemoteAddress.parse("s3://bucket/runs/?endpoint_override=127.0.0.1:9000&scheme=http")
        RemoteAddress(bucket='bucket', prefix='runs', endpoint='http://127.0.0.1:9000', region=None)

        Raises:
            UsageError: it is none, or holds a key.
        """
        parts = urlsplit(text)
        if "@" in parts.netloc:  # not shown: it may be a secret
            raise UsageError(
                "a remote is written into files: leave the key out of its address, and set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if parts.scheme != "s3" or not parts.netloc or parts.fragment:
            raise UsageError(f"remote {shown(text)} isn't an S3 address such as s3://bucket/runs")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = sorted(options.keys() - _KEYS)
        if unknown:
            raise UsageError(
                f"remote {shown(text)}: unknown option {shown(unknown[0])}; known are "
                + ", ".join(sorted(_KEYS))
            )
        endpoint = options.get("endpoint_override")
        if endpoint and "://" not in endpoint:
            endpoint = f"{options.get('scheme', 'https')}://{endpoint}"
        return cls(parts.netloc, parts.path.strip("/"), endpoint, options.get("region"))

    def __truediv__(self, name: str) -> "RemoteAddress":
        """Return what lies below."""
        prefix = f"{self.prefix}/{name}".lstrip("/")
        return RemoteAddress(self.bucket, prefix, self.endpoint, self.region)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"
