"""How a server is told to be: where it listens, who may ask, and how much."""

import dataclasses
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from common.errors import ParameterError
from common.options import option, problems

API_KEY = "GPT2_JITTOR_API_KEY"  # of the environment: a process's arguments can be read by all users of a machine
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # of a model, as requests spell it
ORIGIN = re.compile(r"\*|https?://[^\s/*]+")


@dataclass(frozen=True)
class ServingOptions:
    """Where the server listens, what it takes, and what it refuses."""

    host: str = option("127.0.0.1", "the address to listen on; others than this machine's own need --api-key")
    port: int = option(8000, "0 takes one that is free", at_least=0, at_most=65535)
    api_key: str | None = option(None, f"what requests must bear; better in the environment, as {API_KEY}")
    cors: tuple[str, ...] = option((), "pages of these origins may ask, https://example.org or *", metavar="ORIGIN")
    adapters_folder: Path | None = option(None, "below it POST /v1/adapters finds more adapters", metavar="FOLDER")
    max_rows: int = option(16, "texts that are continued together", at_least=1, at_most=1024)
    max_waiting: int = option(64, "texts that may wait; more are told to come again", at_least=1, at_most=100_000)
    cache_tokens: int = option(4096, "of finished texts' keys and values that are kept for the next turn", at_least=0)
    piece: int = option(128, "tokens of a prompt that are read before others go on", at_least=1)
    grace: float = option(30.0, "seconds for what runs when the server is told to end", at_least=0, at_most=86400)
    timeout: float = option(600.0, "seconds that a request may take", above=0, at_most=86400)
    max_body: int = option(1 << 20, "bytes of a request's body", at_least=1024, at_most=1 << 30)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can ask."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def check(self) -> None:
        """Raises UserError for what is out of range, open to everybody, or not there."""
        for problem in problems(self):
            raise problem
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise ParameterError("{api_key} must be ASCII, without control characters, and not empty")
        if not self.is_loopback and self.api_key is None:
            raise ParameterError(
                "{host} {0} lets others than this machine ask: give {api_key}, or set {1}", self.host, API_KEY
            )
        if wrong := [origin for origin in self.cors if not ORIGIN.fullmatch(origin)]:
            raise ParameterError("{cors} takes origins, such as https://example.org, or *, not {0!r}", wrong[0])
        if self.adapters_folder is not None and not self.adapters_folder.is_dir():
            raise ParameterError("{adapters_folder} {0} is no folder: give one", self.adapters_folder)

    def with_key(self, environment: dict[str, str]) -> "ServingOptions":
        """The same with the key that the environment has, where none was typed."""
        if self.api_key is not None:
            return self
        return dataclasses.replace(self, api_key=environment.get(API_KEY) or None)
