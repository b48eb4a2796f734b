#include "batch.h"

#include <stdexcept>
#include <string>

#include "attention.h"

namespace stoker {
namespace {

[[noreturn]] void fail(const std::string& field, int64_t value, const std::string& expected) {
  throw std::invalid_argument("batch: " + field + " is " + std::to_string(value) +
                              "; expected " + expected);
}

// `index` of the element at fault, where the field has several.
void in_range(const char* field, int64_t index, int64_t value, int64_t end) {
  if (value < 0 || value >= end)
    fail(std::string(field) + "[" + std::to_string(index) + "]", value,
         "0 to " + std::to_string(end - 1));
}

void all_in_range(const char* field, View<int32_t> ids, int vocab) {
  for (int i = 0; i < ids.size; ++i) in_range(field, i, ids.data[i], vocab);
}

std::string of_sequence(int s) { return " of sequence " + std::to_string(s); }

}  // namespace

void check(const SampleExtras& extras, int vocab) {
  all_in_range("prompt_ids", extras.prompt_ids, vocab);
  all_in_range("output_ids", extras.output_ids, vocab);
  all_in_range("bias_ids", extras.bias_ids, vocab);
  all_in_range("banned_ids", extras.banned_ids, vocab);
  if (extras.bias_values.size != extras.bias_ids.size)
    fail("number of bias_values", extras.bias_values.size,
         "as many as bias_ids, " + std::to_string(extras.bias_ids.size));
  const int words = (vocab + 31) / 32;
  if (extras.allowed_mask.size != 0 && extras.allowed_mask.size != words)
    fail("number of words of allowed_mask", extras.allowed_mask.size,
         std::to_string(words) + ", one bit for each token of the vocabulary");
}

void check(const Batch& batch, const ModelConfig& config, const BatchLimits& limits) {
  if (batch.tokens < 1 || batch.tokens > limits.max_tokens)
    fail("number of tokens", batch.tokens,
         "1 to max_num_batched_tokens, " + std::to_string(limits.max_tokens));
  if (batch.sequences < 1 || batch.sequences > limits.max_sequences)
    fail("number of sequences", batch.sequences,
         "1 to max_num_seqs, " + std::to_string(limits.max_sequences));
  for (int i = 0; i < batch.tokens; ++i)
    in_range("token_ids", i, batch.token_ids[i], config.vocab_size);

  if (batch.query_starts[0] != 0) fail("query_starts[0]", batch.query_starts[0], "0");
  if (batch.query_starts[batch.sequences] != batch.tokens)
    fail("the last of query_starts", batch.query_starts[batch.sequences],
         "the number of tokens, " + std::to_string(batch.tokens));
  const int64_t capacity = int64_t{batch.table_width} * kBlockTokens;
  for (int s = 0; s < batch.sequences; ++s) {
    const int64_t queries = int64_t{batch.query_starts[s + 1]} - batch.query_starts[s];
    if (queries < 1 || batch.query_starts[s + 1] > batch.tokens)
      fail("number of tokens" + of_sequence(s), queries, "1 or more, within the batch");
    if (batch.context_lens[s] < 0)
      fail("context length" + of_sequence(s), batch.context_lens[s], "0 or more");
    const int64_t end = batch.context_lens[s] + queries;
    if (end > capacity)
      fail("length" + of_sequence(s), end,
           "at most what its block table holds, " + std::to_string(capacity));
    if (config.learned_positions && end > config.max_position)
      fail("length" + of_sequence(s), end,
           "at most the model's positions, " + std::to_string(config.max_position));
    for (int64_t b = 0; b * kBlockTokens < end; ++b) {
      const int32_t block = batch.block_table(s)[b];
      if (block < 0 || block >= limits.blocks)
        fail("block " + std::to_string(b) + of_sequence(s), block,
             "0 to " + std::to_string(limits.blocks - 1));
    }
  }
  for (int i = 0; i < 2 * batch.copies; ++i)
    in_range("block_copies", i / 2, batch.block_copies[i], limits.blocks);
  for (int i = 0; i < batch.embeds; ++i)
    in_range("embed_rows", i, batch.embed_rows[i], batch.tokens);
  for (size_t i = 0; i < batch.samples.size(); ++i)
    in_range("sample.rows", static_cast<int64_t>(i), batch.samples[i].row, batch.tokens);
  for (const SampleExtras& extras : batch.extras) check(extras, config.vocab_size);
  for (size_t i = 0; i < batch.scores.size(); ++i) {
    in_range("score.rows", static_cast<int64_t>(i), batch.scores[i].row, batch.tokens);
    in_range("score.targets", static_cast<int64_t>(i), batch.scores[i].target, config.vocab_size);
  }
}

}  // namespace stoker
