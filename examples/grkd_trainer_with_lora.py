"""GRKDTrainer with LoRA: the arguments are those of transformers' Trainer.

python examples/grkd_trainer_with_lora.py TEACHER STUDENT OUTPUT

TEACHER and STUDENT are Hugging Face folders or hub names with one vocabulary. Needs peft: pip install 'grkd[lora]'.
"""

import sys

from peft import LoraConfig

from grkd import GRKDConfig, GRKDTrainer

QUESTIONS = [(a, b) for a in range(2, 8) for b in range(2, 8)]
RECORDS = [
    {"messages": [{"role": "user", "content": f"{a} + {b}"}, {"role": "assistant", "content": str(a + b)}]}
    for a, b in QUESTIONS
]


def main(teacher: str, student: str, output: str, records: list[dict] = RECORDS, **settings) -> dict[str, float]:
    """Returns the evaluation loss before and after, in nats."""
    heldout, train = records[::6], [record for number, record in enumerate(records) if number % 6]
    trainer = GRKDTrainer(
        model=student,
        teacher_model=teacher,
        args=GRKDConfig(
            output_dir=output,
            method="grkd",
            method_options={"preset": "tokens"},
            num_train_epochs=3.0,
            per_device_train_batch_size=8,
            learning_rate=1e-3,
            report_to="none",
            **settings,
        ),
        train_dataset=train,
        eval_dataset=heldout,
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"),
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    # A folder that from_pretrained, pipeline and vLLM open: the adapters merged into the weights.
    trainer.model.merge_and_unload().save_pretrained(output)
    trainer.processing_class.save_pretrained(output)
    return {"before": before, "after": after}


if __name__ == "__main__":
    print(main(*sys.argv[1:4]))
