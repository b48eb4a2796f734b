// The end of a step: final hidden states, the logits of the rows that need them, and samples.
#include <algorithm>

#include "forward.h"

namespace stoker {

void Forward::prepare_logits() {
  logit_rows_.clear();
  for (const auto& sample : batch_->samples) logit_rows_.push_back(sample.row);
  for (const auto& score : batch_->scores) logit_rows_.push_back(score.row);
  std::sort(logit_rows_.begin(), logit_rows_.end());
  logit_rows_.erase(std::unique(logit_rows_.begin(), logit_rows_.end()), logit_rows_.end());

  const auto index_of = [&](int row) {
    const auto found = std::lower_bound(logit_rows_.begin(), logit_rows_.end(), row);
    return static_cast<int>(found - logit_rows_.begin());
  };
  tasks_.clear();
  for (size_t i = 0; i < batch_->samples.size(); ++i)
    tasks_.push_back({index_of(batch_->samples[i].row), false, static_cast<int>(i)});
  for (size_t i = 0; i < batch_->scores.size(); ++i)
    tasks_.push_back({index_of(batch_->scores[i].row), true, static_cast<int>(i)});
  std::stable_sort(tasks_.begin(), tasks_.end(), [](const SampleTask& a, const SampleTask& b) {
    return a.logit_row < b.logit_row;
  });

  const int groups =
      (static_cast<int>(logit_rows_.size()) + space_.logit_rows - 1) / space_.logit_rows;
  for (int i = 0; i < groups; ++i) sample_tickets_[i].reset();
}

void Forward::embeddings(int thread) {
  const int hidden = config_.hidden_size;
  const Share rows = share_of(batch_->embeds, thread, pool_.size());
  for (int i = rows.begin; i < rows.end; ++i)
    norm_row(weights_.norm, space_.x + static_cast<ptrdiff_t>(batch_->embed_rows[i]) * hidden,
             output_->embeddings + static_cast<ptrdiff_t>(i) * hidden);
}

void Forward::logits_and_samples(int thread, StepClock& clock) {
  const int hidden = config_.hidden_size, vocab = config_.vocab_size;
  const PackedMatrix& head = weights_.output_projection();
  const ThreadWorkspace mine = space_.thread(thread);
  const Share panels = share_of(head.panels(), thread, pool_.size());
  const int col = panels.begin * kPanelRows;
  const int cols = std::min(panels.end * kPanelRows, vocab) - col;

  const int all = static_cast<int>(logit_rows_.size());
  int next_task = 0;
  for (int top = 0, group = 0; top < all; top += space_.logit_rows, ++group) {
    const int rows = std::min(space_.logit_rows, all - top);
    const bool alone = rows <= kRedundantRows;
    const Rounded in = space_.rounded(alone ? mine.redundant : space_.hidden, rows, hidden);
    const Share normed = alone ? Share{0, rows} : share_of(rows, thread, pool_.size());
    for (int i = normed.begin; i < normed.end; ++i) {
      norm_row(weights_.norm, space_.x + static_cast<ptrdiff_t>(logit_rows_[top + i]) * hidden,
               mine.row);
      round_row(mine.row, i, in);
    }
    if (alone)
      clock.mark(Part::norm);
    else
      meet(Part::norm, thread, clock);

    matmul(matmul_, head, input_for(in, head), 0, rows, panels.begin, panels.end, space_.logits,
           vocab);
    if (config_.logit_softcap > 0 && cols > 0)
      for (int i = 0; i < rows; ++i)
        ops_.softcap(config_.logit_softcap, cols,
                     space_.logits + static_cast<ptrdiff_t>(i) * vocab + col);
    if (thread == 0 && top == 0 && batch_->before_sampling) batch_->before_sampling();
    meet(Part::logits, thread, clock);

    int end_task = next_task;
    while (end_task < static_cast<int>(tasks_.size()) && tasks_[end_task].logit_row < top + rows)
      ++end_task;
    for (int i; (i = next_task + sample_tickets_[group].take()) < end_task;)
      do_task(tasks_[i], space_.logits + static_cast<ptrdiff_t>(tasks_[i].logit_row - top) * vocab,
              thread);
    next_task = end_task;
    if (top + rows < all)
      meet(Part::sampling, thread, clock);
    else
      clock.mark(Part::sampling);
  }
}

void Forward::do_task(const SampleTask& task, const float* logits, int thread) {
  const int vocab = config_.vocab_size;
  const SampleScratch scratch = lay_out_sample_scratch(space_.thread(thread).sampling, vocab);
  if (task.is_score) {
    const ScoreRequest& score = batch_->scores[task.index];
    token_logprobs(sample_, logits, vocab, score.target, score.num_logprobs,
                   output_->scores.of(task.index), scratch);
    return;
  }
  const SampleRequest& sample = batch_->samples[task.index];
  const int token = sample_row(sample_, logits, vocab, sample, scratch);
  output_->token_ids[task.index] = token;
  if (sample.num_logprobs >= 0)
    token_logprobs(sample_, logits, vocab, token, sample.num_logprobs,
                   output_->samples.of(task.index), scratch);
}

}  // namespace stoker
