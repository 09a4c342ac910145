"""TRL's DistillationTrainer on the work of benchmarks/scaling.py: forward KL on given responses, no sampling."""

from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from benchmarks._pairs import BEGIN, END, PAD

if TYPE_CHECKING:
    from benchmarks._scaling_work import Launch


def trl_trainer(launch: "Launch", teacher: PreTrainedModel, student: PreTrainedModel) -> Any:
    """TRL with the student's weights in bfloat16: with float32 weights it computes in float32 on one process."""
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    from benchmarks._scaling_work import WARM_UP

    responses = {tuple(item.prompt_ids[:16]): item.response_ids for item in launch.items()}

    class OnGivenResponses(DistillationTrainer):
        """Where TRL would sample, the data's responses."""

        def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> list[list[int]]:
            return [responses[tuple(ids[:16])] for ids in prompt_ids]

    settings = DistillationConfig(
        output_dir=str(launch.folder / "run"),
        max_steps=WARM_UP + launch.steps,
        per_device_train_batch_size=launch.batch,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        beta=0.0,
        max_completion_length=launch.response,
        bf16=False,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=WARM_UP + launch.steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
        use_cpu=launch.device.type == "cpu",
    )
    prompts = [{"prompt": " ".join(f"w{token}" for token in item.prompt_ids)} for item in launch.items()]
    return OnGivenResponses(
        model=student,
        teacher_model=teacher,
        args=settings,
        train_dataset=Dataset.from_list(prompts),
        processing_class=_tokenizer(launch.student_config.vocab_size),
    )


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A word wN for the token N; special tokens have other names, which no word begins with."""
    special = {"pad_token": "<pad>", "eos_token": "<end>", "bos_token": "<begin>", "unk_token": "<unknown>"}
    words = {"<pad>": PAD, "<end>": END, "<begin>": BEGIN, "<unknown>": 3}
    words |= {f"w{token}": token for token in range(4, vocabulary)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", model_max_length=1 << 20, **special)
