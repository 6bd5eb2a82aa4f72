"""Pre-training of the text encoder, on a BERT of one layer with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.commands import main
from model_export.encoder import PretrainConfig, Pretrained, pretrain
from model_export.encoder_files import QUALITY, fidelity, quality_of, quantise_encoder, save_encoder
from model_export.encoder_texts import pretraining_texts
from model_export.interactions import InteractionsBuilder
from streamer.core.event_types import EventTypes
from streamer.core.protocol import ItemRecord
from streamer.errors import DataError
from streamer.serving.text_encoder import TOKENIZER, TextEncoder
from tests.tiny_artefact import tiny_bert

CONFIG = PretrainConfig(steps=15, batch_texts=8, rank=4, max_tokens=16)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


def corpus() -> tuple[list[str], np.ndarray]:
    """Sentences in which the second word follows from the first."""
    rng = np.random.default_rng(0)
    pairs = [("good", "film"), ("bad", "book"), ("item", "number")]
    which = rng.integers(0, 3, 120)
    ends = rng.integers(0, 10, (120, 3))
    texts = [
        f"the {' '.join(pairs[w])} {' '.join(map(str, end))}" for w, end in zip(which, ends, strict=True)
    ]
    return texts, np.eye(3, dtype=np.float32)[which]


@pytest.fixture(scope="module")
def adapted(bert: Path) -> Pretrained:
    return pretrain(bert, *corpus(), CONFIG)


@pytest.fixture(scope="module")
def saved(adapted: Pretrained, bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(
        adapted.bert, bert / TOKENIZER, tmp_path_factory.mktemp("saved") / "adapted", adapted.figures
    )


@pytest.mark.parametrize("method", ["lora", "adalora", "full"])
def test_words_are_learned_and_the_geometry_stays(method: str, bert: Path) -> None:
    texts, categories = corpus()
    config = PretrainConfig(method=method, steps=40, batch_texts=16, rank=4, max_tokens=16)  # type: ignore[arg-type]
    done = pretrain(bert, texts, categories, config)
    figures = done.figures
    assert figures["masked_words"] < figures["masked_words_before"]
    assert figures["geometry"] > 0.9
    assert (figures["trained_share"] == 1) == (method == "full")
    assert not any("lora" in name for name, _ in done.bert.named_parameters())  # merged


def test_without_distillation_the_geometry_goes(bert: Path) -> None:
    texts, categories = corpus()
    kept, lost = (
        pretrain(bert, texts, categories, PretrainConfig(method="full", steps=30, batch_texts=16, learning_rate=1e-3,
                                                         geometry_weight=weight, max_tokens=16)).figures["geometry"]
        for weight in (10.0, 0.0)
    )  # fmt: skip
    assert kept > lost


def test_the_same_seed_gives_the_same_weights(adapted: Pretrained, bert: Path) -> None:
    one, other = adapted.bert.state_dict(), pretrain(bert, *corpus(), CONFIG).bert.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_encoder_on_disk_is_whole_and_never_changes(
    saved: Path, adapted: Pretrained, bert: Path, tmp_path: Path
) -> None:
    texts, categories = corpus()
    out = saved
    assert quality_of(out)["encoder_geometry"] == pytest.approx(adapted.figures["geometry"])
    vectors = TextEncoder.open(out).encode(texts)
    assert vectors.shape == (120, 384)
    with pytest.raises(DataError, match="an encoder never changes"):
        save_encoder(adapted.bert, bert / TOKENIZER, out, {})
    again = pretrain(out / "weights", texts, categories, CONFIG)  # a further round
    assert again.figures["masked_words"] < again.figures["masked_words_before"]
    small = quantise_encoder(out, tmp_path / "int8", texts)
    assert {"encoder_int8_cosine", "encoder_int8_top10_overlap", "encoder_geometry"} <= quality_of(
        small
    ).keys()
    assert quality_of(small)["encoder_int8_cosine"] > 0.99
    assert quality_of(small)["encoder_int8_size"] < 0.5
    with pytest.raises(DataError, match="too few to measure"):
        quantise_encoder(out, tmp_path / "other", texts[:3])


def test_an_int8_vector_does_not_depend_on_its_company(saved: Path, tmp_path: Path) -> None:
    texts, _ = corpus()
    encoder = TextEncoder.open(quantise_encoder(saved, tmp_path / "int8", texts))
    together = encoder.encode([*texts[:20], "a much longer film about a book about a film about number 7"])
    alone = np.concatenate([encoder.encode([text]) for text in texts[:20]])
    np.testing.assert_array_equal(together[:20], alone)


@pytest.mark.parametrize("stage", ["save_pretrained", "export"])
def test_a_full_disk_leaves_nothing_behind(
    stage: str, adapted: Pretrained, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if stage == "save_pretrained":
        monkeypatch.setattr(type(adapted.bert), "save_pretrained", full)
    else:
        monkeypatch.setattr("model_export.text_export.export_graph", full)
    with pytest.raises(OSError, match="No space left"):
        save_encoder(adapted.bert, bert / TOKENIZER, tmp_path / "out" / "adapted", {})
    assert list((tmp_path / "out").iterdir()) == []


def test_fidelity_counts_what_stays_near() -> None:
    exact = np.eye(4, dtype=np.float32)[[0, 0, 1, 1]]
    turned = exact[[0, 2, 1, 3]]
    assert fidelity(exact, exact, k=1) == {"encoder_int8_cosine": 1.0, "encoder_int8_top10_overlap": 1.0}
    assert fidelity(exact, turned, k=1)["encoder_int8_cosine"] == 0.5


def test_what_is_read() -> None:
    builder = InteractionsBuilder(EventTypes.DEFAULT)
    builder.add_item(ItemRecord("a", "Heat", categories=["Crime"]))
    builder.add("u", "a", "review", 1, 5, "loud")
    builder.add("u", None, "search", 2, text="quiet")
    texts, categories = pretraining_texts(builder.build(), 0)
    assert dict(zip(texts, categories[:, 0].tolist(), strict=True)) == {
        "Heat. Crime": 1, "Heat": 1, "loud": 1, "quiet": 0,
    }  # fmt: skip


def test_bad_options_and_texts_are_sentences(bert: Path) -> None:
    with pytest.raises(DataError, match="method is 'dora'"):
        PretrainConfig(method="dora")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="max_tokens is 4"):
        PretrainConfig(max_tokens=4)
    with pytest.raises(DataError, match=r"only 0 of 40 texts have a word .* --items FILE"):
        pretrain(bert, [""] * 40, np.zeros((40, 0), np.float32), CONFIG)


def test_quality_is_optional(tmp_path: Path) -> None:
    assert quality_of(tmp_path) == {}
    (tmp_path / QUALITY).write_text('{"encoder_x": 1}')
    assert quality_of(tmp_path) == {"encoder_x": 1.0}


def test_the_command_writes_an_encoder_in_int8(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, items = tmp_path / "log.csv", tmp_path / "items.csv"
    log.write_text("user_id,item_id,timestamp_s\n" + "".join(f"{n % 7},{n % 40},{n}\n" for n in range(200)))
    titles = [f"{n},good film number {n},{'action' if n % 2 else 'drama'}\n" for n in range(40)]
    items.write_text("item_id,title,categories\n" + "".join(titles))
    options = ["--data", str(log), "--items", str(items), "--from", str(bert), "--out", str(tmp_path / "own")]
    assert main(["pretrain", *options, "--steps", "3", "--batch-texts", "8", "--int8"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "own")
    assert quality_of(tmp_path / "own")["encoder_int8_cosine"] > 0.9
    assert sorted(file.name for file in tmp_path.iterdir()) == ["items.csv", "log.csv", "own", "own-f32"]
    with pytest.raises(DataError, match="an encoder never changes"):
        main(["pretrain", *options])
    with pytest.raises(DataError, match=r"holds no BertModel with a config\.json"):
        main(["pretrain", *options[:4], "--from", str(tmp_path), "--out", str(tmp_path / "new")])
    with pytest.raises(DataError, match=r"holds no encoder\.onnx"):
        main(["train", *options[:4], "--text-encoder", str(bert), "--out", str(tmp_path / "models")])
