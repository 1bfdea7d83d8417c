"""One reader per kind of value: from the text in the file to the value of the schema, or BadValue."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from os.path import dirname, isdir
from pathlib import Path
from typing import NamedTuple, cast

from gateway.config.addresses import (
    check_state_url,
    parse_address,
    parse_backend_url,
    parse_dns_name,
    parse_host,
    parse_network,
    parse_plain_path,
    parse_port_of_slice,
    parse_request_path,
    parse_url_prefix,
)
from gateway.config.files import MAX_FILE_BYTES, FileContent, Stamps, content_of, stamp_of
from gateway.config.problems import BadValue
from gateway.config.secrets import Secret
from gateway.config.units import (
    AT_P95,
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
)
from gateway.core.admission import Rate

MAX_SECRET_BYTES = 65_536
_VARIABLE = re.compile(r"\$(?P<escape>\$\{)|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|)", re.ASCII)
_QUOTED = re.compile(r"(?<=')[^']{4,}(?=')")
_ESCAPE = "write ${NAME} for a variable, $${ for a plain ${"
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})", re.ASCII)
_DECIMAL = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?", re.ASCII)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
# They frame the message or belong to one connection: the data plane writes them itself.
_FRAMING_HEADERS = frozenset(
    (
        *("connection", "content-encoding", "content-length", "content-type", "expect", "host", "keep-alive"),
        *("proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    )
)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_DIGEST_OF_NOTHING = hashlib.sha256(b"").hexdigest()
_HOW_TO_HASH = "run: printf %s KEY | sha256sum"
_TRUE = frozenset(("true", "yes", "on"))
_FALSE = frozenset(("false", "no", "off"))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a value may refer to: files relative to `base_dir`, variables of `environment`.

    `files` collects those that were named, whether they could be read or not, as of before they were read.
    """

    base_dir: Path
    environment: Mapping[str, str]
    files: Stamps = field(default_factory=dict)

    def read(self, scalar: Scalar, max_bytes: int) -> tuple[Path, bytes]:
        """The path and the content of the file that `scalar` names. Raises BadValue."""
        path = (self.base_dir / read_text(scalar, self)).absolute()
        self.files[path] = stamp_of(path)
        return path, _read_bytes(path, scalar, max_bytes)


class Scalar(NamedTuple):
    """A value's text after `${NAME}` is filled in, and as it is written in the file."""

    text: str
    written: str
    is_quoted: bool = False
    filled: tuple[tuple[str, str], ...] = ()

    @property
    def shown(self) -> str:
        """For messages: as written, so that nothing from the environment is shown."""
        return ascii(self.written if len(self.written) <= 60 else self.written[:57] + "...")

    @property
    def bare(self) -> str:
        """The same without quotes, for what should have been a number."""
        return self.shown[1:-1]

    def without_filled(self, message: str) -> str:
        """A message in which `${NAME}` stands again where the variable's value, or a part of it, would show.

        Values below four characters are ports and counts: no secrets, and part of many words.
        """
        for name, value in self.filled:
            if len(value) >= 4:
                message = message.replace(value, f"${{{name}}}")
                for part in _QUOTED.findall(message):
                    message = message.replace(part, f"${{{name}}}") if part in value else message
        return message


def fill_in(written: str, is_quoted: bool, environment: Mapping[str, str]) -> Scalar:
    """Replaces each `${NAME}`; `$${` stays as `${`. Raises BadValue naming a variable that is not set."""
    filled: list[tuple[str, str]] = []

    def value_of(match: re.Match[str]) -> str:
        if match["escape"]:
            return "${"
        name, value = match["name"], environment.get(match["name"] or "")
        if name is None:
            raise BadValue("holds a ${ that names no variable", _ESCAPE)
        if value is None:
            raise BadValue(f"environment variable {name} is not set", f"set it; {_ESCAPE}")
        filled.append((name, value))
        return value

    text = _VARIABLE.sub(value_of, written)
    # Inside { } YAML needs quotes around ${NAME}: there they do not make a text of a number.
    return Scalar(text, written, is_quoted and not filled, tuple(filled))


def read_text(scalar: Scalar, around: Surroundings) -> str:
    if not scalar.text.strip():
        raise BadValue("must not be empty")
    if not scalar.text.isprintable():
        raise BadValue("holds a control character or one that cannot be shown", "remove it")
    return scalar.text


