// The forward pass over a mixed batch: prefill chunks and decodes together, then sampling.
//
// Every thread runs the whole pass (`Forward::work`), takes its share of each phase and meets the
// others between phases. Work is shared by rows where rows are independent (norms, rotary, writing
// the cache), by panels of outputs where weights are streamed (products), and by items taken from
// a common counter where costs differ (attention, sampling).
#pragma once

#include <memory>
#include <vector>

#include "attention.h"
#include "attention_plan.h"
#include "batch.h"
#include "kv_cache.h"
#include "matmul.h"
#include "memory.h"
#include "model_weights.h"
#include "ops.h"
#include "rope_table.h"
#include "sample.h"
#include "thread_pool.h"
#include "timings.h"
#include "workspace.h"

namespace stoker {

// Log-probabilities of n tokens, each with the `width` most likely ones beside it.
struct LogprobArrays {
  int width = 0;
  float* logprobs = nullptr;      // [n]; null where none are wanted
  int32_t* ranks = nullptr;       // [n]
  int32_t* top_ids = nullptr;     // [n][width]
  float* top_logprobs = nullptr;  // [n][width]

  TokenLogprobs of(int i) const {
    const ptrdiff_t row = static_cast<ptrdiff_t>(i) * width;
    return {logprobs + i, ranks + i, top_ids + row, top_logprobs + row};
  }
};

// Where a step's results go; the memory is the caller's.
struct StepOutput {
  int32_t* token_ids = nullptr;  // [samples]
  LogprobArrays samples, scores;
  float* embeddings = nullptr;   // [embeds][hidden]
  Timings* timings = nullptr;    // null: not measured
};

class Forward {
 public:
  Forward(const ModelConfig& config, const ModelWeights& weights, KVCache& cache,
          const AttentionShape& shape, Isa isa, const WorkspaceLimits& limits, ThreadPool& pool);
  ~Forward();

  size_t workspace_bytes() const { return space_.bytes; }

  // Computes a step that `check` has passed.
  void run(const Batch& batch, StepOutput& output);

 private:
  struct Product;  // one of several matrices that share an input
  struct SampleTask {
    int logit_row;  // index into logit_rows_
    bool is_score;
    int index;      // of the sample or the score
  };

  void prepare(const Batch& batch, StepOutput& output);
  void prepare_logits();
  void work(int thread);

  void copy_blocks(int thread);
  void embed(int thread);
  void attention_block(int layer, int thread, StepClock& clock);
  void rotate_and_write(int layer, int thread);
  void attend(int layer, int thread, StepClock& clock);
  void mlp_block(int layer, int thread, StepClock& clock);
  void mlp_tiles(const LayerWeights& w, const Rounded& in, int thread);
  void logits_and_samples(int thread, StepClock& clock);
  void embeddings(int thread);
  void do_task(const SampleTask& task, const float* logits, int thread);

  // Norms rows of x and rounds them, for every thread at once or for each alone.
  Rounded normed(const NormWeights& norm, int thread, StepClock& clock);
  void norm_row(const NormWeights& norm, const float* x, float* out) const;
  void round_row(const float* row, int m, const Rounded& out) const;
  // Rounds `cols` columns, from column `col` (a multiple of 32) on, of rows [m, m + rows), which lie
  // `stride` floats apart.
  void round_part(const float* part, ptrdiff_t stride, int m, int rows, int col, int cols,
                  const Rounded& out) const;
  // This thread's share of several products of the same input.
  void products(const Product* list, int count, const Rounded& in, int rows, float* out,
                ptrdiff_t stride, int thread) const;
  void product(const Product& p, const Rounded& in, int m_begin, int m_end, int panel_begin,
               int panel_end, float* out, ptrdiff_t stride) const;
  // x += W in + bias, or where the model has post-norms, `projected` = W in + bias.
  void project(const PackedMatrix& weight, const Vector& bias, const Rounded& in, int thread);
  void add_normed(const NormWeights& norm, int thread, StepClock& clock);
  // Ends a part of the step, where every thread waits for the others.
  void meet(Part done, int thread, StepClock& clock);

  const ModelConfig& config_;
  const ModelWeights& weights_;
  KVCache& cache_;
  const AttentionShape shape_;
  const Ops& ops_;
  const MatmulKernels& matmul_;
  const AttentionKernels& attention_;
  const SampleKernels& sample_;
  ThreadPool& pool_;
  Memory memory_;
  Workspace space_;
  std::vector<RopeTable> ropes_;

  // Of the step in hand.
  const Batch* batch_ = nullptr;
  StepOutput* output_ = nullptr;
  std::vector<int> windows_;                 // distinct windows of the layers
  std::vector<int> window_of_layer_;         // index into windows_
  std::vector<AttentionPlan> plans_;         // one for each window
  std::unique_ptr<Tickets[]> attention_tickets_;  // one for each layer
  std::vector<int> logit_rows_;              // rows of the batch whose logits are needed, ascending
  std::vector<SampleTask> tasks_;            // by row
  std::unique_ptr<Tickets[]> sample_tickets_;     // one for each group of logit rows
};

}  // namespace stoker
