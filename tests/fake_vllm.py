"""A fake vLLM server in a thread: only the endpoints that we call, able to fail on command.

It knows no model: it 'serves' an adapter by answering the log-probabilities in its manifest.
"""

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fake_http import Body, FakeServer, Request

from selfstudy_engine.data.adapters import NUM_CONTINUED
from selfstudy_engine.engine.asgi import ORIGIN_HEADER
from selfstudy_engine.engine.endpoint import Endpoint

TOKENS_PER_COMPLETION = 12


class FakeVllm(FakeServer):
    """The server; use it as a context manager.

    Attributes:
        max_in_flight: most completions (requests times n) at once.
        latency_seconds: of every generation.
        max_num_seqs: completions in a batch, as /metrics has it; the others wait.
        malformed: share of the texts that can't be parsed.
        reason: of the others, with a place for a number.
        script: gives the text to a prompt, an adapter's name ("" for the base model) and the
            completion's index; None makes texts up.
        process: what every answer's header says of this start; another one is another start.
        num_merges: what it says of the weights.
        num_engines: behind the one address (data parallelism).
        stuck_engine: of these, one that no swap reaches, although the server says that all is well.
        missing_routes: answered with 404, as a server without development mode does.
        keeps_old_adapter: a swap answers 200 and changes nothing.
        cache_reset_fails: /reset_prefix_cache answers {"success": false}.
        cache_reset_lies: it answers true and keeps the cache, so next tokens stay the old ones.
        keeps_old_graphs: a merge changes what prompts are computed with, not what decodes.
    """

    def __init__(
        self,
        model: str = "tiny",
        api_key: str = "secret",
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        super().__init__(api_key, host, port)
        self.model = model
        self.max_in_flight = 0
        self.latency_seconds = 0.0
        self.max_num_seqs = 128
        self.malformed = 0.2
        self.reason = "The reason of number {}."
        self.script: Callable[[str, str, int], str] | None = None
        self.process = secrets.token_hex(4)
        self.num_merges = 0
        self.num_engines = 1
        self.stuck_engine: int | None = None
        self.missing_routes: set[str] = set()
        self.keeps_old_adapter = False
        self.cache_reset_fails = False
        self.cache_reset_lies = False
        self.keeps_old_graphs = False
        self.merged: Path | None = None
        self.loaded: dict[str, Path] = {}
        self.paused = False
        self._cached: Path | None = None
        self._recorded: Path | None = None
        self._known: set[Path] = set()
        self._in_flight = 0
        self._changed = threading.Condition()

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        with self._changed:
            self.paused = False
            self._changed.notify_all()
        super().__exit__(*error)

    @property
    def endpoint(self) -> Endpoint:
        """What a client needs."""
        return Endpoint(self.url, self.api_key)

    @property
    def headers(self) -> dict[str, str]:
        """See `FakeServer`."""
        return {ORIGIN_HEADER: f"{self.process}.{self.num_merges}"}

    @property
    def generations(self) -> list[Request]:
        """Requests for text: neither the canary's nor administration."""
        return [request for request in self.requests if request.kind == "/v1/completions"]

    def answer(self, path: str, params: dict[str, str], body: Body) -> tuple[int, Body | str]:
        """See `FakeServer`."""
        routes: dict[str, Callable[[dict[str, str], Body], tuple[int, Body | str]]] = {
            "/health": lambda *_: (200, ""),
            "/metrics": self._metrics,
            "/v1/models": self._models,
            "/v1/completions": self._completions,
            "/pause": self._pause,
            "/resume": self._resume,
            "/is_paused": lambda *_: (200, {"is_paused": self.paused}),
            "/collective_rpc": self._collective_rpc,
            "/reset_prefix_cache": self._reset_prefix_cache,
            "/v1/load_lora_adapter": self._load,
            "/v1/unload_lora_adapter": self._unload,
        }
        if path not in routes or path in self.missing_routes:
            return 404, {"detail": "Not Found"}
        return routes[path](params, body)

    def _metrics(self, params: dict[str, str], body: Body) -> tuple[int, str]:
        running = min(self._in_flight, self.max_num_seqs)
        labels = f'{{engine="0",model_name="{self.model}"}}'
        others = [labels.replace('"0"', f'"{number}"') for number in range(1, self.num_engines)]
        lines = [
            "# HELP vllm:num_requests_running Number of requests in model execution batches.",
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running{labels} {float(running)}",
            *(f"vllm:num_requests_running{other} 0.0" for other in others),
            f"vllm:num_requests_waiting{labels} {float(self._in_flight - running)}",
            'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 99.0',
            f"vllm:kv_cache_usage_perc{labels} {running / self.max_num_seqs / 2}",
            f"vllm:num_preemptions_total{labels} 0.0",
            f"vllm:prefix_cache_queries_total{labels} 0.0",
            f"vllm:prefix_cache_hits_total{labels} 0.0",
        ]
        return 200, "\n".join(lines) + "\n"

    def _models(self, params: dict[str, str], body: Body) -> tuple[int, Body]:
        base = {"id": self.model, "object": "model", "parent": None}
        adapters = [{"id": n, "object": "model", "parent": self.model} for n in self.loaded]
        return 200, {"object": "list", "data": [*adapters, base]}

    def _pause(self, params: dict[str, str], body: Body) -> tuple[int, Body]:
        with self._changed:
            self.paused = True
            if params.get("mode") == "wait":
                self._changed.wait_for(lambda: not self._in_flight or self._closing.is_set())
        return 200, {"status": "paused"}

    def _resume(self, params: dict[str, str], body: Body) -> tuple[int, Body]:
        with self._changed:
            self.paused = False
            self._changed.notify_all()
        return 200, {"status": "resumed"}

    def _collective_rpc(self, params: dict[str, str], body: Body) -> tuple[int, Body]:
        if body["method"] != "serve_merged":
            return 500, {"error": {"message": f"no method {body['method']}"}}
        self.num_merges += 1
        wanted = body["kwargs"]["adapter_folder"]
        if wanted is not None:
            self._known.add(Path(wanted))
        sha256 = _manifest(Path(wanted))["files"]["adapter_model.safetensors"] if wanted else ""
        if not self.keeps_old_adapter:
            self.merged = Path(wanted) if wanted else None
            if not self.keeps_old_graphs:
                self._recorded = self.merged
        return 200, {"results": [sha256]}

    def _reset_prefix_cache(self, params: dict[str, str], body: Body) -> tuple[int, Body]:
        if not self.cache_reset_fails and not self.cache_reset_lies:
            self._cached = self.merged
        return 200, {"success": not self.cache_reset_fails}

    def _load(self, params: dict[str, str], body: Body) -> tuple[int, Body | str]:
        name, folder = body["lora_name"], Path(body["lora_path"])
        if name in self.loaded:
            message = (
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True."
            )
            return 400, {"error": {"message": message, "type": "InvalidUserInput"}}
        if not (folder / "adapter_config.json").exists():
            return 404, {"error": {"message": f"No adapter found for {folder}"}}
        self._known.add(folder)
        self.loaded[name] = folder
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _unload(self, params: dict[str, str], body: Body) -> tuple[int, Body | str]:
        if self.loaded.pop(body["lora_name"], None) is None:
            return 404, {"error": {"message": f"{body['lora_name']} cannot be found."}}
        return 200, f"Success: LoRA adapter '{body['lora_name']}' removed successfully."

    def _completions(self, params: dict[str, str], body: Body) -> tuple[int, Body]:
        if body["model"] not in {self.model, *self.loaded}:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        n = body.get("n") or 1
        with self._changed:
            self._changed.wait_for(lambda: not self.paused)
            self._in_flight += n
            self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            served = self.loaded.get(body["model"], self.merged)
            if isinstance(body["prompt"], str):
                time.sleep(self.latency_seconds)
                stop = tuple(body.get("stop") or ())
                choices = [self._text_choice(body["prompt"], served, i, stop) for i in range(n)]
            else:
                stuck = params.get("engine") == str(self.stuck_engine)
                choices = [self._canary_choice(body, None if stuck else served)]
        finally:
            with self._changed:
                self._in_flight -= n
                self._changed.notify_all()
        usage = {
            "prompt_tokens": len(body["prompt"]),
            "completion_tokens": TOKENS_PER_COMPLETION * n,
            "total_tokens": len(body["prompt"]) + TOKENS_PER_COMPLETION * n,
        }
        return 200, {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1,
            "model": body["model"],
            "choices": choices,
            "usage": usage,
        }

    def _text_choice(
        self, prompt: str, served: Path | None, index: int, stop: tuple[str, ...]
    ) -> Body:
        name = _manifest(served)["name"] if served else ""
        number = made_up_number(prompt, name, index)
        text = f" {self.reason.format(number)}\nMelting point (°C): {number % 100}"
        if (number >> 8) % 1000 < 1000 * self.malformed:
            text = " I can't say.\nMelting point (°C): about 80-82"
        if prompt.endswith("(°C):"):  # the reason is there already
            text = f" {number % 100}"
        if self.script:
            text = self.script(prompt, name, index)
        for end in stop:
            text = text.partition(end)[0]
        return {"index": index, "text": text, "finish_reason": "stop", "logprobs": None}

    def _canary_choice(self, body: Body, served: Path | None) -> Body:
        ids = body["prompt"]
        choice: Body = {"index": 0, "text": "x", "finish_reason": "length", "logprobs": None}
        if "prompt_logprobs" in body:
            found = self._logprobs(served, ids)
            entries = [
                {str(token): {"logprob": value, "rank": 1, "decoded_token": ""}}
                for token, value in zip(ids[1:], found, strict=False)
            ]
            choice["prompt_logprobs"] = [None, *entries]
        if "logprobs" in body:
            of_adapter = body["model"] in self.loaded
            first = self._logprobs(served if of_adapter else self._cached, ids)[len(ids) - 1]
            decoding = served if of_adapter else self._recorded
            values = [first, *self._logprobs(decoding, ids)[len(ids) :]]
            choice["token_ids"] = list(range(len(values)))
            choice["logprobs"] = {
                "text_offset": [0] * len(values),
                "token_logprobs": values,
                "tokens": ["x"] * len(values),
                "top_logprobs": [{"x": value} for value in values],
            }
        return choice

    def _logprobs(self, folder: Path | None, ids: list[int]) -> list[float]:
        """Of a probe's tokens after the first, of the next one, and of those that are decoded then.

        The latter are as likely as the probe's second one.
        """
        # A node of a cluster deletes its oldest adapters.
        known = [other for other in self._known if other.exists()]
        probes = {other: probe for other in known if (probe := _probe(other, ids))}
        if probe := probes.get(folder) if folder else None:
            return _with_continuation(probe["adapter_logprobs"], probe["next_logprob"])
        if probes:
            of_base = next(iter(probes.values()))
            return _with_continuation(of_base["base_logprobs"], of_base["next_logprob"] - 2)
        return _with_continuation([-5.0] * (len(ids) - 1), -5.0)


def _with_continuation(of_text: list[float], following: float) -> list[float]:
    return [*of_text, following, *of_text[:1] * (NUM_CONTINUED - 1)]


def made_up_number(prompt: str, adapter: str, index: int) -> int:
    """Return the number in a made-up text; "" for the base model."""
    return int.from_bytes(hashlib.sha256(f"{prompt}|{adapter}|{index}".encode()).digest()[:4])


def _manifest(folder: Path) -> Body:
    content: Body = json.loads((folder / "manifest.json").read_bytes())
    return content


def _probe(folder: Path, token_ids: list[int]) -> Body | None:
    """Return the one that a text is, or that it continues."""
    probes: list[Body] = _manifest(folder)["canary"]
    texts = token_ids, token_ids[:-NUM_CONTINUED]
    return next((probe for probe in probes if probe["token_ids"] in texts), None)