def read_integer(scalar: Scalar, around: Surroundings) -> int:
    _refuse_quotes(scalar, "a whole number", _WHOLE)
    if _WHOLE.fullmatch(scalar.text) is None:
        raise BadValue(f"must be a whole number, not {scalar.bare}", _whole_fix(scalar.text))
    return int(scalar.text)


def read_number(scalar: Scalar, around: Surroundings) -> float:
    _refuse_quotes(scalar, "a number", _DECIMAL)
    if _DECIMAL.fullmatch(scalar.text) is None or not isfinite(number := float(scalar.text)):
        raise BadValue(f"must be a number, not {scalar.bare}")
    return number


def read_boolean(scalar: Scalar, around: Surroundings) -> bool:
    _refuse_quotes(scalar, "true or false", re.compile("|".join(_TRUE | _FALSE), re.IGNORECASE))
    word = scalar.text.lower()
    if word not in _TRUE | _FALSE:
        raise BadValue(f"must be true or false, not {scalar.bare}")
    return word in _TRUE


def read_file(scalar: Scalar, around: Surroundings) -> FileContent:
    """A file that can be read now."""
    return content_of(*around.read(scalar, MAX_FILE_BYTES))


def read_live_file(scalar: Scalar, around: Surroundings) -> Path:
    """The path of a file that can be read now, and whose content is no part of the configuration."""
    path = (around.base_dir / read_text(scalar, around)).absolute()
    _read_bytes(path, scalar, 1)
    return path


def read_secret_file(scalar: Scalar, around: Surroundings) -> Secret:
    """A file's content, without the line break that editors leave at its end."""
    _, content = around.read(scalar, MAX_SECRET_BYTES + 1)
    if len(content) > MAX_SECRET_BYTES:
        raise BadValue(f"file {scalar.shown} is too large for a secret")
    text = content.decode("latin-1").removesuffix("\n").removesuffix("\r")
    try:
        return Secret(text)
    except BadValue as exc:
        raise BadValue(f"file {scalar.shown} {exc.message}", exc.fix) from None


def read_key_digest(scalar: Scalar, around: Surroundings) -> Secret:
    """The SHA-256 of a client key. No message shows it: it may be the key itself that was pasted."""
    digest = scalar.text.strip().lower()
    if _DIGEST.fullmatch(digest) is None:
        raise BadValue("must be the SHA-256 of the key, 64 hexadecimal digits", _HOW_TO_HASH)
    if digest == _DIGEST_OF_NOTHING:
        raise BadValue("is the SHA-256 of nothing", _HOW_TO_HASH)
    return Secret(digest)


def read_key_digest_file(scalar: Scalar, around: Surroundings) -> Secret:
    """As `sha256sum` writes it: what stands behind the digest is the name of a file."""
    _, content = around.read(scalar, MAX_SECRET_BYTES)
    digest = content.decode("latin-1").split(maxsplit=1)[:1]
    try:
        return read_key_digest(Scalar("".join(digest), ""), around)
    except BadValue as exc:
        raise BadValue(f"file {scalar.shown} {exc.message}", exc.fix) from None


def read_state_url(scalar: Scalar, around: Surroundings) -> Secret:
    """Where leases are shared. No message shows any of it."""
    secret = Secret(scalar.text)
    check_state_url(scalar.text)
    return secret


def read_state_url_file(scalar: Scalar, around: Surroundings) -> Secret:
    secret = read_secret_file(scalar, around)
    try:
        check_state_url(secret.reveal())
    except BadValue as exc:
        raise BadValue(f"file {scalar.shown} {exc.message}", exc.fix) from None
    return secret


def read_header_name(scalar: Scalar, around: Surroundings) -> str:
    name = read_text(scalar, around)
    if _HEADER_NAME.fullmatch(name) is None:
        raise BadValue(f"must be a header name, not {scalar.bare}")
    if name.lower() in _FRAMING_HEADERS:
        raise BadValue(f"must not be {name}", "the gateway writes that header itself")
    return name


def read_access_log(scalar: Scalar, around: Surroundings) -> str:
    """`-`, `off`, or the absolute path of a file whose directory exists."""
    text = read_text(scalar, around)
    if text in ("-", "off"):
        return text
    if text.lower() in _TRUE | _FALSE | {"none", "stdout", "stderr"}:
        fix = "-" if text.lower() in _TRUE | {"stdout", "stderr"} else "off"
        raise BadValue(f"must be '-', 'off' or a file, not {scalar.bare}", f"did you mean '{fix}'?")
    path = str((around.base_dir / text).absolute())
    if isdir(path):
        raise BadValue(f"file {scalar.shown} is a directory")
    if not isdir(dirname(path)):
        raise BadValue(f"file {scalar.shown} is in a directory that does not exist")
    return path


