"""zoo.data.texts and zoo.data.datasets: tokenisation, truncation, padding, word alignment, masking."""

from __future__ import annotations

import pytest
import torch
import words
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data import datasets, sampler, texts
from zoo.data.batch_options import BatchOptions
from zoo.errors import DataError
from zoo.plugin import TextInput

SPEC = TextInput(("tokenizer.json",), 64, pairs=True)
SENTENCES = st.lists(st.lists(st.sampled_from(words.PLAIN), max_size=30).map(" ".join), min_size=1, max_size=12)


def tokenise(inputs, length=64, truncation="head", special=True, spec=SPEC):
    return texts.tokenise(inputs, spec, words.tokenizer(), length=length, truncation=truncation, special=special)


def token_ids(found):
    return [found.ids[found.begins[i] : found.begins[i + 1]].tolist() for i in range(len(found))]


@given(SENTENCES, st.integers(8, 20))
@settings(deadline=None, max_examples=50)
def test_batch_matches_the_tokenizer_output_with_padding(inputs, length):
    found = tokenise(inputs, length)
    batch = found.batch(torch.arange(len(inputs)))
    for row, mask, text in zip(batch["input_ids"], batch["attention_mask"], inputs, strict=True):
        expected = words.fast().encode(text).ids
        kept = row[mask.bool()].tolist()
        assert kept == (expected if len(expected) <= length else [*expected[: length - 1], 3])
        assert row[~mask.bool()].eq(0).all()
        assert mask.tolist() == sorted(mask.tolist(), reverse=True)  # padded on the right


@pytest.mark.parametrize(
    ("truncation", "kept"), [("head", range(0, 8)), ("tail", range(4, 12)), ("head-tail", [0, 1, *range(6, 12)])]
)
def test_truncation_keeps_the_requested_ends(truncation, kept):
    text = (*words.GOOD, *words.BAD, *words.PLAIN)[:12]
    found = tokenise([" ".join(text)], length=10, truncation=truncation)
    assert token_ids(found) == [[2, *(5 + i for i in kept), 3]]
    assert found.truncated == 1


def test_pair_truncates_the_longer_text_and_has_token_types():
    found = tokenise([("the film", "great " * 30)], length=12)
    ids = found.batch(torch.tensor([0]))
    assert ids["input_ids"].shape == (1, 12)
    assert token_ids(found)[0][:4] == [2, *words.fast().encode("the film", add_special_tokens=False).ids, 3]
    assert ids["token_type_ids"].tolist() == [[0] * 4 + [1] * 8]
    assert found.truncated == 1


def test_pair_for_a_single_text_backbone_raises():
    with pytest.raises(DataError, match="has 2 texts, and this backbone takes one text"):
        tokenise([("the film", "great")], spec=TextInput((), 64))


@pytest.mark.parametrize("invalid", [None, 3, b"text", ("a", "b", "c"), ["a", 3]])
def test_invalid_text_input_raises(invalid):
    with pytest.raises(DataError, match="input 1"):
        tokenise(["the film", invalid])


def test_word_numbers_mark_the_first_token_of_each_word():
    fast = words.fast(("un", "##der", "##stand", "it"))
    tokenizer = texts.Tokenizer(fast, 0)
    found = texts.tokenise([["understand", "it"], ["it"]], SPEC, tokenizer, length=64, truncation="head")
    assert found.word_numbers(torch.tensor([0, 1])).tolist() == [[-1, 0, -1, -1, 1, -1], [-1, 0, -1, -1, -1, -1]]


def test_subset_batches_the_selected_texts():
    found = tokenise(["the film", "great", "a very dull plot"]).at([2, 0])
    assert found.lengths.tolist() == [6, 4]
    assert found.at([1]).batch(torch.tensor([0]))["input_ids"].tolist() == tokenise(["the film"]).ids[None].tolist()


def test_blocks_contain_every_token_once_between_special_tokens():
    inputs = [text for text, _ in words.reviews(20)]
    unblocked = tokenise(inputs, length=1 << 30, special=False)
    found = texts.blocks(unblocked, texts.special_tokens_around(words.tokenizer()), 3, length=16)
    stream = [token for ids in token_ids(unblocked) for token in (*ids, 3)]
    assert all(ids[0] == 2 and ids[-1] == 3 and len(ids) <= 16 for ids in token_ids(found))
    held = [token for ids in token_ids(found) for token in ids[1:-1]]
    assert held in (stream, stream[:-1])  # a final block of one token is dropped


def test_blocks_of_too_few_tokens_raise():
    with pytest.raises(DataError, match="too few tokens"):
        texts.blocks(tokenise([""], special=False), ([], []), None, 16)


