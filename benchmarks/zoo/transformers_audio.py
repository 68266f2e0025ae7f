"""transformers: speech, sound, time series, and decisions."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from . import Builder
from ._tiny import VOCAB, config_of, family_name, tiny

MODELS: dict[str, Builder] = {}
FAMILIES: dict[str, str] = {}


def _add(kind: str, group: str, example: partial[dict[str, Any]], **options: Any) -> None:
    """Register a model with what makes its example."""
    MODELS[family_name(kind)] = lambda: (_make(kind, options), example())
    FAMILIES[family_name(kind)] = group


def _make(kind: str, options: dict[str, Any]) -> nn.Module:
    return tiny(kind, **{k: v() if isinstance(v, partial) else v for k, v in options.items()})


def _tokens(length: int, rows: int = 2) -> Tensor:
    return torch.randint(3, VOCAB, (rows, length))


def _wave(samples: int = 1600) -> dict[str, Tensor]:
    return {"input_values": torch.randn(2, samples)}


def _sound(samples: int = 640) -> dict[str, Tensor]:
    return {"input_values": torch.randn(2, 1, samples)}


def _features(frames: int = 40, bins: int = 20, key: str = "input_features") -> dict[str, Tensor]:
    return {key: torch.randn(2, frames, bins)}


def _mel_and_text() -> dict[str, Tensor]:
    return {"input_features": torch.randn(2, 20, 40), "decoder_input_ids": _tokens(7)}


def _frames_and_text() -> dict[str, Tensor]:
    return {"input_features": torch.randn(2, 40, 20), "decoder_input_ids": _tokens(7)}


_CONV = {
    "conv_dim": [16, 24, 32], "conv_stride": [5, 4, 2], "conv_kernel": [10, 4, 2],
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "num_feat_extract_layers": 3,
    "vocab_size": 32, "apply_spec_augment": False,
}  # fmt: skip
for _kind in ("Wav2Vec2ForCTC", "HubertForCTC", "WavLMForCTC", "UniSpeechForCTC",
              "UniSpeechSatForCTC"):  # fmt: skip
    _add(_kind, "audio", partial(_wave), **_CONV)
_add("Data2VecAudioForCTC", "audio", partial(_wave), **_CONV, conv_pos_kernel_size=5)
_add("Wav2Vec2ConformerForCTC", "audio", partial(_wave), **_CONV, conv_depthwise_kernel_size=5)
_add("SEWForCTC", "audio", partial(_wave), **_CONV)
_add("SEWDForCTC", "audio", partial(_wave), **_CONV, position_buckets=16)
_add("Wav2Vec2BertForCTC", "audio", partial(_features), feature_projection_input_dim=20,
     vocab_size=32, conv_depthwise_kernel_size=5, apply_spec_augment=False)  # fmt: skip
_add("ASTForAudioClassification", "audio", partial(_features, key="input_values"), max_length=40,
     num_mel_bins=20, frequency_stride=4, time_stride=4)  # fmt: skip
_add("WhisperForConditionalGeneration", "audio", partial(_mel_and_text), num_mel_bins=20,
     max_source_positions=20, max_target_positions=20, decoder_start_token_id=1)  # fmt: skip
_add("Speech2TextForConditionalGeneration", "audio", partial(_frames_and_text), conv_channels=48,
     input_feat_per_channel=20, max_source_positions=64, max_target_positions=20)  # fmt: skip
_add("MoonshineForConditionalGeneration", "audio",
     lambda: _wave(4000) | {"decoder_input_ids": _tokens(7)}, encoder_num_hidden_layers=2,
     decoder_num_hidden_layers=2, encoder_num_attention_heads=4, decoder_num_attention_heads=4,
     encoder_num_key_value_heads=4, decoder_num_key_value_heads=4)  # fmt: skip
_add(
    "SpeechT5ForSpeechToText",
    "audio",
    lambda: _wave() | {"decoder_input_ids": _tokens(7)},
    **{**_CONV, "vocab_size": VOCAB, "encoder_max_relative_position": 20, "max_text_positions": 20},
)
_add("ParakeetForCTC", "audio", partial(_features, frames=64, bins=24), encoder_config=partial(
    config_of, "ParakeetEncoderConfig", num_mel_bins=24, subsampling_conv_channels=16,
    conv_kernel_size=5), vocab_size=33, pad_token_id=32)  # fmt: skip
_add("LasrForCTC", "audio", partial(_features, frames=64), encoder_config=partial(
    config_of, "LasrEncoderConfig", num_mel_bins=20, subsampling_conv_channels=16,
    conv_kernel_size=5), vocab_size=33, pad_token_id=32)  # fmt: skip
_add(
    "EncodecModel",
    "audio",
    partial(_sound),
    hidden_size=32,
    num_filters=8,
    codebook_size=32,
    upsampling_ratios=[4, 2],
    sampling_rate=800,
    target_bandwidths=[2.0],
    codebook_dim=32,
)
_add("DacModel", "audio", partial(_sound), encoder_hidden_size=8, downsampling_ratios=[2, 4],
     decoder_hidden_size=48, n_codebooks=3, codebook_size=32, hidden_size=32,
     upsampling_ratios=[4, 2])  # fmt: skip
_add("MimiModel", "audio", partial(_sound), num_filters=8, upsampling_ratios=[4, 2],
     codebook_size=32, codebook_dim=32, vector_quantization_hidden_dimension=32, num_quantizers=4,
     upsample_groups=64, num_key_value_heads=4, sampling_rate=800, frame_rate=50)  # fmt: skip
_add("UnivNetModel", "audio", lambda: {"input_features": torch.randn(2, 12, 20),
                                       "noise_sequence": torch.randn(2, 12, 16)},
     model_in_channels=16, model_hidden_channels=12, num_mel_bins=20,
     kernel_predictor_hidden_channels=16)  # fmt: skip
_add(
    "FastSpeech2ConformerModel",
    "audio",
    lambda: {"input_ids": _tokens(9)},
    num_mel_bins=20,
    encoder_linear_units=96,
    decoder_linear_units=96,
    speech_decoder_postnet_units=24,
    duration_predictor_channels=24,
    energy_predictor_channels=24,
    pitch_predictor_channels=24,
    encoder_num_attention_heads=2,
    decoder_num_attention_heads=2,
    decoder_kernel_size=7,
)
_add("FastSpeech2ConformerHifiGan", "audio", lambda: {"spectrogram": torch.randn(2, 9, 20)},
     model_in_dim=20, upsample_initial_channel=48, upsample_rates=[4, 4],
     upsample_kernel_sizes=[8, 8])  # fmt: skip
_add("MusicgenForCausalLM", "audio", lambda: {"input_ids": _tokens(9, 2 * 4)}, num_codebooks=4)

_SERIES = {
    "prediction_length": 4, "context_length": 10, "lags_sequence": [1, 2], "num_time_features": 2,
    "input_size": 1, "scaling": "mean",
}  # fmt: skip


def _series() -> dict[str, Tensor]:
    return {
        "past_values": torch.rand(2, 12) + 1, "past_time_features": torch.randn(2, 12, 2),
        "past_observed_mask": torch.ones(2, 12), "future_values": torch.rand(2, 4) + 1,
        "future_time_features": torch.randn(2, 4, 2),
    }  # fmt: skip


_add("TimeSeriesTransformerModel", "time series", partial(_series), **_SERIES)
_add("InformerModel", "time series", partial(_series), **_SERIES, attention_type="full")
_add(
    "AutoformerModel", "time series", partial(_series), **_SERIES, label_length=4, moving_average=5
)
_add(
    "PatchTSTForPrediction",
    "time series",
    lambda: {"past_values": torch.randn(2, 24, 3)},
    num_input_channels=3,
    context_length=24,
    patch_length=4,
    patch_stride=4,
    prediction_length=5,
)
_add("PatchTSMixerForPrediction", "time series", lambda: {"past_values": torch.randn(2, 24, 3)},
     num_input_channels=3, context_length=24, patch_length=4, patch_stride=4, prediction_length=5,
     mode="mix_channel")  # fmt: skip
_add("TimesFmModelForPrediction", "time series", lambda: {
    "past_values": [torch.randn(32), torch.randn(30)], "freq": torch.tensor([0, 1])},
    patch_length=8, context_length=32, horizon_length=16, num_attention_heads=4)  # fmt: skip
_add("DecisionTransformerModel", "decisions", lambda: {
    "states": torch.randn(2, 5, 11), "actions": torch.randn(2, 5, 3),
    "returns_to_go": torch.randn(2, 5, 1), "timesteps": torch.arange(5).repeat(2, 1),
    "attention_mask": torch.ones(2, 5)}, state_dim=11, act_dim=3, max_ep_len=12)  # fmt: skip
