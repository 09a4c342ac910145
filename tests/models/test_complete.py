"""Models that are loaded are complete and compute what their config says: missing tensors, adapters, soft caps."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, LlamaForCausalLM
from transformers.models.gemma2.modeling_gemma2 import Gemma2PreTrainedModel

from grkd.errors import UserError
from grkd.language.lora import adapted
from grkd.models.cut import fresh, truncated
from grkd.models.load import load_language_model, load_tokenizer
from grkd.models.save import save_student
from grkd.recipe import Lora
from tests.conftest import word_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # peft asks by the old name
    pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
]

IDS = torch.tensor([[3, 7, 9, 11, 30, 2, 5, 8]])


def tiny(*, tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.3,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=3,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def changed(folder: Path, **settings: Any) -> None:
    """Change the config of a saved model."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_language_model(str(folder), dtype=torch.float32)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400 + len(str(folder))
    assert str(folder) in message
    return message


def test_a_config_with_more_layers_than_weights_is_refused(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    changed(tmp_path, num_hidden_layers=4)
    message = refused(tmp_path)
    assert "lack 18 tensors (model.layers.2." in message
    assert "num_hidden_layers" in message


@pytest.mark.parametrize("tensor", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight", "lm_head.weight"])
def test_a_tensor_that_is_missing_is_named(tmp_path: Path, tensor: str) -> None:
    tiny().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[tensor]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert f"lack 1 tensor ({tensor})" in refused(tmp_path)


def test_tensors_of_another_shape_are_named(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    changed(tmp_path, intermediate_size=20)
    assert "6 tensors (model.layers.0.mlp.down_proj.weight" in refused(tmp_path)


def test_layers_that_the_config_leaves_out_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny().save_pretrained(tmp_path)
    changed(tmp_path, num_hidden_layers=1)
    assert load_language_model(str(tmp_path), dtype=torch.float32).config.num_hidden_layers == 1
    assert "leaves out 9 tensors (model.layers.1." in capsys.readouterr().err


def test_complete_models_load_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for tied in (False, True):
        tiny(tied=tied).save_pretrained(tmp_path / str(tied))
        capsys.readouterr()
        load_language_model(str(tmp_path / str(tied)), dtype=torch.float32)
        assert capsys.readouterr() == ("", "")


def randomised(adapter: Any) -> Any:
    """An adapter that changes something: LoRA begins at zero."""
    torch.manual_seed(1)
    for name, parameter in adapter.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return adapter.eval()


def lora(model: Any, *targets: str) -> Any:
    return randomised(adapted(model, Lora(r=2, target_modules=list(targets))))


@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], ["lm_head"], ["embed_tokens", "v_proj"]])
@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_folder_is_merged_on_loading(tmp_path: Path, targets: list[str], *, tied: bool) -> None:
    pytest.importorskip("peft")
    tiny(tied=tied).save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    made = lora(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), *targets)
    made.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = made(IDS).logits
        found = load_language_model(str(tmp_path / "adapter"), dtype=torch.float32)
        torch.testing.assert_close(found(IDS).logits, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(tiny(tied=tied)(IDS).logits, expected, atol=1e-2)
        assert all("lora" not in name for name in found.state_dict())
        # An ordinary model: it can be cut, saved, and trained.
        torch.testing.assert_close(truncated(found, [0, 1])(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    assert all(parameter.requires_grad for parameter in found.parameters())
    assert load_tokenizer(str(tmp_path / "adapter")).get_vocab() == word_tokenizer().get_vocab()


def test_adapters_that_cannot_be_merged_are_refused(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    tiny().save_pretrained(tmp_path / "base")
    prompts = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    peft.get_peft_model(base, prompts).save_pretrained(tmp_path / "prompts")
    assert "PROMPT_TUNING cannot be merged" in refused(tmp_path / "prompts")
    lora(tiny(), "q_proj").save_pretrained(tmp_path / "nameless")
    path = tmp_path / "nameless" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": None}))
    assert "names no base_model_name_or_path" in refused(tmp_path / "nameless")
    whole = json.loads(path.read_text())
    path.write_text("[]")
    assert "names no base_model_name_or_path" in refused(tmp_path / "nameless")
    path.write_text("{")
    assert "nameless: its adapter_config.json is not JSON" in refused(tmp_path / "nameless")
    path.write_text(json.dumps(whole | {"base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match=r"gone: no such folder"):
        load_language_model(str(tmp_path / "nameless"), dtype=torch.float32)


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"], ["q_proj"]])
def test_a_tied_student_with_adapters_is_saved_as_it_was_trained(tmp_path: Path, targets: list[str]) -> None:
    pytest.importorskip("peft")
    trained = lora(tiny(tied=True), *targets)
    with torch.no_grad():
        expected = trained(IDS).logits
        save_student(trained.merge_and_unload(), word_tokenizer(), tmp_path / "student", card="# Card\n")
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / "student").eval()
        torch.testing.assert_close(saved(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    assert saved.config.tie_word_embeddings == (targets == ["q_proj"])


def test_gemma_keeps_the_soft_cap_of_its_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers 5.10 to 5.17 load it, which prefer an attention without the cap."""
    from transformers.integrations import sdpa_attention
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def dropping(*arguments: Any, softcap: float | None = None, **options: Any) -> Any:
        return sdpa_attention.sdpa_attention_forward(*arguments, **options)

    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)
    ALL_ATTENTION_FUNCTIONS["sdpa"] = dropping
    try:
        _check_soft_cap(tmp_path)
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]  # what was written over the library's own


def _check_soft_cap(folder: Path) -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.3,
        attn_logit_softcapping=50.0,
        attn_implementation="eager",
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for layer in model.model.layers:  # scores far above the cap
            layer.self_attn.q_proj.weight.mul_(30)
            layer.self_attn.k_proj.weight.mul_(30)
        model.set_attn_implementation("eager")
        expected = model(IDS).logits
        model.save_pretrained(folder)
        dropped = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")(IDS).logits
        assert (dropped - expected).abs().max() > 1e-2, "the example must show the cap"
        for made in (
            load_language_model(str(folder), dtype=torch.float32),
            truncated(load_language_model(str(folder), dtype=torch.float32), [0, 1]),
        ):
            torch.testing.assert_close(made(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    assert fresh(config, {}, 0).config._attn_implementation != "sdpa"
