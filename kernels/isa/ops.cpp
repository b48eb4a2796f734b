// Norms, rotary embedding, activations and the like (see ops.h).
#include "ops.h"

#include "simd.h"

namespace stoker::STOKER_ISA {
extern const Ops ops;
namespace {

// Calls body(i, n) for each group of up to 16 elements; n is 16 but perhaps in the last.
template <typename Body>
STOKER_INLINE void for_lanes(int count, Body body) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, kLanes);
  if (i < count) body(i, count - i);
}
STOKER_INLINE Vec load_upto(const float* p, int n) {
  return n == kLanes ? load(p) : load_first(p, n);
}
STOKER_INLINE void store_upto(float* p, Vec x, int n) {
  if (n == kLanes)
    store(p, x);
  else
    store_first(p, x, n);
}

void rms_norm(const float* x, const float* weight, float eps, int n, float* out) {
  Vec sum = splat(0.0f);
  for_lanes(n, [&](int i, int k) {
    const Vec v = load_upto(x + i, k);
    sum = fma(v, v, sum);
  });
  const float mean = reduce_add(sum) / static_cast<float>(n);
  const Vec inverse = splat(1.0f / __builtin_sqrtf(mean + eps));
  for_lanes(n, [&](int i, int k) {
    store_upto(out + i, load_upto(x + i, k) * inverse * load_upto(weight + i, k), k);
  });
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, int n,
                float* out) {
  Vec sum = splat(0.0f);
  for_lanes(n, [&](int i, int k) { sum = sum + load_upto(x + i, k); });
  const Vec mean = splat(reduce_add(sum) / static_cast<float>(n));
  Vec squares = splat(0.0f);
  for_lanes(n, [&](int i, int k) {
    const Vec d = load_upto(x + i, k) - mean;
    // Lanes past the end would each add mean².
    const Vec inside = k == kLanes ? d : select(lanes_between(0, k), d, splat(0.0f));
    squares = fma(inside, inside, squares);
  });
  const float variance = reduce_add(squares) / static_cast<float>(n);
  const Vec inverse = splat(1.0f / __builtin_sqrtf(variance + eps));
  for_lanes(n, [&](int i, int k) {
    const Vec v = (load_upto(x + i, k) - mean) * inverse;
    const Vec shift = bias ? load_upto(bias + i, k) : splat(0.0f);
    store_upto(out + i, fma(v, load_upto(weight + i, k), shift), k);
  });
}

void rope(float* x, const float* cosines, const float* sines, int half) {
  for_lanes(half, [&](int i, int k) {
    const Vec a = load_upto(x + i, k), b = load_upto(x + half + i, k);
    const Vec c = load_upto(cosines + i, k), s = load_upto(sines + i, k);
    store_upto(x + i, fma(a, c, negate(b * s)), k);
    store_upto(x + half + i, fma(b, c, a * s), k);
  });
}

STOKER_INLINE Vec silu(Vec x) { return x / (splat(1.0f) + exp(negate(x))); }

// 0.5 x (1 + tanh u) = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x³)
STOKER_INLINE Vec gelu_tanh(Vec x) {
  const Vec u = x * fma(x * x, splat(0.7978845608f * 0.044715f), splat(0.7978845608f));
  return x / (splat(1.0f) + exp(splat(-2.0f) * u));
}

STOKER_INLINE Vec gelu(Vec x) {
  return splat(0.5f) * x * (splat(1.0f) + erf(x * splat(0.70710678f)));
}

// Calls `body` with the function that `activation` names.
template <typename Body>
STOKER_INLINE void with_activation(Activation activation, Body body) {
  switch (activation) {
    case Activation::silu: return body([](Vec x) { return silu(x); });
    case Activation::gelu_tanh: return body([](Vec x) { return gelu_tanh(x); });
    case Activation::gelu: return body([](Vec x) { return gelu(x); });
  }
}

void gate(Activation activation, const float* gates, const float* up, int n, float* out) {
  with_activation(activation, [&](auto act) {
    for_lanes(n, [&](int i, int k) {
      store_upto(out + i, act(load_upto(gates + i, k)) * load_upto(up + i, k), k);
    });
  });
}

void activate(Activation activation, int n, float* x) {
  with_activation(activation, [&](auto act) {
    for_lanes(n, [&](int i, int k) { store_upto(x + i, act(load_upto(x + i, k)), k); });
  });
}

void add(const float* y, int n, float* x) {
  for_lanes(n, [&](int i, int k) {
    store_upto(x + i, load_upto(x + i, k) + load_upto(y + i, k), k);
  });
}

void scale(float factor, int n, float* x) {
  for_lanes(n, [&](int i, int k) {
    store_upto(x + i, load_upto(x + i, k) * splat(factor), k);
  });
}

void softcap(float cap, int n, float* x) {
  for_lanes(n, [&](int i, int k) {
    store_upto(x + i, splat(cap) * tanh(load_upto(x + i, k) / splat(cap)), k);
  });
}

}  // namespace

const Ops ops{
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .rope = rope,
    .gate = gate,
    .activate = activate,
    .add = add,
    .scale = scale,
    .softcap = softcap,
};

}  // namespace stoker::STOKER_ISA
