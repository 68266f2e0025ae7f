"""The Hub: what is sent is a folder that loads; the service itself is replaced by a folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur import api
from secateur.core.budget import Params
from secateur.core.errors import FileError, InputError
from secateur.core.result import Result
from secateur.core.scope import only
from secateur.report.artifact import HTML, JSON
from secateur.report.hub import CARD, from_pretrained, push_to_hub, save_pretrained
from secateur.ship.files import PLAN, WEIGHTS
from secateur.units import Channel

X = torch.ones(2, 6)


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.fixture(scope="module")
def result() -> Result:
    return api.prune(build(), X, budget=Params("50%"), latency=False)


def test_a_folder_with_a_card_loads(result: Result, tmp_path: Path) -> None:
    folder = save_pretrained(result, tmp_path / "out", repository="me/net")
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, PLAN, JSON, HTML, CARD}
    assert "| parameters |" in (folder / CARD).read_text(encoding="utf-8")
    for where in (folder, str(folder)):
        assert torch.equal(from_pretrained(where, into=build)(X), result.model(X))
    with pytest.raises(InputError, match="not of a Sequential"):
        save_pretrained(result.model, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(FileError, match="there is no file"):
        from_pretrained(tmp_path / "none", into=build)


def test_a_model_of_transformers_loads_without_secateur(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=16,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    ids = {"input_ids": torch.randint(0, 40, (2, 7))}
    result = api.prune(
        model, ids, unit=Channel(), scope=only("*.mlp.*"), allocate="uniform", latency=False
    )
    save_pretrained(result, tmp_path, repository="me/net")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.intermediate_size == 16
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**ids).logits, result.model(**ids).logits)
        again = from_pretrained(tmp_path, into=lambda: transformers.LlamaForCausalLM(config))
        assert torch.equal(again.eval()(**ids).logits, result.model(**ids).logits)
    card = (tmp_path / CARD).read_text(encoding="utf-8")
    assert "model = LlamaForCausalLM.from_pretrained('me/net')" in card
    uneven = api.prune(model, ids, budget=Params("60%"), latency=False)
    save_pretrained(uneven, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_what_is_pushed_comes_back(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")

    class Api:
        """A service that is a folder."""

        def create_repo(self, name: str, **options: Any) -> str:
            assert options == {"private": True, "exist_ok": True}
            (tmp_path / name).mkdir(parents=True)
            return f"https://hub/{name}"

        def upload_folder(self, repo_id: str, folder_path: str, **options: Any) -> None:
            for name in options["allow_patterns"]:
                if (Path(folder_path) / name).exists():
                    shutil.copy(Path(folder_path) / name, tmp_path / repo_id)

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert allow_patterns == [WEIGHTS, PLAN]
        if not (tmp_path / name).exists():
            raise OSError("no such repository\nand more")
        return str(tmp_path / name)

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "snapshot_download", download)
    assert push_to_hub(result, "me/net", private=True) == "https://hub/me/net"
    assert "'me/net'" in (tmp_path / "me/net" / CARD).read_text(encoding="utf-8")
    assert torch.equal(from_pretrained("me/net", into=build)(X), result.model(X))
    with pytest.raises(InputError, match=r"'me/other' on the Hub: no such repository\nhint"):
        from_pretrained("me/other", into=build)


@pytest.mark.parametrize("name", ["a/b/c", "--", "a b"])
def test_names_that_cannot_be_are_refused_before_any_network(result: Result, name: str) -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(InputError, match=r"on the Hub: .*[Rr]epo id"):
        push_to_hub(result, name)
    with pytest.raises(InputError, match=r"on the Hub: .*[Rr]epo id"):
        from_pretrained(name, into=build)
