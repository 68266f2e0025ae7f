"""The Hub: its own library sends what loads again; the service is one on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.report.hub_server import Hub, serving
from torch import nn

from secateur import api
from secateur.core.budget import Params
from secateur.core.errors import FileError, InputError
from secateur.core.result import Result
from secateur.core.scope import only
from secateur.report.artifact import HTML, JSON
from secateur.report.hub import CARD, from_pretrained, push_to_hub, save_pretrained
from secateur.ship.config import CONFIG
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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on this machine, to which its real library speaks."""
    constants = pytest.importorskip("huggingface_hub.constants")
    download = pytest.importorskip("huggingface_hub.file_download")
    with serving() as hub:
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        for module in (constants, download):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        yield hub


def test_what_is_pushed_comes_back(result: Result, tmp_path: Path, hub: Hub) -> None:
    address = push_to_hub(result, "me/net", private=True, token="hf_mine")
    assert address.startswith(f"{hub.url}/me/net/")
    assert hub.private == {"me/net": True}
    files = hub.commits["me/net"][1]
    assert files.keys() - {".gitattributes"} == {WEIGHTS, PLAN, JSON, HTML, CARD, CONFIG}
    save_pretrained(result, tmp_path / "out", repository="me/net")
    assert files[CARD] == (tmp_path / "out" / CARD).read_bytes()
    assert json.loads(files[CONFIG]) == {"library_name": "secateur"}
    assert all(line.endswith("Bearer hf_mine") for line in hub.asked)

    hub.asked.clear()
    kept = {"cache_dir": tmp_path / "cache"}
    again = from_pretrained("me/net", into=build, token="hf_mine", **kept)
    assert torch.equal(again(X), result.model(X))
    assert all(line.endswith("Bearer hf_mine") for line in hub.asked)
    fetched = {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*")}
    assert fetched == {WEIGHTS, PLAN, CONFIG}

    hub.asked.clear()
    again = from_pretrained("me/net", into=build, local_files_only=True, **kept)
    assert torch.equal(again(X), result.model(X))
    assert not hub.asked
    with pytest.raises(InputError, match="'me/net' on the Hub: "):
        from_pretrained("me/net", into=build, local_files_only=True, cache_dir=tmp_path / "no")


def test_a_revision_is_a_commit(result: Result, tmp_path: Path, hub: Hub) -> None:
    push_to_hub(result, "me/net")
    other = api.prune(build(), X, budget=Params("30%"), latency=False)
    push_to_hub(other, "me/net", commit_message="Smaller")
    for revision, wanted in ((f"{1:040}", result), (f"{2:040}", other), (None, other)):
        again = from_pretrained("me/net", into=build, revision=revision, cache_dir=tmp_path)
        assert torch.equal(again(X), wanted.model(X))


def test_a_foreign_config_changes_nothing(result: Result, tmp_path: Path, hub: Hub) -> None:
    push_to_hub(result, "me/net")
    files = hub.commits["me/net"][-1]
    for config in ({"content": "/etc", "self": 1, "into": 2, "model_id": 3, "cls": 4}, {}):
        hub.commits["me/net"].append({**files, CONFIG: json.dumps(config).encode()})
        again = from_pretrained("me/net", into=build, cache_dir=tmp_path)
        assert torch.equal(again(X), result.model(X))
    hub.commits["me/net"].append({**files, CONFIG: b"["})
    with pytest.raises(InputError, match="'me/net' on the Hub: "):
        from_pretrained("me/net", into=build, cache_dir=tmp_path)


def test_what_the_hub_does_not_have_and_what_users_raise(
    result: Result, tmp_path: Path, hub: Hub
) -> None:
    with pytest.raises(InputError, match=r"'me/other' on the Hub: 404.*\n(.*\n)*hint"):
        from_pretrained("me/other", into=build, cache_dir=tmp_path)
    with pytest.raises(InputError, match="not of a Sequential"):
        push_to_hub(result.model, "me/net")  # type: ignore[arg-type]
    assert not hub.commits
    push_to_hub(result, "me/net")

    def broken() -> nn.Module:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        from_pretrained("me/net", into=broken, cache_dir=tmp_path)
    del hub.commits["me/net"][-1][PLAN]
    with pytest.raises(FileError, match="there is no file"):
        from_pretrained("me/net", into=build, cache_dir=tmp_path / "new")


@pytest.mark.parametrize("name", ["a/b/c", "--", "a b"])
def test_names_that_cannot_be_are_refused_before_any_network(result: Result, name: str) -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(InputError, match=r"on the Hub: .*[Rr]epo id"):
        push_to_hub(result, name)
    with pytest.raises(InputError, match=r"on the Hub: .*[Rr]epo id"):
        from_pretrained(name, into=build)
