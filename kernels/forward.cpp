#include "forward.h"

#include <algorithm>
#include <cstring>

#include "denormals.h"

namespace stoker {
namespace {

constexpr int kRoundedTogether = 8;  // rows of an MLP tile

}  // namespace

struct Forward::Product {
  const PackedMatrix* weight;
  const Vector* bias;  // null or empty: none
  int col;  // of the output where this product's begin
};

Forward::Forward(const ModelConfig& config, const ModelWeights& weights, KVCache& cache,
                 const AttentionShape& shape, Isa isa, const WorkspaceLimits& limits,
                 ThreadPool& pool)
    : config_(config),
      weights_(weights),
      cache_(cache),
      shape_(shape),
      ops_(ops_for(isa)),
      matmul_(matmul_kernels(isa)),
      attention_(attention_kernels(isa)),
      sample_(sample_kernels(isa)),
      pool_(pool),
      memory_(Workspace(config, shape, limits, nullptr).bytes),
      space_(config, shape, limits, memory_.data()),
      ropes_(config.ropes.begin(), config.ropes.end()),
      attention_tickets_(std::make_unique<Tickets[]>(config.layers.size())),
      sample_tickets_(std::make_unique<Tickets[]>(limits.max_tokens)) {
  for (const LayerConfig& layer : config.layers) {
    auto found = std::find(windows_.begin(), windows_.end(), layer.window);
    if (found == windows_.end()) found = windows_.insert(found, layer.window);
    window_of_layer_.push_back(static_cast<int>(found - windows_.begin()));
  }
  plans_.resize(windows_.size());
}

Forward::~Forward() = default;

void Forward::run(const Batch& batch, StepOutput& output) {
  prepare(batch, output);
  pool_.run([this](int thread) {
    const FlushDenormals flush;
    work(thread);
  });
  batch_ = nullptr;
  output_ = nullptr;
}

void Forward::prepare(const Batch& batch, StepOutput& output) {
  batch_ = &batch;
  output_ = &output;
  int longest = 0;
  for (int s = 0; s < batch.sequences; ++s) {
    const int start = batch.query_starts[s], end = batch.query_starts[s + 1];
    for (int m = start; m < end; ++m) {
      space_.positions[m] = batch.context_lens[s] + m - start;
      space_.sequences[m] = s;
    }
    longest = std::max(longest, batch.context_lens[s] + end - start);
  }
  for (RopeTable& rope : ropes_) rope.extend(longest);
  for (size_t i = 0; i < windows_.size(); ++i)
    plan_attention(batch, config_, windows_[i], pool_.size(), space_.partial_slots, plans_[i]);
  for (int layer = 0; layer < config_.num_layers(); ++layer) attention_tickets_[layer].reset();
  prepare_logits();
}

void Forward::work(int thread) {
  StepClock clock(thread == 0 ? output_->timings : nullptr);
  if (batch_->copies > 0) {
    copy_blocks(thread);
    meet(Part::embed, thread, clock);
  }
  embed(thread);
  meet(Part::embed, thread, clock);
  for (int layer = 0; layer < config_.num_layers(); ++layer) {
    attention_block(layer, thread, clock);
    mlp_block(layer, thread, clock);
  }
  embeddings(thread);
  logits_and_samples(thread, clock);
}

void Forward::meet(Part done, int thread, StepClock& clock) {
  clock.mark(done);
  pool_.barrier(thread);
  clock.mark(Part::waiting);
}

// Layers are shared, so that copies of copies within a layer keep their order.
void Forward::copy_blocks(int thread) {
  const Share layers = share_of(config_.num_layers(), thread, pool_.size());
  for (int layer = layers.begin; layer < layers.end; ++layer)
    for (int i = 0; i < batch_->copies; ++i)
      cache_.copy(layer, batch_->block_copies[2 * i], batch_->block_copies[2 * i + 1]);
}

void Forward::embed(int thread) {
  const int hidden = config_.hidden_size;
  const Share rows = share_of(batch_->tokens, thread, pool_.size());
  for (int m = rows.begin; m < rows.end; ++m) {
    float* x = space_.x + static_cast<ptrdiff_t>(m) * hidden;
    weights_.embed.dequantize_row(batch_->token_ids[m], x);
    if (config_.embedding_scale != 1.0f) ops_.scale(config_.embedding_scale, hidden, x);
    if (config_.learned_positions)
      ops_.add(weights_.positions.data() + static_cast<ptrdiff_t>(space_.positions[m]) * hidden,
               hidden, x);
  }
}

// ---- rows -----------------------------------------------------------------------------------

void Forward::norm_row(const NormWeights& norm, const float* x, float* out) const {
  if (config_.norm == NormKind::rms)
    ops_.rms_norm(x, norm.weight.data(), config_.norm_eps, config_.hidden_size, out);
  else
    ops_.layer_norm(x, norm.weight.data(), norm.bias.empty() ? nullptr : norm.bias.data(),
                    config_.norm_eps, config_.hidden_size, out);
}

void Forward::round_row(const float* row, int m, const Rounded& out) const {
  // A stride of zero: the same source for whichever row it becomes.
  if (out.int8.quantized) round_activations(matmul_, row, 0, m, m + 1, out.int8);
  if (out.bf16.values) round_activations(matmul_, row, 0, m, m + 1, out.bf16);
}

void Forward::round_part(const float* part, ptrdiff_t stride, int m, int rows, int col, int cols,
                         const Rounded& out) const {
  for (const Activations* whole : {&out.int8, &out.bf16})
    if (whole->quantized || whole->values)
      round_activations(matmul_, part, stride, 0, rows, part_of(*whole, m, rows, col, cols));
}

Rounded Forward::normed(const NormWeights& norm, int thread, StepClock& clock) {
  const ThreadWorkspace mine = space_.thread(thread);
  const bool alone = batch_->tokens <= kRedundantRows;
  const Rounded out = space_.rounded(alone ? mine.redundant : space_.hidden, batch_->tokens,
                                     config_.hidden_size);
  const Share rows =
      alone ? Share{0, batch_->tokens} : share_of(batch_->tokens, thread, pool_.size());
  for (int m = rows.begin; m < rows.end; ++m) {
    norm_row(norm, space_.x + static_cast<ptrdiff_t>(m) * config_.hidden_size, mine.row);
    round_row(mine.row, m, out);
  }
  if (alone)
    clock.mark(Part::norm);
  else
    meet(Part::norm, thread, clock);
  return out;
}

// ---- products -------------------------------------------------------------------------------

void Forward::product(const Product& p, const Rounded& in, int m_begin, int m_end,
                      int panel_begin, int panel_end, float* out, ptrdiff_t stride) const {
  matmul(matmul_, *p.weight, input_for(in, *p.weight), m_begin, m_end, panel_begin, panel_end,
         out + p.col, stride);
  if (!p.bias || p.bias->empty()) return;
  const int begin = panel_begin * kPanelRows;
  const int end = std::min(panel_end * kPanelRows, static_cast<int>(p.weight->rows()));
  for (int m = m_begin; m < m_end; ++m)
    ops_.add(p.bias->data() + begin, end - begin, out + p.col + begin + m * stride);
}

void Forward::products(const Product* list, int count, const Rounded& in, int rows, float* out,
                       ptrdiff_t stride, int thread) const {
  int panels = 0;
  for (int i = 0; i < count; ++i) panels += list[i].weight->panels();
  const Share mine = share_of(panels, thread, pool_.size());
  int first = 0;
  for (int i = 0; i < count; ++i) {
    const int all = list[i].weight->panels();
    const int begin = std::max(mine.begin - first, 0), end = std::min(mine.end - first, all);
    if (begin < end) product(list[i], in, 0, rows, begin, end, out, stride);
    first += all;
  }
}

void Forward::project(const PackedMatrix& weight, const Vector& bias, const Rounded& in,
                      int thread) {
  const int hidden = config_.hidden_size;
  const Product p{&weight, &bias, 0};
  products(&p, 1, in, batch_->tokens, space_.projected, hidden, thread);
  if (config_.post_norms) return;
  const Share panels = share_of(weight.panels(), thread, pool_.size());
  const int begin = panels.begin * kPanelRows;
  const int end = std::min(panels.end * kPanelRows, hidden);
  if (begin >= end) return;
  for (int m = 0; m < batch_->tokens; ++m) {
    const ptrdiff_t row = static_cast<ptrdiff_t>(m) * hidden;
    ops_.add(space_.projected + row + begin, end - begin, space_.x + row + begin);
  }
}

void Forward::add_normed(const NormWeights& norm, int thread, StepClock& clock) {
  const ThreadWorkspace mine = space_.thread(thread);
  const Share rows = share_of(batch_->tokens, thread, pool_.size());
  for (int m = rows.begin; m < rows.end; ++m) {
    const ptrdiff_t row = static_cast<ptrdiff_t>(m) * config_.hidden_size;
    norm_row(norm, space_.projected + row, mine.row);
    ops_.add(mine.row, config_.hidden_size, space_.x + row);
  }
  meet(Part::norm, thread, clock);
}

// ---- attention ------------------------------------------------------------------------------

void Forward::attention_block(int layer, int thread, StepClock& clock) {
  const LayerWeights& w = weights_.layers[layer];
  const Rounded in = normed(w.attn_norm, thread, clock);
  const Product qkv[] = {{&w.q, &w.q_bias, 0},
                         {&w.k, &w.k_bias, config_.q_size()},
                         {&w.v, &w.v_bias, config_.q_size() + config_.kv_size()}};
  products(qkv, 3, in, batch_->tokens, space_.qkv, config_.qkv_size(), thread);
  meet(Part::qkv, thread, clock);
  rotate_and_write(layer, thread);
  meet(Part::rotary, thread, clock);
  attend(layer, thread, clock);
  project(w.o, w.o_bias, space_.rounded(space_.attention, batch_->tokens, config_.q_size()),
          thread);
  meet(Part::output, thread, clock);
  if (config_.post_norms) add_normed(w.post_attn_norm, thread, clock);
}

// ---- MLP ------------------------------------------------------------------------------------

void Forward::mlp_block(int layer, int thread, StepClock& clock) {
  const LayerWeights& w = weights_.layers[layer];
  const Rounded in = normed(w.mlp_norm, thread, clock);
  mlp_tiles(w, in, thread);
  meet(Part::gate_up, thread, clock);
  project(w.down, w.down_bias,
          space_.rounded(space_.inner, batch_->tokens, config_.intermediate_size), thread);
  meet(Part::down, thread, clock);
  if (config_.post_norms) add_normed(w.post_mlp_norm, thread, clock);
}

// The gate's and the up projection's outputs of a tile meet in cache and leave it rounded.
void Forward::mlp_tiles(const LayerWeights& w, const Rounded& in, int thread) {
  const int most_rows = std::min(kMlpTileRows, batch_->tokens);
  const int most_panels = kMlpTileOutputs / (most_rows * 2 * kPanelRows) * 2;
  const ptrdiff_t stride = most_panels * kPanelRows;
  const ThreadWorkspace mine = space_.thread(thread);
  const Rounded out =
      space_.rounded(space_.inner, batch_->tokens, config_.intermediate_size);
  // In units of two panels, the 32 columns that are rounded together.
  const Share pairs = share_of((w.up.panels() + 1) / 2, thread, pool_.size());
  const int panel_end = std::min(pairs.end * 2, w.up.panels());
  for (int top = 0; top < batch_->tokens; top += most_rows) {
    const int rows = std::min(most_rows, batch_->tokens - top);
    for (int panel = pairs.begin * 2; panel < panel_end; panel += most_panels) {
      const int panels = std::min(most_panels, panel_end - panel), col = panel * kPanelRows;
      const int cols = std::min(panels * kPanelRows, config_.intermediate_size - col);
      // Outputs are written at their own row and column, seen from a tile that starts at both.
      const ptrdiff_t origin = top * stride + col;
      product({&w.up, &w.up_bias, 0}, in, top, top + rows, panel, panel + panels,
              mine.up - origin, stride);
      if (config_.gated)
        product({&w.gate, nullptr, 0}, in, top, top + rows, panel, panel + panels,
                mine.gate - origin, stride);
      for (int m = 0; m < rows; m += kRoundedTogether) {
        const int count = std::min(kRoundedTogether, rows - m);
        for (int i = m; i < m + count; ++i) {
          float* up = mine.up + i * stride;
          if (config_.gated)
            ops_.gate(config_.activation, mine.gate + i * stride, up, cols, up);
          else
            ops_.activate(config_.activation, cols, up);
        }
        round_part(mine.up + m * stride, stride, top + m, count, col, cols, out);
      }
    }
  }
}

}  // namespace stoker