def test_truncated_words_have_no_target():
    found = tokenise([["the", "film", "was", "great"], ["a"]], length=4)
    tagged = datasets.TaggedTexts(found, [torch.tensor([0, 1, 2, 3]), torch.tensor([4])])
    batch = tagged.batch(torch.tensor([1, 0]))
    assert batch.selected.sum(1).tolist() == [1, 2]
    assert batch.targets.tolist() == [4, 0, 1]


def masked_texts(count=30):
    unblocked = tokenise([text for text, _ in words.reviews(count)], length=1 << 30, special=False)
    special = texts.special_tokens_around(words.tokenizer())
    return datasets.MaskedTexts(
        texts.blocks(unblocked, special, 3, length=32), mask=4, vocabulary=25, special=frozenset(range(5))
    )


def test_masked_batch_targets_masked_tokens_and_never_special_tokens():
    data = masked_texts()
    every = torch.arange(len(data))
    plain = data.inputs.batch(every)["input_ids"]
    batch = data.batch(every, BatchOptions(generator=torch.Generator().manual_seed(1)))
    assert torch.equal(plain[batch.selected], batch.targets)
    assert torch.equal(plain[~batch.selected], batch.inputs["input_ids"][~batch.selected])
    assert not (plain[batch.selected] < 5).any()
    assert batch.selected.any(1).all()  # at least one per block
    hidden = batch.inputs["input_ids"][batch.selected] == 4
    assert 0.6 < hidden.float().mean() < 0.95
    assert 0.08 < batch.selected.sum() / (plain >= 5).sum() < 0.25


def test_masks_are_random_in_training_and_fixed_in_evaluation():
    data = masked_texts()
    rows = torch.arange(4)
    steps = [data.batch(rows, BatchOptions(generator=torch.Generator().manual_seed(seed))).selected for seed in (1, 2)]
    assert not torch.equal(*steps)
    assert torch.equal(data.batch(rows).selected, data.batch(rows).selected)


def test_causal_batch_targets_the_next_tokens():
    found = tokenise(["the film was great", "a plot"], special=False)
    batch = datasets.CausalTexts(found).batch(torch.tensor([0, 1]))
    assert batch.selected.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert batch.targets.tolist() == [*token_ids(found)[0][1:], *token_ids(found)[1][1:]]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(1, 16), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_bucketing_draws_every_example_once_per_epoch(lengths, size, seed):
    size = min(size, len(lengths))
    steps = len(lengths) // size
    batches = [t for _, t in sampler.training_order(len(lengths), size, steps, seed, lengths=torch.tensor(lengths))]
    drawn = torch.cat(batches).tolist()
    assert len(drawn) == len(set(drawn)) == steps * size
    assert all(len(batch) == size for batch in batches)


def test_bucketing_reduces_padding():
    lengths = torch.randint(1, 100, (640,), generator=torch.Generator().manual_seed(0))

    def padded(**more):
        return sum(int(lengths[t].max()) * len(t) for _, t in sampler.training_order(640, 16, 40, 0, **more))

    assert padded(lengths=lengths) < 0.7 * padded()


def test_weighted_sampling_is_proportional_to_the_weights():
    weights = torch.tensor([1.0] * 90 + [9.0] * 10)
    drawn = torch.cat([t for _, t in sampler.training_order(100, 10, 100, 0, weights=weights)])
    assert 0.4 < (drawn >= 90).float().mean() < 0.6


def test_sequential_batches_are_sorted_by_decreasing_length():
    batches = sampler.sequential_batches(5, 2, torch.tensor([3, 9, 1, 9, 4]))
    assert [batch.tolist() for batch in batches] == [[1, 3], [4, 0], [2]]


def test_a_text_beyond_the_limit_raises_with_its_length(monkeypatch):
    monkeypatch.setattr("zoo.data.texts.MAX_CHARACTERS", 20)
    with pytest.raises(DataError, match="input 1 has 21 characters; the limit is 20"):
        tokenise(["a cat", "x" * 21])


def test_texts_are_tokenised_alike_in_chunks_of_any_size(monkeypatch):
    inputs = [f"the {'cat ' * number}" for number in range(9)]
    whole = tokenise(inputs)
    monkeypatch.setattr("zoo.data.texts.MAX_CHARACTERS", 40)
    parts = tokenise(inputs)
    assert torch.equal(parts.ids, whole.ids)
    assert torch.equal(parts.begins, whole.begins)


def test_tokens_take_five_bytes_of_memory():
    found = tokenise(["the film was great"] * 3, 8)
    assert len(found.ids) == 18
    assert sum(each.untyped_storage().nbytes() for each in (found.ids, found.types, found.words)) == 18 * 5 + 4
