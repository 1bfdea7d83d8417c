"""The settings of client keys."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from gateway.config.secrets import Secret
from gateway.config.sections import Name, Section, kind
from gateway.core.admission import Rate


class ClientKeyConfig(Section, frozen=True, kw_only=True):
    """A client's key, and what its owner may send. Without any entry no key is asked for."""

    name: Annotated[
        Name,
        Meta(
            description="The owner, in logs and metrics. Entries of one name share their limits and have the "
            "same ones: so an old and a new key may overlap."
        ),
    ]
    sha256_in_place: Annotated[
        Secret | None,
        kind("key_digest", "SHA-256 of the key in hexadecimal digits: `printf %s KEY | sha256sum`."),
    ] = field(default=None, name="sha256")
    sha256_from_file: Annotated[
        Secret | None, kind("key_digest_file", "File with it, in place of `sha256`.")
    ] = field(default=None, name="sha256_file")
    models: Annotated[
        tuple[Annotated[str, Meta(extra={"kind": "model_pattern"})], ...],
        Meta(
            min_length=1,
            description="Models that may be asked for: names, and patterns with `*`; default: any.",
            extra={"unique": True},
        ),
    ] = ()
    rate: Annotated[
        Rate | None,
        kind(
            "rate",
            "Requests in a time, such as `50/s`, `600/m` or `10000/h`; as many may come at once. "
            "Each gateway takes its part of it, at least one.",
        ),
    ] = None
    max_in_flight: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=1_000_000,
                description="Requests in flight at once. Each gateway takes its part of it, at least one.",
            ),
        ]
        | None
    ) = None

    residency: Annotated[
        tuple[Name, ...],
        Meta(
            min_length=1,
            description="Requests go only to clusters that have one of these in their `residency`; default: "
            "to any.",
            extra={"unique": True},
        ),
    ] = ()

    @property
    def sha256(self) -> Secret | None:
        """The digest, whichever way it was given."""
        return self.sha256_in_place or self.sha256_from_file
