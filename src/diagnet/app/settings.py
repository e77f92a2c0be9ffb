"""Where the server listens, and what it takes from a client."""

import ipaddress
import stat
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, SecretStr

from diagnet.errors import SettingsError

_MIN_TOKEN = 16  # characters


class ServerSettings(BaseModel, frozen=True, extra="forbid"):
    """Limits are for one client address; the defaults let a page and a load test through, and little more."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535)
    token: SecretStr | None = Field(None, description="What a client must show; required off the loopback.")
    allow_unlike: bool = Field(False, description="Score regions that are far from all training masses, flagged.")
    max_upload_mb: int = Field(128, ge=1, le=512, description="Of one image file.")
    max_body_kb: int = Field(256, ge=1, description="Of a request without a file.")
    max_images: int = Field(64, ge=1, description="Uploaded images held at a time.")
    keep_hours: float = Field(12.0, gt=0, description="After which an uploaded image that nobody asked for is removed.")
    max_boxes: int = Field(50, ge=1, description="Masses marked in one request.")
    max_waiting: int = Field(500, ge=1, description="Requests that wait for the model.")
    requests_per_second: float = Field(50.0, gt=0, description="Sustained.")
    burst: int = Field(500, ge=1, description="Requests at once.")
    wrong_tokens_per_minute: int = Field(10, ge=1, description="After which an address must wait to send others.")
    max_connections: int = Field(512, ge=1, description="At a time; the one silent for longest goes for a newcomer.")
    max_silent: int = Field(256, ge=1, description="Connections of one address that have asked for nothing yet.")
    head_s: float = Field(10.0, gt=0, description="Until the head of a request is there.")
    silence_s: float = Field(10.0, gt=0, description="Between two parts of a body, and before its speed counts.")
    min_bytes_per_second: float = Field(16384.0, gt=0, description="Of a body, on average.")
    body_s: float = Field(900.0, gt=0, description="Until a body is there.")
    unread_s: float = Field(20.0, gt=0, description="In which a client takes nothing of its answer.")
    answer_s: float = Field(600.0, gt=0, description="For an answer that a client takes slowly.")
    max_uploads_mb: int = Field(1024, ge=1, description="Of all files under way at a time.")
    audit_mb: float = Field(100.0, gt=0, description="Of the audit log, all its files together.")

    @property
    def is_loopback(self) -> bool:
        """Whether this machine alone can reach the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Tell whether a host's name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def server_settings(host: str, port: int, token_file: Path | None, **others: Any) -> ServerSettings:
    """Settings for an address; one that others reach needs a token.

    Raises:
        SettingsError: there is no token where one is needed, or its file is too open, or the token too short.
    """
    if token_file is None:
        if not is_loopback(host):
            raise SettingsError(
                f"`--host` must be this machine's own address unless a token is given, got {host}."
                " Fix: --token-file FILE, a file with a long random line that its owner alone can read."
            )
        return ServerSettings(host=host, port=port, **others)
    return ServerSettings(host=host, port=port, token=read_token(token_file), **others)


def read_token(token_file: Path, option: str = "--token-file") -> SecretStr:
    """Read a token from a file.

    Raises:
        SettingsError: the file is too open, or the token too short.
    """
    try:
        mode, token = token_file.stat().st_mode, token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise SettingsError(f"`{option}` must be a text file that can be read, got {token_file}.") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SettingsError(
            f"`{option}` must be readable by its owner alone, got mode {stat.S_IMODE(mode):o} in {token_file}."
            f" Fix: chmod 600 {token_file}"
        )
    if len(token) < _MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(
            f"`{option}` must hold one line of at least {_MIN_TOKEN} ASCII letters without blanks, got another in"
            f" {token_file}. Fix: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return SecretStr(token)