def read_model_pattern(scalar: Scalar, around: Surroundings) -> str:
    name = read_text(scalar, around)
    if "*" in name and any(character in name for character in "?[]"):
        raise BadValue(f"pattern {scalar.shown} holds '?', '[' or ']'", "only '*' is a wildcard")
    return name


def read_model_name(scalar: Scalar, around: Surroundings) -> str:
    name = read_text(scalar, around)
    if "*" in name:
        raise BadValue(f"must be one model, not the pattern {scalar.shown}")
    return name


def read_hedge_after(scalar: Scalar, around: Surroundings) -> float:
    """A duration, or `p95` as AT_P95."""
    text = read_text(scalar, around)
    if text == "p95":
        return AT_P95
    try:
        after_s = parse_duration(text)
    except BadValue as exc:
        raise BadValue(f"must be p95 or a duration, not {scalar.bare}", exc.fix) from None
    if after_s < 0.001:
        raise BadValue(f"must be p95 or at least 1ms, not {scalar.bare}")
    return after_s


Reader = Callable[[Scalar, Surroundings], object]

READERS: dict[str, Reader] = {
    "text": read_text,
    "integer": read_integer,
    "number": read_number,
    "boolean": read_boolean,
    "duration": lambda scalar, around: parse_duration(read_text(scalar, around)),
    "size": lambda scalar, around: parse_size(read_text(scalar, around)),
    "rate": lambda scalar, around: parse_rate(read_text(scalar, around)),
    "address": lambda scalar, around: parse_address(read_text(scalar, around)),
    "backend_url": lambda scalar, around: parse_backend_url(read_text(scalar, around)),
    "host": lambda scalar, around: parse_host(read_text(scalar, around)),
    "request_path": lambda scalar, around: parse_request_path(read_text(scalar, around)),
    "plain_path": lambda scalar, around: parse_plain_path(read_text(scalar, around)),
    "dns_name": lambda scalar, around: parse_dns_name(read_text(scalar, around)),
    "network": lambda scalar, around: parse_network(read_text(scalar, around)),
    "port_of_slice": lambda scalar, around: parse_port_of_slice(read_text(scalar, around)),
    "url_prefix": lambda scalar, around: parse_url_prefix(read_text(scalar, around)),
    "header_name": read_header_name,
    "hedge_after": read_hedge_after,
    "secret": lambda scalar, around: Secret(scalar.text),
    "file": read_file,
    "live_file": read_live_file,
    "secret_file": read_secret_file,
    "key_digest": read_key_digest,
    "key_digest_file": read_key_digest_file,
    "state_url": read_state_url,
    "state_url_file": read_state_url_file,
    "access_log": read_access_log,
    "model_pattern": read_model_pattern,
    "model_name": read_model_name,
}


def show_value(kind: str, value: object) -> str:
    """A value as one would write it in the file: the inverse of its reader."""
    if kind == "hedge_after" and value == AT_P95:
        return "p95"
    if kind in ("duration", "hedge_after"):
        return format_duration(cast(float, value))
    if kind == "size":
        return format_size(cast(int, value))
    if kind == "rate":
        return format_rate(cast(Rate, value))
    if kind == "boolean":
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _refuse_quotes(scalar: Scalar, wanted: str, form: re.Pattern[str]) -> None:
    if scalar.is_quoted:
        fix = "remove the quotes" if form.fullmatch(scalar.text) else ""
        raise BadValue(f"must be {wanted}, not the text {scalar.shown}", fix)


def _whole_fix(text: str) -> str:
    """`8.0`, `1e3`, `010` and `1_000` look whole to people."""
    plain = text.replace("_", "")
    if _DECIMAL.fullmatch(plain) and abs(number := float(plain)) < 1e15 and number == int(number):
        return f"did you mean {int(number)}?"
    return ""


def _read_bytes(path: Path, scalar: Scalar, count: int) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise BadValue(f"{scalar.shown} is not a file")
        with path.open("rb") as file:
            return file.read(count)
    except OSError as exc:
        reason = "does not exist" if isinstance(exc, FileNotFoundError) else f"cannot be read: {exc.strerror}"
        raise BadValue(
            f"file {scalar.shown} {reason}", "paths are relative to the configuration file"
        ) from None
