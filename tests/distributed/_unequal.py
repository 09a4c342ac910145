"""Models, and engines that sample, which processes call unequally often, as work of tests.distributed._work."""

from pathlib import Path
from typing import Any
from unittest import mock

import torch

from grkd.models.shard import in_turns, is_sharded, shard
from grkd.ranks import from_main, gathered, ranks
from grkd.teacher import rank_build
from grkd.teacher.local import LocalTeacher
from grkd.teacher.rank_cache import Origin, RankCache
from grkd.teacher.rank_codec import RankCodec
from grkd.training.groups_of_responses import group_of
from tests.distributed._trainers import arguments, prompts, state_of
from tests.kernels._sharded import VOCABULARY, tiny


def reference(folder: Path, device: str) -> dict[str, Any]:
    """dpo with LoRA on sampled groups, ranked by a sharded teacher: the base model is the reference, also of a set of
    three prompts that comes after training, of which the processes have two and one."""
    from peft import LoraConfig

    from grkd.training import GRKDConfig, GRKDTrainer
    from tests.conftest import word_tokenizer

    settings = arguments(folder, device, batch=2) | {"max_steps": 2, "max_new_tokens": 4, "num_generations": 3}
    torch.manual_seed(0)
    made = GRKDTrainer(
        model=tiny(1, 2, vocabulary=40),
        teacher_model=shard(tiny(2, 3, vocabulary=40), torch.device(device)),
        args=GRKDConfig(**settings, method="dpo"),
        rankers="log_prob",
        train_dataset=[{"prompt": f"w{n} w{n + 1}"} for n in range(3)],
        processing_class=word_tokenizer(),
        teacher_processing_class=word_tokenizer(),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False),
    )
    made.train()
    pairs = [{"prompt": f"w{n}", "chosen": f"w{n} w{n + 1}", "rejected": f"w{n + 2}"} for n in range(3)]
    found = made.evaluate(pairs)["eval_loss"]
    return {"weights": state_of(made), "eval_loss": found}


def sharded_teacher(folder: Path, device: str) -> dict[str, Any]:
    """A teacher spread over the processes gives the logits of a whole one, also when they ask it unequally often."""
    place, found = torch.device(device), {}
    state = ranks()
    asking = [state.process_index] if state.num_processes > 1 else [0, 1]  # alone: what both would ask
    for kind in ("sharded", "offloaded"):
        model: Any = shard(tiny(2, 3), place, offload=kind == "offloaded" and state.num_processes > 1)
        assert is_sharded(model) == (state.num_processes > 1)
        teacher = LocalTeacher(model, None, vocabulary=VOCABULARY, batch_size=1)
        answers = []
        with in_turns(model), torch.no_grad():
            for number in asking:
                mine = prompts()[: 2 + 3 * number]
                means, hidden = teacher.scored(mine, keep={mine[0].id})
                ids = torch.tensor([mine[0].prompt_ids], device=place)
                text = model.generate(ids, max_new_tokens=2 + 4 * number, do_sample=False, eos_token_id=None)
                answers.append({"means": means, "hidden": hidden[mine[0].id].cpu(), "text": text.tolist()})
        with in_turns(model):
            pass  # no process asks anything
        found[kind] = gathered(answers, kind)
    return found


def asked_unevenly(folder: Path, device: str) -> dict[str, Any]:
    """A sharded teacher whose processes have different numbers of responses to write, to put in order or to keep."""
    from grkd.training import GRKDConfig, GRKDTrainer
    from tests.conftest import word_tokenizer

    def made(name: str, **settings: Any) -> GRKDTrainer:
        common = arguments(folder / name, device, batch=2) | {"max_steps": 1, "max_new_tokens": 4}
        asks: dict[str, Any] = {} if name == "written" else {"rankers": "log_prob"}
        first: Any = shard(tiny(2, 3, vocabulary=40), torch.device(device))
        if name == "voted":
            second = shard(tiny(4, 2, vocabulary=40), torch.device(device))
            first = [{"model": first, "tokenizer": word_tokenizer()}, {"model": second, "tokenizer": word_tokenizer()}]
        return GRKDTrainer(
            model=tiny(1, 2, vocabulary=40),
            teacher_model=first,
            args=GRKDConfig(**common, **settings),
            train_dataset=[{"prompt": f"w{n} w{n + 1}"} for n in range(5)],
            eval_dataset=[{"prompt": f"w{n} w{n + 2}"} for n in range(5)],
            processing_class=word_tokenizer(),
            teacher_processing_class=None if name == "voted" else word_tokenizer(),
            **asks,
        )

    written = made("written", method="seqkd", sampling_batch_size=1)
    ranked = made("ranked", method="grkd", method_options={"preset": "responses"}, num_generations=2)
    voted = made("voted", method="grkd", method_options={"preset": "responses"}, num_generations=2)
    with mock.patch.object(rank_build, "_RESPONSES_PER_SHARD", 2):
        groups = [group_of(item) for item in prompts()[:5]]
        codec = RankCodec(vocabulary=VOCABULARY, entries=5, choose="sample", log_probs=True)
        teacher = shard(tiny(2, 3), torch.device(device))
        codec = rank_build.with_share(codec, teacher, groups, temperature=1.0, batch_size=1)
        origin = Origin(teacher="t", weights="w", vocabulary="v", template="c", prompts="p")
        from_main(lambda: RankCache.begun(folder / "cache", codec, origin) and None)
        rank_build.fill(RankCache.begun(folder / "cache", codec, origin), teacher, groups, batch_size=1)
    kept = RankCache(folder / "cache", writing=True)
    return {
        "weights": {},
        "written": [group.items[0].response_ids for group in written.train_dataset],
        "ranked": [group.teacher_scores for group in ranked.eval_dataset],
        "voted": [group.votes for group in voted.eval_dataset],
        "kept": [kept.codec.decode(kept[group.items[0]]).ids.tolist() for group in groups],
    }


def by_vllm(folder: Path, device: str) -> dict[str, Any]:
    """grkd with LoRA on groups that vLLM samples, an engine per process: of the one prompt that is scored before the
    first step a process has none."""
    from peft import LoraConfig

    from grkd.training import GRKDConfig, GRKDTrainer
    from tests.conftest import word_tokenizer
    from tests.training._vllm import fake_vllm

    settings = arguments(folder, device, batch=2) | {"max_steps": 2, "max_new_tokens": 4, "num_generations": 3}
    torch.manual_seed(0)
    with fake_vllm() as engine:
        made = GRKDTrainer(
            model=tiny(1, 2, vocabulary=40),
            teacher_model=tiny(2, 3, vocabulary=40),
            args=GRKDConfig(**settings, method_options={"preset": "responses"}, use_vllm=True),
            rankers="log_prob",
            train_dataset=[{"prompt": f"w{n} w{n + 1}"} for n in range(3)],
            eval_dataset=[{"prompt": "w5"}],
            processing_class=word_tokenizer(),
            teacher_processing_class=word_tokenizer(),
            peft_config=LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False),
        )
        made.train()
        engines = gathered([len(engine.made)], "engines")
    assert engines == [1] * ranks().num_processes
    return {"weights": state_of(made)}
