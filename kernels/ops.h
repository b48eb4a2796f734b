// Elementwise and row-wise operations of the forward pass, one table per instruction set.
//
// All work on fp32 rows and compute the same bits on every instruction set (isa/simd.h).
#pragma once

#include <cstdint>

#include "cpu_features.h"

namespace stoker {

enum class Activation : int { silu, gelu_tanh, gelu };

struct Ops {
  // out[i] = x[i] / sqrt(mean(x²) + eps) * weight[i]. `out` may be `x`.
  void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* out);
  // out = (x - mean) / sqrt(variance + eps) * weight + bias; `bias` may be null.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int n,
                     float* out);
  // Rotates pairs (x[i], x[i + half]) by the angles whose cosines and sines are given.
  void (*rope)(float* x, const float* cosines, const float* sines, int half);
  // out = act(gate) * up. `out` may be either input.
  void (*gate)(Activation activation, const float* gate, const float* up, int n, float* out);
  // x = act(x)
  void (*activate)(Activation activation, int n, float* x);
  // x += y
  void (*add)(const float* y, int n, float* x);
  // x *= factor
  void (*scale)(float factor, int n, float* x);
  // x = cap * tanh(x / cap)
  void (*softcap)(float cap, int n, float* x);
};

const Ops& ops_for(Isa isa);

}  // namespace stoker
