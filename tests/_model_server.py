"""A small faithful server of a real model: text completions over token ids with vLLM's fields, and its misbehaviour."""

import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests._endpoint_server import EndpointServer


class ModelServer(EndpointServer):
    """Serves the model of a folder as "s". `reply` answers chats.

    faults beside the endpoint's, used up one a request: "nan", "missing" (a log-probability), "no field" (of them),
    "fewer" (tokens than asked), "other model", "other vocabulary", "cut short" (a response before its limit).
    """

    def __init__(self, folder: Path, *, context: int = 64) -> None:
        super().__init__(models=["s"])
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.context, self.root = context, str(folder)
        self._fault: str | None = None

    def card(self, name: str) -> dict[str, Any]:
        return {"id": name, "root": self.root, "max_model_len": self.context}

    def _answer(self, handler: Any, body: dict[str, Any], fault: str | None) -> None:
        ids = body.get("prompt")
        if ids is not None and len(ids) + body["max_tokens"] > self.context:
            self._send(handler, 400, {"error": {"message": "over the context length"}})
            return
        self._fault = fault
        super()._answer(handler, body, fault)

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        if "prompt" not in body:
            return super()._completion(body)
        fault, ids = self._fault, body["prompt"]
        choice = self._written(ids, body)
        if body.get("prompt_logprobs") is not None:
            choice["prompt_logprobs"] = self._of_prompt(ids, body["prompt_logprobs"])
        places = choice.get("prompt_logprobs") or [{}]
        if fault == "nan":
            places[-1][str(ids[-1])]["logprob"] = math.nan
        elif fault == "missing":
            del places[-1][str(ids[-1])]
        elif fault == "fewer":
            places.pop(1)
        elif fault == "no field":
            del choice["prompt_logprobs"]
        elif fault == "other vocabulary":
            for place in places[1:]:
                for entry in place.values():
                    entry["decoded_token"] += "x"
        elif fault == "cut short":
            choice["token_ids"], choice["finish_reason"] = choice["token_ids"][:1], "length"
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1}
        name = "another" if fault == "other model" else body["model"]
        return {
            "id": "x",
            "object": "text_completion",
            "created": 0,
            "model": name,
            "choices": [choice],
            "usage": usage,
        }

    @torch.no_grad()
    def _of_prompt(self, ids: list[int], k: int) -> list[Any]:
        log_probs = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        found: list[Any] = [None]
        for at, token in enumerate(ids[1:]):
            best = log_probs[at].topk(k).indices.tolist()
            found.append({str(each): self._entry(each, float(log_probs[at, each])) for each in [token, *best]})
        return found

    @torch.no_grad()
    def _written(self, ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
        """Sampled token by token, by the seed."""
        drawn, stops = torch.Generator().manual_seed(body.get("seed") or 0), set(body.get("stop_token_ids") or [])
        written: list[int] = []
        first = None
        while len(written) < body["max_tokens"] and not (written and written[-1] in stops):
            log_probs = self.model(torch.tensor([ids + written])).logits[0, -1].log_softmax(-1)
            first = log_probs if first is None else first
            if body["temperature"] == 0:
                written.append(int(log_probs.argmax()))
            else:
                written.append(int(torch.multinomial((log_probs / body["temperature"]).exp(), 1, generator=drawn)))
        finished = written[-1] in stops
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop" if finished else "length", "token_ids": written}
        choice["text"] = self.tokenizer.decode(written[:-1] if finished else written)
        if body.get("logprobs"):
            assert first is not None
            best = first.topk(min(body["logprobs"], len(first)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            choice["logprobs"] = {"top_logprobs": [{f"token_id:{token}": value for token, value in pairs}]}
        return choice

    def _entry(self, token: int, value: float) -> dict[str, Any]:
        return {"logprob": value, "rank": 1, "decoded_token": self.tokenizer.decode([token])}
