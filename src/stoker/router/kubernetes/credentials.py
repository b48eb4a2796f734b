"""What shows the API server who asks. Tokens expire, so they are asked for at every request."""

from __future__ import annotations

import asyncio
import json
import os
from abc import ABC, abstractmethod
from datetime import datetime
from pathlib import Path
from typing import Any

from stoker.router.kubernetes.errors import ApiAway

_EXEC_TIMEOUT_S = 30.0


class Credentials(ABC):
    @abstractmethod
    async def authorization(self) -> str | None:
        """The Authorization field. Raises `ApiAway` when there is none to be had now."""

    def refused(self) -> None:  # noqa: B027
        """The server did not accept it: do not use the same again."""


class NoCredentials(Credentials):
    """For a server that asks for none, or goes by the client's certificate."""

    async def authorization(self) -> str | None:
        return None


class StaticHeader(Credentials):
    def __init__(self, value: str) -> None:
        self._value = value

    async def authorization(self) -> str | None:
        return self._value


class TokenFile(Credentials):
    """A token in a file that somebody renews, as the kubelet does for a pod's."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def authorization(self) -> str | None:
        try:
            token = await asyncio.to_thread(self._path.read_text, encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise ApiAway(f"the token in {self._path} cannot be read ({error})") from error
        return f"Bearer {token.strip()}"


class ExecToken(Credentials):
    """A token printed by a program, as clouds' own tools do (client.authentication.k8s.io)."""

    def __init__(self, command: list[str], environment: dict[str, str], version: str) -> None:
        self._command = command
        self._environment = environment
        self._version = version
        self._token: str | None = None
        self._expires: datetime | None = None

    @classmethod
    def from_kubeconfig(cls, section: dict[str, Any], directory: Path) -> ExecToken:
        """From a user's `exec` section."""
        program = str(section["command"])
        if "/" in program:
            program = str(directory / program)
        environment = {entry["name"]: entry["value"] for entry in section.get("env") or []}
        return cls([program, *(section.get("args") or [])], environment, section["apiVersion"])

    async def authorization(self) -> str | None:
        expired = self._expires is not None and datetime.now(self._expires.tzinfo) >= self._expires
        if self._token is None or expired:
            await self._run()
        return f"Bearer {self._token}"

    def refused(self) -> None:
        self._token = None

    async def _run(self) -> None:
        info = {"apiVersion": self._version, "kind": "ExecCredential", "spec": {}}
        environment = os.environ | self._environment
        environment["KUBERNETES_EXEC_INFO"] = json.dumps(info)
        process = None
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
            )
            async with asyncio.timeout(_EXEC_TIMEOUT_S):
                output, complaint = await process.communicate()
            if process.returncode:
                text = complaint.decode("utf-8", "replace").strip()[-200:]
                raise ValueError(f"it ended with {process.returncode}: {text}")
            status = json.loads(output)["status"]
            self._token = str(status["token"])
            expires = status.get("expirationTimestamp")
            self._expires = datetime.fromisoformat(expires) if expires else None
        except (OSError, ValueError, KeyError, TypeError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise ApiAway(f"{self._command[0]} gave no token ({reason})") from error
        finally:
            if process is not None and process.returncode is None:
                process.kill()
